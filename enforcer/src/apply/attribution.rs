//! What the cells of a table stand for: policies, rules and causes by name.

use policyc::{
    ir::{Program, RuleRef},
    link::Record,
    lower::cell::Decided,
    request::{Cause, DryRunHit, Hit},
};

/// A record with names instead of numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attribution {
    /// `None` where userspace decides.
    pub cause: Option<Cause>,
    /// `namespace/name`
    pub policy: Option<String>,
    pub rule: Option<u32>,
    pub audit: Vec<Hit>,
    pub dry_run: Vec<DryRunHit>,
}

/// The records of a table, by their numbers.
pub fn attributions(program: &Program, records: &[Record]) -> Vec<Attribution> {
    records
        .iter()
        .map(|record| attribution(program, record))
        .collect()
}

fn attribution(program: &Program, record: &Record) -> Attribution {
    let name = |rule: &RuleRef| {
        program
            .policies
            .get(rule.policy.index())
            .map(|policy| policy.qualified_name())
    };
    let hit = |rule: &RuleRef| {
        name(rule).map(|policy| Hit {
            policy,
            rule: rule.rule,
        })
    };
    Attribution {
        cause: (record.verdict != Decided::Ask).then_some(record.cause),
        policy: record.rule.as_ref().and_then(name),
        rule: record.rule.map(|rule| rule.rule),
        audit: record.audit.iter().flat_map(hit).collect(),
        dry_run: record
            .dry_run
            .iter()
            .flat_map(|rule| {
                hit(rule).map(|hit| DryRunHit {
                    policy: hit.policy,
                    rule: hit.rule,
                    action: action(program, rule).into(),
                })
            })
            .collect(),
    }
}

fn action(program: &Program, rule: &RuleRef) -> &'static str {
    match program.policies.get(rule.policy.index()).map(|p| &p.action) {
        Some(policyc::ir::Action::Allow) => "ALLOW",
        Some(policyc::ir::Action::Audit) => "AUDIT",
        Some(policyc::ir::Action::Custom { .. }) => "CUSTOM",
        Some(policyc::ir::Action::Deny) | None => "DENY",
    }
}
