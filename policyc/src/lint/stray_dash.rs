//! A dash too many turns an AND into an OR: two rules where one was meant, or two sources.

use super::{
    fields::{self, Field, Part},
    world::{World, rule_path, rules},
};
use crate::{
    ast::{AuthorizationPolicy, Rule},
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
        let sources =
            fields::sources(policy).map(|(s, part)| (fields::source(s, part).collect(), part));
        items(world, policy, sources, may_be_one_source, &mut found);
        let operations = fields::operations(policy)
            .map(|(o, part)| (fields::operation(o, part).collect(), part));
        items(world, policy, operations, |a, b| a != b, &mut found);
    }
    found
}

/// Compares each item of a list with the one above it, where both have one field alone.
fn items<'a>(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    items: impl Iterator<Item = (Vec<Field<'a>>, Part<'a>)>,
    suspect: fn(&str, &str) -> bool,
    found: &mut Vec<Diagnostic>,
) {
    let mut above: Option<(usize, &str)> = None;
    for (fields, part) in items {
        let only = match fields.as_slice() {
            [one] => Some(one.name),
            _ => None,
        };
        if let (Some((rule, a)), Some(b)) = (above, only)
            && rule == part.rule
            && suspect(a, b)
        {
            let mut path = part.path();
            let inner = path.0.pop();
            let inner = match inner {
                Some(Step::Key(key)) => key,
                _ => String::new(),
            };
            let who = match inner.as_str() {
                "source" => "a caller",
                _ => "a request",
            };
            found.push(report(
                world,
                policy,
                path,
                format!(
                    "this is a second {inner}: {who} that matches `{a}` above or `{b}` here \
                     matches, not only one that matches both"
                ),
                format!("if both must hold, write `{b}` in the same {inner} as `{a}`"),
            ));
        }
        above = only.map(|name| (part.rule, name));
    }
}

/// Two identities are often meant as alternatives; an address or a token beside an identity, or an
/// exclusion beside anything, seldom is.
fn may_be_one_source(a: &str, b: &str) -> bool {
    let narrows = |name: &str| {
        name.starts_with("not")
            || matches!(name, "ipBlocks" | "remoteIpBlocks" | "requestPrincipals")
    };
    a != b && (narrows(a) || narrows(b))
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
