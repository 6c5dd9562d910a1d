//! Passes over sources that see no change, without looking at all that they see.

use std::collections::BTreeSet;

use super::{
    Comparison,
    places::Group,
    setting::{PortKind, Setting},
    sources,
};
use crate::{
    ir::{Action, Otherwise, PolicyId},
    lower::{
        evaluate::{self, Known, Meaning, Truth},
        scope::{Scope, ScopeKey, Stage},
    },
};

/// Passes over sources that only rules see which both sides have.
pub(super) struct Filter {
    /// Everything but some policies is the same.
    only_policies: bool,
    /// Policies that one side has alone, with their side.
    changed: Vec<(usize, PolicyId)>,
}

impl Filter {
    pub fn new(comparison: &Comparison<'_>, group: &Group, setting: &Setting<'_>) -> Self {
        let all = Self {
            only_policies: false,
            changed: Vec::new(),
        };
        let [Some(old), Some(new)] = &group.keys else {
            return all;
        };
        let (Some(old_scope), Some(new_scope)) = (setting.scope(0, false), setting.scope(1, false))
        else {
            return all;
        };
        let denies = |scope: &Scope<'_>| scope.otherwise != Otherwise::Allow;
        let by_rule = |scope: &Scope<'_>| matches!(scope.otherwise, Otherwise::DefaultDeny(_));
        let alike =
            |(old, new)| match (comparison.meaningful(0, old), comparison.meaningful(1, new)) {
                (Some(old), Some(new)) => old.rest == new.rest,
                _ => false,
            };
        let only_policies = comparison.same_mesh
            && old.iter().zip(new).all(alike)
            && denies(old_scope) == denies(new_scope)
            && by_rule(old_scope) == by_rule(new_scope)
            && old_scope.provider == new_scope.provider
            && old_scope.provider_http_only == new_scope.provider_http_only;
        let content = |side: usize, id: PolicyId| {
            let contents = comparison.contents.get(side);
            contents.and_then(|c| c.get(id.index())).copied()
        };
        let contents = |side: usize, key: &ScopeKey| -> BTreeSet<Option<u32>> {
            key.policies.iter().map(|id| content(side, *id)).collect()
        };
        let both = [contents(0, &old[0]), contents(1, &new[0])];
        let mut changed = Vec::new();
        for (side, key, others) in [(0, &old[0], &both[1]), (1, &new[0], &both[0])] {
            let alone = |id: &&PolicyId| !others.contains(&content(side, **id));
            changed.extend(key.policies.iter().filter(alone).map(|id| (side, *id)));
        }
        Self {
            only_policies,
            changed,
        }
    }

    pub fn may_differ(&self, setting: &Setting<'_>, row: &sources::Row, port: &PortKind) -> bool {
        let [old, new] = &row.sets;
        if !self.only_policies || old != new {
            return true;
        }
        self.changed.iter().any(|(side, id)| {
            let (Some(scope), Some(source), Some(atom)) = (
                setting.scope(*side, row.address.is_ipv6()),
                row.sets.get(*side),
                port.atoms.get(*side),
            ) else {
                return true;
            };
            let Some(policy) = scope.program.policies.get(id.index()) else {
                return true;
            };
            let stage = match (&policy.action, policy.dry_run) {
                (Action::Allow, false) => Stage::Allow,
                (Action::Allow, true) => Stage::DryRunAllow,
                (Action::Deny, false) => Stage::Deny,
                (Action::Deny, true) => Stage::DryRunDeny,
                (Action::Audit, _) => Stage::Audit,
                (Action::Custom { .. }, _) => Stage::Custom,
            };
            [Meaning::Http, Meaning::Tcp].into_iter().any(|meaning| {
                let known = Known {
                    program: scope.program,
                    key: &scope.key,
                    source,
                    port: *atom,
                    meaning,
                };
                let may = |rule| evaluate::rule(&known, stage, rule) != Truth::False;
                policy.rules.iter().any(may)
            })
        })
    }
}
