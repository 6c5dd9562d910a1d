//! `selector`, `targetRefs` and the older `targetRef`.

use super::not_null;
use crate::{
    ast::{Attachment, TargetRef},
    diagnostic::Code,
    read::{
        node::{Node, Reader, nearest},
        value::Value,
    },
};

pub(super) const TARGET_REFS_MAX: usize = 16;
pub(super) const TARGET_NAME_BYTES_MAX: usize = 253;
pub(super) const LABEL_BYTES_MAX: usize = 63;

/// What a policy may be attached to, as (group, kind).
pub(super) const TARGETS: [(&str, &str); 4] = [
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
];

pub(super) const TARGET_KEYS: &[&str] = &["group", "kind", "name", "namespace"];

pub(super) const SELECTOR: &[&str] = &["matchLabels"];

pub fn attachment(reader: &mut Reader<'_>, spec: &Node<'_>) -> Attachment {
    let mut attachment = Attachment {
        selector: reader.field(spec, "selector", selector),
        ..Attachment::default()
    };
    if let Some(one) = spec.get("targetRef") {
        attachment.target_refs.extend(target_ref(reader, &one));
    }
    if let Some(refs) = spec.get("targetRefs")
        && reader.list(&refs).is_some()
    {
        if refs.items().len() > TARGET_REFS_MAX {
            reader.error(
                Code::TooMany,
                &refs,
                format!("`targetRefs` has more than {TARGET_REFS_MAX} items"),
                "split the policy in two",
            );
        }
        for item in refs.items() {
            if not_null(reader, &item) {
                attachment.target_refs.extend(target_ref(reader, &item));
            }
        }
    }
    only_one(reader, spec);
    attachment
}

/// ISTIO: "only one of targetRefs or workloadSelector can be set"
fn only_one(reader: &mut Reader<'_>, spec: &Node<'_>) {
    let given: Vec<_> = ["selector", "targetRef", "targetRefs"]
        .into_iter()
        .filter_map(|key| spec.get(key))
        .collect();
    if let [first, second, ..] = given.as_slice() {
        let (first, name) = (first.name(), second.name());
        reader.error(
            Code::SelectorAndTarget,
            second,
            format!("`{first}` and `{name}` cannot be set together"),
            match first {
                "selector" => {
                    format!(
                        "keep `selector` to select pods, or `{name}` to attach to other objects"
                    )
                }
                _ => "keep `targetRefs`, which may name several".to_owned(),
            },
        );
    }
}

fn selector(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
) -> Option<std::collections::BTreeMap<String, String>> {
    reader.map(node)?;
    reader.only_keys(node, "`selector`", SELECTOR);
    let labels = match node.get("matchLabels") {
        Some(labels) => {
            let map = reader.string_map(&labels)?;
            for (key, child) in labels.entries() {
                check_label(reader, &key.text, &child);
            }
            map
        }
        None => Default::default(),
    };
    let nothing_written = |node: &Node<'_>| node.entries().next().is_none();
    if nothing_written(node) || node.get("matchLabels").is_some_and(|l| nothing_written(&l)) {
        reader.warning(
            Code::EmptySelector,
            node,
            "the selector has no labels, so it selects every workload in scope".into(),
            "name labels under `matchLabels`, or remove `selector` if all workloads are meant",
        );
    }
    Some(labels)
}

fn check_label(reader: &mut Reader<'_>, key: &str, child: &Node<'_>) {
    if *child.value == Value::Null {
        reader.error(
            Code::SelectorLabel,
            child,
            format!("the label `{key}` of the selector has no value"),
            format!("write its value; `{key}: \"\"` selects an empty one"),
        );
    }
    if child
        .value
        .as_str()
        .is_some_and(|v| v.len() > LABEL_BYTES_MAX)
    {
        reader.error(
            Code::SelectorLabel,
            child,
            format!("the value of `{key}` has more than {LABEL_BYTES_MAX} bytes"),
            "no label of a pod is that long; write the value that the pods have",
        );
    }
    if key.is_empty() {
        reader.error(
            Code::SelectorLabel,
            child,
            "a label of the selector has an empty key".into(),
            "write the label's key",
        );
    }
    // ISTIO: "wildcard is not supported in selector"
    if key.contains('*') || child.value.as_str().is_some_and(|v| v.contains('*')) {
        reader.error(
            Code::SelectorLabel,
            child,
            format!("a selector compares labels exactly, so `*` in `{key}` matches nothing"),
            "name the label's whole value, one policy for each value",
        );
    }
}

fn target_ref(reader: &mut Reader<'_>, node: &Node<'_>) -> Option<TargetRef> {
    reader.map(node)?;
    let whole = reader.only_keys(node, "a target", TARGET_KEYS);
    let mut text = |key: &str| {
        let value = reader.field(node, key, Reader::string);
        value.unwrap_or_default()
    };
    let target = TargetRef {
        group: text("group"),
        kind: text("kind"),
        name: text("name"),
    };
    let namespace = text("namespace");
    let empty = |key: &str| node.get(key).is_none_or(|n| n.value.as_str() == Some(""));
    let missing: Vec<&str> = ["kind", "name"]
        .into_iter()
        .filter(|key| empty(key))
        .collect();
    if !missing.is_empty() {
        if whole {
            reader.error(
                Code::BadTargetRef,
                node,
                format!("the target has no `{}`", missing.join("` and no `")),
                "write kind and name of the object that the policy attaches to",
            );
        }
        return Some(target);
    }
    if target.name.len() > TARGET_NAME_BYTES_MAX {
        let at = node.get("name");
        reader.error(
            Code::BadTargetRef,
            at.as_ref().unwrap_or(node),
            format!("the target's name has more than {TARGET_NAME_BYTES_MAX} bytes"),
            "write the name of the object that the policy attaches to",
        );
    }
    if !namespace.is_empty() {
        // ISTIO: "targetRef namespace must not be set; cross namespace referencing is not supported"
        let at = node.get("namespace");
        reader.error(
            Code::BadTargetRef,
            at.as_ref().unwrap_or(node),
            "a target is always in the policy's own namespace".into(),
            "remove `namespace`",
        );
    }
    check_kind(reader, node, &target);
    Some(target)
}

fn check_kind(reader: &mut Reader<'_>, node: &Node<'_>, target: &TargetRef) {
    let group = match target.group.as_str() {
        "core" => "",
        group => group,
    };
    if !TARGETS.contains(&(group, target.kind.as_str())) {
        let help = match nearest(&target.kind, TARGETS.iter().map(|(_, kind)| *kind)) {
            Some(near) => {
                let group = TARGETS.iter().find(|(_, kind)| *kind == near);
                let group = group.map_or("", |(group, _)| group);
                format!("did you mean kind `{near}` of group `{group}`?")
            }
            None => "a Service, a ServiceEntry, a Gateway or a GatewayClass can be a target".into(),
        };
        let at = node.get("kind");
        reader.error(
            Code::BadTargetRef,
            at.as_ref().unwrap_or(node),
            format!(
                "`{}` of group `{}` cannot be a target",
                target.kind, target.group
            ),
            help,
        );
    }
}
