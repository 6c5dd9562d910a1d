//! Documents to policies, with every check that Istio's own validation makes: what it rejects is an
//! error here, and what it warns about is a warning.

mod attachment;
mod authorization_policy;
mod request_authentication;
mod rule;
mod value;

pub(crate) use authorization_policy::authorization_policy;
pub(crate) use request_authentication::request_authentication;

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
