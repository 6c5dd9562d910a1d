//! DENY rules with HTTP fields whose workloads have ports that do not speak HTTP: there the field is
//! dropped, and the rule denies more than it says.

use std::collections::BTreeSet;

use super::{
    rule::{has_http, may_match_port},
    world::{World, rule_path, rules},
};
use crate::{
    ast::{Action, AuthorizationPolicy, parse::left_on_tcp},
    cluster::Protocol,
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        if policy.action != Action::Deny || !rules(policy).any(|(_, r)| has_http(r)) {
            continue;
        }
        // (port, workload)
        let mut tcp: BTreeSet<(u16, String)> = BTreeSet::new();
        for target in world.targets_of(number) {
            for (port, protocol) in &target.ports {
                if *protocol == Protocol::Tcp {
                    tcp.insert((*port, world.names([target])));
                }
            }
        }
        for (i, rule) in rules(policy).filter(|(_, r)| has_http(r)) {
            let hit = tcp.iter().find(|(port, _)| may_match_port(rule, *port));
            if let Some((port, workload)) = hit {
                found.push(report(world, policy, i, *port, workload, left_on_tcp(rule)));
            }
        }
    }
    found
}

/// ISTIO: "HTTP-only fields are dropped from DENY rules on TCP ports", which widens them.
fn report(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    rule: usize,
    port: u16,
    workload: &str,
    denied: &str,
) -> Diagnostic {
    world.about(
        policy,
        Code::DenyHttpOnTcp,
        Severity::Warning,
        rule_path(policy, rule),
        format!(
            "port {port} of {workload} speaks TCP, where this DENY rule's HTTP fields are dropped: \
             it denies {denied} there"
        ),
        "name the HTTP ports in `ports`, or give the port a name such as `http-web` if it does \
         speak HTTP",
    )
}
