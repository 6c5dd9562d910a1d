//! AuthorizationPolicy: `spec.action`, the provider, the dry-run annotation, and the list of rules.

use super::{DRY_RUN, attachment::attachment, envelope, not_null, rule::rule};
use crate::{
    ast::{Action, AuthorizationPolicy, Rule},
    cluster::Meta,
    diagnostic::Code,
    read::node::{Node, Reader, nearest},
};

pub(super) const RULES_MAX: usize = 512;

pub(super) const SPEC: &[&str] = &[
    "action",
    "provider",
    "rules",
    "selector",
    "targetRef",
    "targetRefs",
];

pub(super) const PROVIDER: &[&str] = &["name"];

pub(super) const ACTIONS: [&str; 4] = ["ALLOW", "DENY", "AUDIT", "CUSTOM"];

/// Reads one policy. `None` where an error leaves nothing to go on with.
pub(crate) fn authorization_policy(
    reader: &mut Reader<'_>,
    object: &Node<'_>,
) -> Option<AuthorizationPolicy> {
    let meta = envelope(reader, object, "an AuthorizationPolicy")?;
    let mut policy = AuthorizationPolicy {
        document: reader.document,
        object: reader.object.clone(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        dry_run: false,
        attachment: Default::default(),
        action: Action::Allow,
        rules: None,
    };
    let spec = object.get("spec");
    if let Some(spec) = &spec {
        reader.map(spec)?;
        reader.only_keys(spec, "the spec of an AuthorizationPolicy", SPEC);
        policy.attachment = attachment(reader, spec);
        policy.action = action(reader, spec)?;
        policy.rules = rules(reader, spec, &policy.action);
    }
    policy.dry_run = dry_run(reader, object, &meta, &policy.action);
    Some(policy)
}

fn action(reader: &mut Reader<'_>, spec: &Node<'_>) -> Option<Action> {
    let name = match spec.get("action") {
        Some(node) => {
            let name = reader.scalar(&node)?;
            if !ACTIONS.contains(&name.as_str()) {
                let help = match nearest(&name, ACTIONS.into_iter()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("write one of {}", ACTIONS.join(", ")),
                };
                let message = format!("there is no action `{name}`");
                reader.error(Code::UnknownAction, &node, message, help);
                return None;
            }
            name
        }
        // ISTIO: "The action to take if the request is matched with the rules. Default is ALLOW if
        // not specified."
        None => "ALLOW".into(),
    };
    let provider = provider(reader, spec, &name);
    Some(match name.as_str() {
        "DENY" => Action::Deny,
        "AUDIT" => Action::Audit,
        "CUSTOM" => Action::Custom { provider },
        _ => Action::Allow,
    })
}

/// The provider's name, which CUSTOM alone must have.
fn provider(reader: &mut Reader<'_>, spec: &Node<'_>, action: &str) -> String {
    let node = spec.get("provider");
    let mut name = String::new();
    let mut missing = true;
    if let Some(node) = &node {
        // What is written wrongly has been reported as that.
        missing = reader.map(node).is_some()
            && reader.only_keys(node, "`provider`", PROVIDER)
            && node
                .get("name")
                .is_none_or(|n| n.value.as_str() == Some(""));
        name = reader
            .field(node, "name", Reader::string)
            .unwrap_or_default();
    }
    if action == "CUSTOM" && missing {
        reader.error(
            Code::Provider,
            node.as_ref().unwrap_or(spec),
            "a CUSTOM policy needs `provider.name`".into(),
            "name one of the mesh's `extensionProviders`",
        );
    }
    if let Some(node) = &node
        && action != "CUSTOM"
    {
        reader.error(
            Code::Provider,
            node,
            format!("`provider` has no meaning with action {action}"),
            "remove it, or write `action: CUSTOM`",
        );
    }
    name
}

fn rules(reader: &mut Reader<'_>, spec: &Node<'_>, action: &Action) -> Option<Vec<Rule>> {
    let node = spec.get("rules");
    let empty = match &node {
        Some(node) => reader.list(node).is_some() && node.items().len() == 0,
        None => true,
    };
    if empty {
        // ISTIO: "DENY action without `rules` is meaningless as it will never be triggered, add an
        // empty rule `{}` if you want it be triggered for every request"
        let name = match action {
            Action::Deny => "DENY",
            Action::Custom { .. } => "CUSTOM",
            Action::Allow | Action::Audit => return None,
        };
        let at = node.or_else(|| spec.get("action"));
        reader.error(
            Code::NoRules,
            at.as_ref().unwrap_or(spec),
            format!("a {name} policy without rules never takes effect"),
            "add an empty rule to match every request: `rules: [{}]`",
        );
        return None;
    }
    let node = node?;
    if node.items().len() > RULES_MAX {
        reader.error(
            Code::TooMany,
            &node,
            format!("`rules` has more than {RULES_MAX} items"),
            "split the policy: rules of one action are alternatives wherever they are written",
        );
    }
    let mut rules = Vec::new();
    for item in node.items() {
        if not_null(reader, &item) {
            rules.extend(rule(reader, &item, action));
        }
    }
    Some(rules)
}

fn dry_run(reader: &mut Reader<'_>, object: &Node<'_>, meta: &Meta, action: &Action) -> bool {
    let Some(value) = meta.annotations.get(DRY_RUN) else {
        return false;
    };
    let metadata = object.get("metadata");
    let annotations = metadata.as_ref().and_then(|m| m.get("annotations"));
    let node = annotations.as_ref().and_then(|a| a.get(DRY_RUN));
    let at = node.as_ref().unwrap_or(object);
    if !matches!(action, Action::Allow | Action::Deny) {
        reader.error(
            Code::DryRun,
            at,
            format!("`{DRY_RUN}` is only for ALLOW and DENY policies"),
            "remove the annotation",
        );
    }
    match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        _ => {
            reader.error(
                Code::DryRun,
                at,
                format!("`{value}` is neither true nor false"),
                "write \"true\" or \"false\", with the quotes",
            );
            false
        }
    }
}
