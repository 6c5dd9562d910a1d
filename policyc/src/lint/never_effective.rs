//! ALLOW policies that a catch-all DENY makes useless. Many tutorials believe that an ALLOW is an
//! exception to a DENY; it never is.

use super::world::{World, enforces, is_catch_all, name, rule_path, rules};
use crate::{
    ast::{Action, AuthorizationPolicy},
    diagnostic::{Code, Diagnostic, Severity},
    options::CatchAllDeny,
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    if world.catch_all_deny == CatchAllDeny::DefaultDeny {
        return Vec::new();
    }
    let denies: Vec<_> = world
        .policies()
        .filter(|(_, p)| enforces(p, &Action::Deny) && rules(p).any(|(_, r)| is_catch_all(r)))
        .collect();
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        if !enforces(policy, &Action::Allow) || rules(policy).next().is_none() {
            continue;
        }
        let everywhere = denies
            .iter()
            .find(|(_, deny)| applies_wherever(world, deny, policy));
        let deny = everywhere.or_else(|| {
            // No single DENY is as wide as the policy, but one may still cover all given workloads.
            denies.iter().find(|(deny, _)| {
                let mut targets = world.targets_of(number).peekable();
                targets.peek().is_some() && targets.all(|t| t.policies.contains(deny))
            })
        });
        if let Some((_, deny)) = deny {
            found.push(report(world, policy, deny));
        }
    }
    found
}

/// ISTIO: "If there are any DENY policies that match the request, deny the request."
fn report(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    deny: &AuthorizationPolicy,
) -> Diagnostic {
    let count = rules(policy).count();
    let subject = match count {
        1 => "rule 0 of this ALLOW policy can never take effect".to_owned(),
        _ => format!("none of the {count} rules of this ALLOW policy can ever take effect"),
    };
    let deny_place = world.loaded.sources.file_line(deny.document, &deny.object);
    let deny_name = name(deny);
    world.about(
        policy,
        Code::NeverEffectiveAllow,
        Severity::Warning,
        rule_path(policy, 0),
        format!(
            "{subject}: DENY policy `{deny_name}` ({deny_place}) denies every request to the same \
             workloads, and DENY always wins over ALLOW"
        ),
        format!(
            "to deny by default with exceptions, give `{deny_name}` neither `action` nor `rules`, \
             which makes it an ALLOW policy that allows nothing:\n{}or pass \
             `--catch-all-deny=default-deny`, and it is read as that without a change",
            allow_nothing(deny)
        ),
    )
}

/// The spec of an ALLOW policy that makes the same workloads default-deny.
fn allow_nothing(deny: &AuthorizationPolicy) -> String {
    let labels = deny.attachment.selector.iter().flatten();
    let labels: String = labels.map(|(k, v)| format!("      {k}: {v}\n")).collect();
    match labels.is_empty() {
        true => "spec: {}\n".into(),
        false => format!("spec:\n  selector:\n    matchLabels:\n{labels}"),
    }
}

/// Whether `wide` applies to every workload that `narrow` may ever apply to.
fn applies_wherever(
    world: &World<'_>,
    wide: &AuthorizationPolicy,
    narrow: &AuthorizationPolicy,
) -> bool {
    if !wide.attachment.target_refs.is_empty() || !narrow.attachment.target_refs.is_empty() {
        return wide.namespace == narrow.namespace
            && wide.attachment.target_refs == narrow.attachment.target_refs;
    }
    let root = world.cluster.mesh.root_namespace == wide.namespace;
    let labels = wide.attachment.selector.iter().flatten();
    let narrow_labels = narrow.attachment.selector.as_ref();
    (root || wide.namespace == narrow.namespace)
        && labels
            .into_iter()
            .all(|(k, v)| narrow_labels.is_some_and(|labels| labels.get(k) == Some(v)))
}
