//! Ports that the workloads do not have, Service ports in place of the pods', and ports that an
//! ALLOW policy closes without naming them.

use std::collections::BTreeSet;

use super::{
    rule::may_allow,
    world::{Target, World, enforces, rules},
};
use crate::{
    ast::{Action, AuthorizationPolicy},
    cluster::Protocol,
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let closed: Vec<Vec<u16>> = world.targets.iter().map(|t| closed(world, t)).collect();
    for (number, policy) in world.policies() {
        named_ports(world, number, policy, &mut found);
        closed_ports(world, number, policy, &closed, &mut found);
    }
    found
}

/// The declared ports of a target that no ALLOW rule can let anybody in on.
fn closed(world: &World<'_>, target: &Target<'_>) -> Vec<u16> {
    let allows = world
        .policies_of(target)
        .filter(|p| enforces(p, &Action::Allow));
    let rules: Vec<_> = allows.flat_map(|p| p.rules.iter().flatten()).collect();
    let open = |(port, protocol): &(u16, Protocol)| {
        rules.iter().any(|rule| may_allow(rule, *port, *protocol))
    };
    let ports = target.ports.iter().filter(|port| !open(port));
    ports.map(|(port, _)| *port).collect()
}

fn named_ports(
    world: &World<'_>,
    number: usize,
    policy: &AuthorizationPolicy,
    found: &mut Vec<Diagnostic>,
) {
    let fields = world.fields(number);
    let mut fields = fields
        .iter()
        .filter(|f| matches!(f.name, "ports" | "notPorts" | "destination.port"))
        .peekable();
    let targets: Vec<_> = world.targets_of(number).collect();
    if fields.peek().is_none() || targets.is_empty() {
        return;
    }
    // A pod that declares no port may listen on any; what others declare still says something.
    let silent = targets.iter().all(|t| t.template.ports.is_empty());
    let own: BTreeSet<u16> = targets.iter().flat_map(|t| declared(world, t)).collect();
    for field in fields {
        for (i, value) in field.values.iter().enumerate() {
            let Ok(port) = value.parse::<u16>() else {
                continue;
            };
            if own.contains(&port) {
                continue;
            }
            let (code, message, help) = match service_port(world, &targets, port) {
                Some((service, target)) => (
                    Code::ServicePort,
                    format!(
                        "`{value}` is a port of Service `{service}`, not of the pods behind it"
                    ),
                    format!("policies see the pods' port: write \"{target}\""),
                ),
                None if silent => continue,
                None => (
                    Code::UndeclaredPort,
                    format!(
                        "no container of {} declares port {port}",
                        world.names(
                            targets
                                .iter()
                                .copied()
                                .filter(|t| !t.template.ports.is_empty())
                        )
                    ),
                    format!("declared are {}", list(&own)),
                ),
            };
            let path = field.path().index(i);
            found.push(world.about(policy, code, Severity::Warning, path, message, help));
        }
    }
}

/// Ports of the containers, and those that Services send to by number.
fn declared(world: &World<'_>, target: &Target<'_>) -> BTreeSet<u16> {
    let containers = target.template.ports.iter().map(|p| p.port);
    let services = world.services_of(target);
    let by_service = services.iter().flat_map(|s| &s.ports);
    let by_service = by_service.filter_map(|p| target.template.target(&p.target));
    containers.chain(by_service).collect()
}

/// The Service whose own port this is, and the pods' port behind it.
fn service_port<'s>(
    world: &World<'s>,
    targets: &[&Target<'_>],
    port: u16,
) -> Option<(&'s str, u16)> {
    targets.iter().find_map(|target| {
        world.services_of(target).into_iter().find_map(|service| {
            let entry = service.ports.iter().find(|p| p.port == port)?;
            let target = target.template.target(&entry.target)?;
            Some((service.name.as_str(), target))
        })
    })
}

/// ISTIO: "If any of the ALLOW policies match the request, allow the request. Deny the request." A
/// policy about one port therefore closes all others.
fn closed_ports(
    world: &World<'_>,
    number: usize,
    policy: &AuthorizationPolicy,
    closed_on: &[Vec<u16>],
    found: &mut Vec<Diagnostic>,
) {
    if !enforces(policy, &Action::Allow) || rules(policy).next().is_none() {
        return;
    }
    let mut closed: BTreeSet<u16> = BTreeSet::new();
    let mut on = Vec::new();
    for target in world.targets_of.get(number).into_iter().flatten() {
        let ports = closed_on.get(*target).into_iter().flatten();
        let before = closed.len();
        closed.extend(ports);
        if closed.len() > before {
            on.extend(world.targets.get(*target));
        }
    }
    if closed.is_empty() {
        return;
    }
    found.push(world.about(
        policy,
        Code::ClosedPort,
        Severity::Warning,
        policy.object.key("spec").key("rules"),
        format!(
            "since an ALLOW policy applies to {}, what no ALLOW rule names is denied: nobody can \
             reach port {}",
            world.names(on),
            list(&closed)
        ),
        "add a rule for the port, or remove it from the pod if nobody should reach it",
    ));
}

fn list(ports: &BTreeSet<u16>) -> String {
    let ports: Vec<String> = ports.iter().take(8).map(u16::to_string).collect();
    ports.join(", ")
}
