//! Hits of rules on requests, which the proxy judges: counted by number as they fall, by name when
//! somebody asks or the table changes.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use policyc::{ir::RuleRef, request::Cause};

use super::counters::{HitName, dry_run};
use crate::report::line::cause_name;

/// What a request hit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hit {
    Decided(Cause, Option<RuleRef>),
    Audit(RuleRef),
    DryRun(&'static str, RuleRef),
}

/// Requests by activation and what they hit, since they were taken last.
#[derive(Debug, Default)]
pub struct Requests(Mutex<HashMap<(u32, Hit), u64>>);

impl Requests {
    /// Counts one request.
    pub fn count(&self, epoch: u32, hits: impl IntoIterator<Item = Hit>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for hit in hits {
            *counts.entry((epoch, hit)).or_default() += 1;
        }
    }

    /// Takes all that was counted. `policy` names the policy of a rule, by activation.
    pub fn take(
        &self,
        policy: impl Fn(u32, RuleRef) -> Option<String>,
    ) -> impl Iterator<Item = (HitName, u64)> {
        let counts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        counts.into_iter().map(move |((epoch, hit), count)| {
            let (reason, rule) = match hit {
                Hit::Decided(cause, rule) => (cause_name(&cause), rule),
                Hit::Audit(rule) => ("audit".into(), Some(rule)),
                Hit::DryRun(action, rule) => (dry_run(action), Some(rule)),
            };
            let name = HitName {
                reason,
                policy: rule.and_then(|rule| policy(epoch, rule)),
                rule: rule.map(|rule| rule.rule),
            };
            (name, count)
        })
    }
}
