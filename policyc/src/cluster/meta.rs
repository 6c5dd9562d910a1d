//! The part of `metadata` that every object has.

use std::collections::BTreeMap;

use crate::{
    diagnostic::Code,
    read::node::{Node, Reader},
};

/// Name, namespace, labels and annotations of an object.
pub(crate) struct Meta {
    pub name: String,
    /// `default` when the manifest names none.
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl Meta {
    /// Reads `metadata`. An object without a name is an error.
    pub fn read(reader: &mut Reader<'_>, object: &Node<'_>) -> Option<Self> {
        let Some(metadata) = object.get("metadata") else {
            reader.error(
                Code::MissingField,
                object,
                "the object has no `metadata.name`".into(),
                "give it a name",
            );
            return None;
        };
        reader.map(&metadata)?;
        let name = match metadata.get("name") {
            Some(name) => reader.string(&name)?,
            None => String::new(),
        };
        if name.is_empty() {
            reader.error(
                Code::MissingField,
                &metadata,
                "the object has no `metadata.name`".into(),
                "give it a name; `generateName` names nothing before the API server has seen it",
            );
            return None;
        }
        let namespace = match metadata.get("namespace") {
            Some(namespace) => reader.string(&namespace)?,
            None => String::new(),
        };
        let (labels, annotations) = (
            reader.field(&metadata, "labels", Reader::string_map),
            reader.field(&metadata, "annotations", Reader::string_map),
        );
        Some(Self {
            name,
            namespace: match namespace.is_empty() {
                true => "default".into(),
                false => namespace,
            },
            labels: labels.unwrap_or_default(),
            annotations: annotations.unwrap_or_default(),
        })
    }
}
