//! What can never match: a value under a field and under its not-field, two conditions on one key
//! without a common value, a principal outside of the namespaces beside it.

use super::{
    fields::{self, Field, Part},
    value::Values,
    world::{World, name, rule_path, rules},
};
use crate::{
    ast::{AuthorizationPolicy, Condition, Rule, Source},
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        let values = world.values(policy);
        for part in world.fields(number).chunk_by(|a, b| a.is_beside(b)) {
            pairs(world, policy, values, part, &mut found);
        }
        for (source, part) in fields::sources(policy) {
            elsewhere(world, policy, source, part, &mut found);
        }
        across(world, policy, values, world.fields(number), &mut found);
        for (i, rule) in rules(policy) {
            repeated_keys(world, policy, rule, i, &mut found);
        }
    }
    found
}

/// Compares each field with its not-field.
fn pairs(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    values: Values<'_>,
    fields: &[Field<'_>],
    found: &mut Vec<Diagnostic>,
) {
    for positive in fields.iter().filter(|f| !f.negative) {
        let negative = fields
            .iter()
            .find(|f| f.negative && same(positive.name, f.name));
        let Some(negative) = negative else { continue };
        let excluded = |value: &String| {
            let wide = negative.values.iter();
            wide.clone()
                .find(|wide| values.cover(positive.name, wide, value))
        };
        let all = positive
            .values
            .iter()
            .all(|value| excluded(value).is_some());
        for (i, value) in positive.values.iter().enumerate() {
            let Some(by) = excluded(value) else { continue };
            let effect = match all {
                true => format!("so this part of `{}` never matches", name(policy)),
                false => "so it never matches".to_owned(),
            };
            found.push(world.about(
                policy,
                Code::Contradiction,
                Severity::Warning,
                positive.path().index(i),
                format!(
                    "`{value}` is excluded by `{by}` in the not-form of the same field, {effect}"
                ),
                "remove the value, or narrow the exclusion",
            ));
        }
    }
}

/// A field of a source or an operation, or a condition, against an exclusion by another condition of
/// the same rule: all of them must hold.
fn across(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    values: Values<'_>,
    fields: &[Field<'_>],
    found: &mut Vec<Diagnostic>,
) {
    let conditions = fields.iter().filter(|f| f.negative && f.name.contains('.'));
    for negative in conditions {
        let against = fields.iter().filter(|f| {
            let same = f.name == negative.name || attribute(f.name) == Some(negative.name);
            !f.negative && same && f.is_in_rule_of(negative) && !f.is_beside(negative)
        });
        for positive in against {
            let excluded = |value: &String| {
                let mut wide = negative.values.iter();
                wide.any(|wide| values.cover(positive.name, wide, value))
            };
            if !positive.values.iter().all(excluded) {
                continue;
            }
            found.push(world.about(
                policy,
                Code::Contradiction,
                Severity::Warning,
                positive.path(),
                format!(
                    "a condition of the same rule excludes every value of `{}` with \
                     `notValues` of `{}`, and both must hold, so this never matches",
                    positive.name, negative.name
                ),
                "remove one of the two, or narrow the exclusion",
            ));
        }
    }
}

/// The attribute that a field asks about.
fn attribute(field: &str) -> Option<&'static str> {
    Some(match field {
        "principals" => "source.principal",
        "namespaces" => "source.namespace",
        "serviceAccounts" => "source.serviceAccount",
        "trustDomains" => "source.trustDomain",
        "ipBlocks" => "source.ip",
        "remoteIpBlocks" => "remote.ip",
        "requestPrincipals" => "request.auth.principal",
        "ports" => "destination.port",
        _ => return None,
    })
}

/// A principal names its namespace; `namespaces` beside it must hold as well.
fn elsewhere(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    source: &Source,
    part: Part<'_>,
    found: &mut Vec<Diagnostic>,
) {
    let (Some(principals), Some(namespaces)) = (&source.principals, &source.namespaces) else {
        return;
    };
    for (i, principal) in principals.iter().enumerate() {
        let segments: Vec<&str> = principal.split('/').collect();
        let [_, "ns", namespace, "sa", _] = segments.as_slice() else {
            continue;
        };
        let may_be = |wanted: &String| wanted.contains('*') || wanted == namespace;
        if namespace.contains('*') || namespaces.iter().any(may_be) {
            continue;
        }
        found.push(world.about(
            policy,
            Code::Contradiction,
            Severity::Warning,
            part.path().key("principals").index(i),
            format!(
                "`{principal}` is in namespace `{namespace}`, which `namespaces` beside it does \
                 not name, so it never matches"
            ),
            "fields of one source must all hold; write a second source if either will do",
        ));
    }
}

/// ISTIO: conditions on one key are not joined; each of them must hold.
fn repeated_keys(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    rule: &Rule,
    number: usize,
    found: &mut Vec<Diagnostic>,
) {
    let compared = world.values(policy);
    let conditions = rule.when.as_deref().unwrap_or_default();
    for (i, second) in conditions.iter().enumerate() {
        let Some(values) = &second.values else {
            continue;
        };
        // Headers and claims may have several values at once.
        if second.key.starts_with("request.") {
            continue;
        }
        let disjoint = |first: &&Condition| {
            let firsts = first.values.iter().flatten();
            let meets = |a: &String| {
                values
                    .iter()
                    .any(|b| compared.cover(&second.key, a, b) || compared.cover(&second.key, b, a))
            };
            let wild = |v: &String| v.contains('*');
            first.key == second.key
                && first.values.is_some()
                && !firsts.clone().chain(values).any(wild)
                && !firsts.clone().any(meets)
        };
        if conditions.iter().take(i).any(|first| disjoint(&first)) {
            found.push(world.about(
                policy,
                Code::Contradiction,
                Severity::Warning,
                rule_path(policy, number).key("when").index(i).key("values"),
                format!(
                    "an earlier condition asks for other values of `{}`, and both must hold, so \
                     the rule never matches",
                    second.key
                ),
                "write all values into one condition",
            ));
        }
    }
}

/// `ports` and `notPorts`; the two lists of a condition have the same name.
fn same(positive: &str, negative: &str) -> bool {
    positive == negative
        || negative
            .strip_prefix("not")
            .is_some_and(|rest| rest.eq_ignore_ascii_case(positive))
}
