//! Probes of the kubelet, which come from the node without an identity, on ports that policies
//! close to such callers.

use super::{
    rule::{has_http, may_allow, may_match_anonymous, may_match_port},
    world::{Target, World, enforces, rules},
};
use crate::{
    ast::{Action, AuthorizationPolicy, Rule},
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        if policy.dry_run || !matches!(policy.action, Action::Allow | Action::Deny) {
            continue;
        }
        let blocked = |target: &&Target<'_>| {
            let mut ports = target.template.probe_ports.iter();
            ports.any(|port| match policy.action {
                Action::Deny => rules(policy).any(|(_, rule)| denies(rule, *port)),
                _ => !lets_in(policy, world, target, *port) && !open(world, target, *port),
            })
        };
        let probed: Vec<_> = world.targets_of(number).filter(blocked).collect();
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

fn lets_in(
    policy: &AuthorizationPolicy,
    world: &World<'_>,
    target: &Target<'_>,
    port: u16,
) -> bool {
    let protocol = world.protocol(target, port);
    rules(policy).any(|(_, rule)| may_match_anonymous(rule) && may_allow(rule, port, protocol))
}

/// Another ALLOW policy lets everyone in, so that this one closes nothing.
fn open(world: &World<'_>, target: &Target<'_>, port: u16) -> bool {
    let mut allows = world
        .policies_of(target)
        .filter(|p| enforces(p, &Action::Allow));
    allows.any(|policy| lets_in(policy, world, target, port))
}
