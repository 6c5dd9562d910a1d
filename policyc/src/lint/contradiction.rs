//! A value under a field and under its not-field: it can never match.

use super::{
    fields::{self, Field},
    value::covers,
    world::{World, name},
};
use crate::{
    ast::AuthorizationPolicy,
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (_, policy) in world.policies() {
        for (source, path) in fields::sources(policy) {
            pairs(world, policy, &fields::source(source, &path), &mut found);
        }
        for (operation, path) in fields::operations(policy) {
            pairs(
                world,
                policy,
                &fields::operation(operation, &path),
                &mut found,
            );
        }
        for (condition, path) in fields::conditions(policy) {
            pairs(
                world,
                policy,
                &fields::condition(condition, &path),
                &mut found,
            );
        }
    }
    found
}

/// Compares each field with its not-field.
fn pairs(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
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
            wide.clone().find(|wide| covers(positive.name, wide, value))
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
                positive.path.index(i),
                format!(
                    "`{value}` is excluded by `{by}` in the not-form of the same field, {effect}"
                ),
                "remove the value, or narrow the exclusion",
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
