//! Probes of the kubelet, which come from the node without an identity, on ports that policies
//! close to such callers.

use std::collections::BTreeSet;

use super::{
    rule::{has_http, may_allow, may_match_anonymous, may_match_port},
    world::{Target, World, enforces, rules},
};
use crate::{
    ast::{Action, Rule},
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let open: Vec<BTreeSet<u16>> = world.targets.iter().map(|t| open(world, t)).collect();
    for (number, policy) in world.policies() {
        if policy.dry_run || !matches!(policy.action, Action::Allow | Action::Deny) {
            continue;
        }
        let blocked = |number: &&usize| {
            let target = world.targets.get(**number);
            let mut ports = target.into_iter().flat_map(|t| &t.template.probe_ports);
            ports.any(|port| match policy.action {
                Action::Deny => rules(policy).any(|(_, rule)| denies(rule, *port)),
                _ => open.get(**number).is_some_and(|open| !open.contains(port)),
            })
        };
        let probed = world.targets_of.get(number).into_iter().flatten();
        let probed: Vec<_> = probed
            .filter(blocked)
            .filter_map(|number| world.targets.get(*number))
            .collect();
        if probed.is_empty() {
            continue;
        }
        let path = policy.object.key("metadata").key("name");
        let effect = match policy.action {
            Action::Deny => "denies callers without an identity",
            _ => "does not let callers without an identity in",
        };
        found.push(world.about(
            policy,
            Code::ProbesBlocked,
            Severity::Note,
            path,
            format!(
                "the kubelet probes {}, and this policy {effect} there",
                world.names(probed)
            ),
            "nothing to do as long as the agent runs with `--host=probes`, its default, which \
             passes probes of the own node; with `--host=enforce` allow the node's addresses",
        ));
    }
    found
}

/// Whether the DENY rule is sure to match a probe: on a request's own fields nothing is known.
fn denies(rule: &Rule, port: u16) -> bool {
    may_match_anonymous(rule) && may_match_port(rule, port) && !has_http(rule)
}

/// The probed ports that some ALLOW policy lets everyone in on: no other one closes them.
fn open(world: &World<'_>, target: &Target<'_>) -> BTreeSet<u16> {
    let ports = target.template.probe_ports.iter().copied();
    let lets_in = |port: &u16| {
        let protocol = world.protocol(target, *port);
        let mut allows = world
            .policies_of(target)
            .filter(|p| enforces(p, &Action::Allow))
            .flat_map(rules);
        allows.any(|(_, rule)| may_match_anonymous(rule) && may_allow(rule, *port, protocol))
    };
    ports.filter(lets_in).collect()
}
