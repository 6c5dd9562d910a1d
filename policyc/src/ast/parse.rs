//! Documents to policies, with every check that Istio's own validation makes: what it rejects is an
//! error here, and what it warns about is a warning.

mod attachment;
mod authorization_policy;
mod request_authentication;
mod rule;
mod schema;
mod uri;
mod value;

pub(crate) use authorization_policy::authorization_policy;
pub(crate) use request_authentication::request_authentication;
pub(crate) use rule::left_on_tcp;
pub use schema::schema;

use crate::{
    cluster::Meta,
    diagnostic::Code,
    read::{
        node::{Node, Reader},
        value::Value,
    },
};

/// Fields of an object's `metadata`.
const METADATA: &[&str] = &[
    "annotations",
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The annotation that makes a policy a rehearsal.
const DRY_RUN: &str = "istio.io/dry-run";

/// Reads what is around `spec`: known fields, name, namespace.
fn envelope(reader: &mut Reader<'_>, object: &Node<'_>, what: &str) -> Option<Meta> {
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    reader.only_keys(object, what, &known);
    if let Some(metadata) = object.get("metadata") {
        reader.only_keys(&metadata, "`metadata`", METADATA);
    }
    let meta = Meta::read(reader, object)?;
    reader.policy = Some(format!("{}/{}", meta.namespace, meta.name));
    if let Some(metadata) = object.get("metadata") {
        check_name(reader, &metadata, &meta);
        check_labels(reader, &metadata);
    }
    Some(meta)
}

/// Names as the API server takes them: lower case, digits, `-`, and `.` between labels of a name.
fn check_name(reader: &mut Reader<'_>, metadata: &Node<'_>, meta: &Meta) {
    let label = |text: &str| {
        let ends =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        ends(text.chars().next())
            && ends(text.chars().next_back())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if let Some(node) = metadata.get("name")
        && !(meta.name.len() <= 253 && meta.name.split('.').all(label))
    {
        reader.error(
            Code::BadName,
            &node,
            format!("`{}` is not a name that Kubernetes accepts", meta.name),
            "use at most 253 lower-case letters, digits, `-` and `.`, with a letter or digit at both ends",
        );
    }
    if let Some(node) = metadata.get("namespace")
        && !(meta.namespace.len() <= 63 && label(&meta.namespace))
    {
        reader.error(
            Code::BadName,
            &node,
            format!("`{}` is not a namespace that Kubernetes accepts", meta.namespace),
            "use at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends",
        );
    }
}

/// Labels as the API server takes them: `[prefix/]name`, and a value of the same characters.
fn check_labels(reader: &mut Reader<'_>, metadata: &Node<'_>) {
    let Some(labels) = metadata.get("labels") else {
        return;
    };
    let word = |text: &str| {
        let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        text.len() <= 63
            && end(text.chars().next())
            && end(text.chars().next_back())
            && text.bytes().all(inner)
    };
    for (key, child) in labels.entries() {
        let name = key
            .text
            .split_once('/')
            .map_or(key.text.as_str(), |(_, name)| name);
        let value = child.value.as_str().unwrap_or("");
        if !word(name) || !(value.is_empty() || word(value)) {
            reader.error(
                Code::BadName,
                &child,
                format!("`{}: {value}` is not a label that Kubernetes accepts", key.text),
                "use at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
            );
        }
    }
}

/// ISTIO: the annotation is for AuthorizationPolicy alone.
pub(crate) fn no_dry_run(
    reader: &mut Reader<'_>,
    object: &Node<'_>,
    annotations: &std::collections::BTreeMap<String, String>,
    what: &str,
) {
    if !annotations.contains_key(DRY_RUN) {
        return;
    }
    let metadata = object.get("metadata");
    let annotations = metadata.as_ref().and_then(|m| m.get("annotations"));
    let at = annotations.as_ref().and_then(|a| a.get(DRY_RUN));
    reader.error(
        Code::DryRun,
        at.as_ref().unwrap_or(object),
        format!("{what} has no `{DRY_RUN}`"),
        "remove the annotation",
    );
}

/// An item of a list, unless it is null, which is an error of its own.
fn not_null(reader: &mut Reader<'_>, item: &Node<'_>) -> bool {
    let null = *item.value == Value::Null;
    if null {
        let name = item.name();
        reader.error(
            Code::EmptyRulePart,
            item,
            format!("an item of `{name}` is empty"),
            "give the item a value, or remove the dash",
        );
    }
    !null
}
