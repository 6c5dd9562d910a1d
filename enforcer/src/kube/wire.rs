//! What the API server sends: pages of a list, and lines of a watch. Objects stay text until policyc
//! reads them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// A page of a list.
#[derive(Debug, Deserialize)]
pub struct Page<'a> {
    #[serde(borrow)]
    pub metadata: PageMeta<'a>,
    #[serde(borrow)]
    pub items: Option<Vec<&'a RawValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PageMeta<'a> {
    #[serde(borrow)]
    pub resource_version: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "continue")]
    pub further: Option<Cow<'a, str>>,
}

/// A line of a watch.
#[derive(Debug, Deserialize)]
pub struct Line<'a> {
    #[serde(borrow, rename = "type")]
    pub event: Cow<'a, str>,
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// What is to be known of every object.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta<'a> {
    #[serde(borrow)]
    pub name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub namespace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub resource_version: Option<Cow<'a, str>>,
    /// RFC 3339 in UTC, to the second: in the order of texts.
    #[serde(borrow)]
    pub creation_timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub deletion_timestamp: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
struct WithMeta<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
}

/// Why a request was refused, as the server puts it.
#[derive(Debug, Deserialize)]
pub struct Refusal {
    #[serde(default)]
    pub code: u16,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub reason: String,
}

/// What every object says of itself.
pub fn meta(object: &str) -> Result<Meta<'_>, serde_json::Error> {
    serde_json::from_str::<WithMeta<'_>>(object).map(|object| object.metadata)
}

/// The ConfigMap's MeshConfig, if it has one.
pub fn mesh(object: &str) -> Result<Option<String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct ConfigMap {
        #[serde(default)]
        data: Option<Data>,
    }
    #[derive(Deserialize)]
    struct Data {
        mesh: Option<String>,
    }
    let map: ConfigMap = serde_json::from_str(object)?;
    Ok(map.data.and_then(|data| data.mesh))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_order_of_its_keys() {
        for text in [
            r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#,
            r#"{"object":{"metadata":{"name":"a"}},"type":"ADDED"}"#,
        ] {
            let line: Line<'_> = serde_json::from_str(text).expect("a line");
            assert_eq!(line.event, "ADDED");
            let meta = meta(line.object.get()).expect("an object");
            assert_eq!(meta.name.as_deref(), Some("a"));
        }
    }

    #[test]
    fn an_empty_list_may_be_null() {
        let text = r#"{"metadata":{"resourceVersion":"5"},"items":null}"#;
        let page: Page<'_> = serde_json::from_str(text).expect("a page");
        assert!(page.items.is_none());
        assert_eq!(page.metadata.resource_version.as_deref(), Some("5"));
    }
}
