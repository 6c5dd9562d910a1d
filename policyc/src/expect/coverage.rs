//! Which rules, entries and values of policies some request touches.
//!
//! Each is made a dry-run rule of its own, and the engine that judges in production says which of them
//! a request hits. A rule is touched when it matches, an entry of `from`, `to` or `when` when it
//! holds, a value when the request has it; so does a value of a not-field, which it then excludes.

mod parts;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    ast::{Action, AuthorizationPolicy, Rule},
    cluster::Cluster,
    diagnostic::{At, Path},
    engine,
    options::Options,
    read::Sources,
    request::Request,
    resolve::resolve,
};
use parts::parts;

/// Parts that are asked about at a time: each widens the table.
const AT_ONCE: usize = 2_000;

/// How much of the policies was touched.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Coverage {
    pub rules: Share,
    pub entries: Share,
    pub values: Share,
    pub untouched: Vec<Untouched>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Share {
    pub touched: usize,
    pub all: usize,
}

/// A part of a policy that no request touches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Untouched {
    pub file: String,
    pub line: usize,
    /// `namespace/name`
    pub policy: String,
    /// Counted from 0; none where the policy has no rules.
    pub rule: Option<usize>,
    pub kind: Kind,
    /// Its place within the rule: `from[0].source.principals[1]`; empty for the rule.
    pub part: String,
    /// The value as it is written.
    pub value: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Rule,
    Entry,
    Value,
}

/// A part of a rule, and the rule that matches when it is touched.
pub(super) struct Part {
    pub kind: Kind,
    pub path: Path,
    pub value: Option<String>,
    pub alone: Rule,
}

/// A part of a policy of the cluster.
struct Unit<'a> {
    policy: &'a AuthorizationPolicy,
    rule: Option<usize>,
    part: Part,
}

impl Coverage {
    /// Part of everything that was touched, from 0 to 1.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share for people needs no more than 52 bits"
    )]
    pub fn share(&self) -> f64 {
        let parts = [self.rules, self.entries, self.values];
        let all: usize = parts.iter().map(|part| part.all).sum();
        let touched: usize = parts.iter().map(|part| part.touched).sum();
        match all {
            0 => 1.0,
            all => touched as f64 / all as f64,
        }
    }
}

/// Measures what these requests touch, all of which can be judged.
///
/// # Errors
/// Why it cannot be measured, in words.
pub fn coverage(
    cluster: &Cluster,
    sources: &Sources,
    requests: &[Request],
    options: &Options,
) -> Result<Coverage, String> {
    let units: Vec<Unit<'_>> = cluster.policies.iter().flat_map(units_of).collect();
    let mut coverage = Coverage::default();
    for chunk in units.chunks(AT_ONCE) {
        let touched = touched(cluster, chunk, requests, options)?;
        for (unit, touched) in chunk.iter().zip(touched) {
            let share = match unit.part.kind {
                Kind::Rule => &mut coverage.rules,
                Kind::Entry => &mut coverage.entries,
                Kind::Value => &mut coverage.values,
            };
            share.all += 1;
            share.touched += usize::from(touched);
            if !touched {
                coverage.untouched.push(unit.untouched(sources));
            }
        }
    }
    Ok(coverage)
}

/// The parts of a policy. One without rules is touched by whatever it applies to.
fn units_of(policy: &AuthorizationPolicy) -> Vec<Unit<'_>> {
    let rules = policy.rules.as_deref().unwrap_or_default();
    if rules.is_empty() {
        let part = Part {
            kind: Kind::Rule,
            path: Path::default(),
            value: None,
            alone: Rule::default(),
        };
        let rule = None;
        return vec![Unit { policy, rule, part }];
    }
    let numbered = rules.iter().enumerate();
    numbered
        .flat_map(|(number, rule)| parts(rule).into_iter().map(move |part| (number, part)))
        .map(|(number, part)| Unit {
            policy,
            rule: Some(number),
            part,
        })
        .collect()
}

/// Which of these parts some request touches.
fn touched(
    cluster: &Cluster,
    units: &[Unit<'_>],
    requests: &[Request],
    options: &Options,
) -> Result<Vec<bool>, String> {
    let mut policies: BTreeMap<String, AuthorizationPolicy> = BTreeMap::new();
    let mut numbers: BTreeMap<(String, usize), usize> = BTreeMap::new();
    for (number, unit) in units.iter().enumerate() {
        let (namespace, name) = (&unit.policy.namespace, &unit.policy.name);
        // A rule is dropped or widened on TCP as its action says; a value that is not there to be
        // asked is not touched.
        let action = match (unit.part.kind, &unit.policy.action) {
            (Kind::Rule, Action::Deny | Action::Audit | Action::Custom { .. }) => Action::Deny,
            _ => Action::Allow,
        };
        let word = if action == Action::Deny {
            "deny"
        } else {
            "allow"
        };
        let policy = policies
            .entry(format!("{namespace}/{name}/{word}"))
            .or_insert_with(|| AuthorizationPolicy {
                name: format!("{name}/{word}"),
                dry_run: true,
                action,
                rules: Some(Vec::new()),
                ..unit.policy.clone()
            });
        let rules = policy.rules.get_or_insert_default();
        numbers.insert((format!("{namespace}/{name}/{word}"), rules.len()), number);
        rules.push(unit.part.alone.clone());
    }
    let mut world = cluster.clone();
    world.policies = policies.into_values().collect();
    let nowhere = |_: &At| (String::new(), 0);
    let program = resolve(&world, options.catch_all_deny, &options.jwks, &nowhere)
        .map_err(|why| why.to_string())?;
    let mut touched = vec![false; units.len()];
    for judged in engine::judge(&program, &world, requests, options.now) {
        for hit in judged?.dry_run {
            let number = usize::try_from(hit.rule).unwrap_or(usize::MAX);
            if let Some(number) = numbers.get(&(hit.policy, number))
                && let Some(touched) = touched.get_mut(*number)
            {
                *touched = true;
            }
        }
    }
    Ok(touched)
}

impl Unit<'_> {
    fn untouched(&self, sources: &Sources) -> Untouched {
        let mut path = match self.rule {
            Some(rule) => self.policy.object.key("spec").key("rules").index(rule),
            None => self.policy.object.key("metadata").key("name"),
        };
        path.0.extend(self.part.path.0.iter().cloned());
        let place = sources.place(self.policy.document, &path, false);
        Untouched {
            file: place.as_ref().map_or("", |place| place.file).to_owned(),
            line: place.map_or(0, |place| place.line),
            policy: format!("{}/{}", self.policy.namespace, self.policy.name),
            rule: self.rule,
            kind: self.part.kind,
            part: self.part.path.to_string(),
            value: self.part.value.clone(),
        }
    }
}
