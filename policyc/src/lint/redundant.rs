//! Rules that another rule of the same action covers: they change nothing.

use std::collections::BTreeMap;

use super::{
    fields::{self, Field},
    value::covers,
    world::{World, name, rule_path, rules},
};
use crate::{
    ast::{Action, AuthorizationPolicy, Condition, Operation, Rule, Source},
    diagnostic::{Code, Diagnostic, Path, Severity},
};

/// Rules compared with one another within a group of policies that apply alike. Past that, only
/// rules of one policy are compared: the work grows with the square.
const GROUP_MAX: usize = 512;

/// Policies that apply to exactly the same workloads with the same action.
type Group<'a> = (&'a str, Vec<(&'a str, &'a str)>, u8, &'a str, bool);

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut groups: BTreeMap<Group<'_>, Vec<&AuthorizationPolicy>> = BTreeMap::new();
    for (_, policy) in world.policies() {
        if policy.attachment.target_refs.is_empty() {
            groups.entry(group(policy)).or_default().push(policy);
        }
    }
    let mut found = Vec::new();
    for policies in groups.values() {
        let all: Vec<(&AuthorizationPolicy, usize, &Rule)> = policies
            .iter()
            .flat_map(|policy| rules(policy).map(|(i, rule)| (*policy, i, rule)))
            .collect();
        let whole = all.len() <= GROUP_MAX;
        for (at, (policy, i, rule)) in all.iter().enumerate() {
            let covering = all.iter().enumerate().find(|(other, (owner, _, wide))| {
                *other != at
                    && (whole || owner.name == policy.name)
                    && rule_covers(wide, rule)
                    // Of two rules that cover each other the first one stays.
                    && (*other < at || !rule_covers(rule, wide))
            });
            if let Some((_, (owner, number, _))) = covering {
                found.push(report(world, policy, *i, owner, *number));
            }
        }
    }
    found
}

fn group(policy: &AuthorizationPolicy) -> Group<'_> {
    let labels = policy.attachment.selector.iter().flatten();
    let labels = labels.map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let (action, provider) = match &policy.action {
        Action::Allow => (0, ""),
        Action::Deny => (1, ""),
        Action::Audit => (2, ""),
        Action::Custom { provider } => (3, provider.as_str()),
    };
    (&policy.namespace, labels, action, provider, policy.dry_run)
}

fn report(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    rule: usize,
    owner: &AuthorizationPolicy,
    number: usize,
) -> Diagnostic {
    let wide = rule_path(owner, number);
    let place = world.loaded.sources.file_line(owner.document, &wide);
    world.about(
        policy,
        Code::RedundantRule,
        Severity::Warning,
        rule_path(policy, rule),
        format!(
            "rule {number} of `{}` ({place}) matches everything that this rule does",
            name(owner)
        ),
        "remove this rule, or make the other one narrower",
    )
}

/// Whether every request that matches `narrow` matches `wide`.
fn rule_covers(wide: &Rule, narrow: &Rule) -> bool {
    list_covers(&wide.from, &narrow.from, source_covers)
        && list_covers(&wide.to, &narrow.to, operation_covers)
        && wide.when.iter().flatten().all(|wide| {
            let mut narrow = narrow.when.iter().flatten();
            narrow.any(|narrow| condition_covers(wide, narrow))
        })
}

/// No list matches everything; otherwise each of the narrow parts is covered by a wide one.
fn list_covers<T>(
    wide: &Option<Vec<T>>,
    narrow: &Option<Vec<T>>,
    covers: impl Fn(&T, &T) -> bool,
) -> bool {
    match (wide, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => narrow.iter().all(|n| wide.iter().any(|w| covers(w, n))),
    }
}

fn source_covers(wide: &Source, narrow: &Source) -> bool {
    let nowhere = Path::default();
    fields_cover(
        &fields::source(wide, &nowhere),
        &fields::source(narrow, &nowhere),
    )
}

fn operation_covers(wide: &Operation, narrow: &Operation) -> bool {
    let nowhere = Path::default();
    fields_cover(
        &fields::operation(wide, &nowhere),
        &fields::operation(narrow, &nowhere),
    )
}

fn condition_covers(wide: &Condition, narrow: &Condition) -> bool {
    let nowhere = Path::default();
    wide.key == narrow.key
        && fields_cover(
            &fields::condition(wide, &nowhere),
            &fields::condition(narrow, &nowhere),
        )
}

/// Each field of the wide part is in the narrow one, and is stricter there.
fn fields_cover(wide: &[Field<'_>], narrow: &[Field<'_>]) -> bool {
    wide.iter().all(|w| {
        let same = narrow
            .iter()
            .find(|n| n.name == w.name && n.negative == w.negative);
        same.is_some_and(|n| match w.negative {
            false => n
                .values
                .iter()
                .all(|nv| w.values.iter().any(|wv| covers(w.name, wv, nv))),
            // What the wide part excludes the narrow one must exclude as well.
            true => w
                .values
                .iter()
                .all(|wv| n.values.iter().any(|nv| covers(w.name, nv, wv))),
        })
    })
}
