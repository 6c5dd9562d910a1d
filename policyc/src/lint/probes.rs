//! Probes of the kubelet, which come from the node without an identity, on ports that policies
//! close to such callers.

use super::world::{World, enforces, is_catch_all, rules};
use crate::{
    ast::Action,
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        let closes = match &policy.action {
            Action::Allow => !rules(policy).any(|(_, r)| r.from.is_none()),
            Action::Deny => rules(policy).any(|(_, r)| is_catch_all(r)),
            Action::Audit | Action::Custom { .. } => false,
        };
        if policy.dry_run || !closes {
            continue;
        }
        let probed: Vec<_> = world
            .targets_of(number)
            .filter(|t| !t.template.probe_ports.is_empty())
            .filter(|t| policy.action == Action::Deny || !open_to_all(world, t.policies.iter()))
            .collect();
        if probed.is_empty() {
            continue;
        }
        let path = policy.object.key("metadata").key("name");
        found.push(world.about(
            policy,
            Code::ProbesBlocked,
            Severity::Note,
            path,
            format!(
                "the kubelet probes {}, and this policy does not let callers without an identity in",
                world.names(probed)
            ),
            "nothing to do as long as the agent runs with `--host=probes`, its default, which \
             passes probes of the own node; with `--host=enforce` allow the node's addresses",
        ));
    }
    found
}

/// Another ALLOW policy lets everyone in, so that this one closes nothing.
fn open_to_all<'p>(world: &World<'_>, policies: impl Iterator<Item = &'p usize>) -> bool {
    let mut policies = policies.filter_map(|p| world.cluster.policies.get(*p));
    policies.any(|p| enforces(p, &Action::Allow) && rules(p).any(|(_, r)| r.from.is_none()))
}
