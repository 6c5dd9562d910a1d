//! A dash too many turns an AND into an OR: two rules where one was meant, or two sources.

use super::world::{World, rule_path, rules};
use crate::{
    ast::{AuthorizationPolicy, Rule, Source},
    diagnostic::{Code, Diagnostic, Path, Severity, Step},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (_, policy) in world.policies() {
        let list: Vec<&Rule> = rules(policy).map(|(_, rule)| rule).collect();
        for (i, pair) in list.windows(2).enumerate() {
            let [first, second] = pair else { continue };
            if let (Some(a), Some(b)) = (only_part(first), only_part(second))
                && a != b
            {
                found.push(report(
                    world,
                    policy,
                    rule_path(policy, i + 1),
                    format!(
                        "this dash begins a second rule: requests that match `{a}` of the rule \
                         above, and requests that match `{b}` here, each match alone"
                    ),
                    format!("if both must hold, remove the dash before `{b}`"),
                ));
            }
        }
        for (i, rule) in list.iter().enumerate() {
            let sources = rule.from.as_deref().unwrap_or_default();
            let list = rule_path(policy, i).key("from");
            for (j, pair) in sources.windows(2).enumerate() {
                let [first, second] = pair else { continue };
                if let (Some(a), Some(b)) = (only_kind(first), only_kind(second))
                    && a != b
                    && (a == "ipBlocks"
                        || b == "ipBlocks"
                        || a.starts_with("not")
                        || b.starts_with("not"))
                {
                    found.push(report(
                        world,
                        policy,
                        list.index(j + 1),
                        format!(
                            "this is a second source: a caller that matches `{a}` above or `{b}` \
                             here matches, not only one that matches both"
                        ),
                        format!("if both must hold, write `{b}` in the same source as `{a}`"),
                    ));
                }
            }
        }
    }
    found
}

fn report(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    path: Path,
    message: String,
    help: String,
) -> Diagnostic {
    debug_assert!(matches!(path.0.last(), Some(Step::Index(_))));
    world.about(
        policy,
        Code::StrayDash,
        Severity::Warning,
        path,
        message,
        help,
    )
}

/// The one part that a rule has, of `from`, `to` and `when`.
fn only_part(rule: &Rule) -> Option<&'static str> {
    match (&rule.from, &rule.to, &rule.when) {
        (Some(_), None, None) => Some("from"),
        (None, Some(_), None) => Some("to"),
        (None, None, Some(_)) => Some("when"),
        _ => None,
    }
}

/// The one field that a source has.
fn only_kind(source: &Source) -> Option<&'static str> {
    let path = Path::default();
    let fields = super::fields::source(source, &path);
    match fields.as_slice() {
        [one] => KINDS.into_iter().find(|kind| *kind == one.name),
        _ => None,
    }
}

const KINDS: [&str; 14] = [
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
    "ipBlocks",
    "notIpBlocks",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
];
