//! Services that declare different protocols for one port of a pod.

use std::collections::BTreeMap;

use super::world::World;
use crate::{
    cluster::{Protocol, Service},
    diagnostic::{At, Code, Diagnostic},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    // Keyed by the second Service, so that many pods behind the same two give one finding.
    let mut found: BTreeMap<(&str, &str, u16), Diagnostic> = BTreeMap::new();
    for target in world.targets.iter().filter(|t| !t.policies.is_empty()) {
        let mut first: BTreeMap<u16, (&Service, Protocol)> = BTreeMap::new();
        for service in world.services_of(target) {
            for port in &service.ports {
                let Some(number) = target.template.target(&port.target) else {
                    continue;
                };
                let protocol = target
                    .template
                    .protocol(target.namespace, number, &[service]);
                let (other, before) = *first.entry(number).or_insert((service, protocol));
                if before == protocol || other.name == service.name {
                    continue;
                }
                let key = (service.namespace.as_str(), service.name.as_str(), number);
                found.entry(key).or_insert_with(|| {
                    Diagnostic::warning(
                        Code::ProtocolDisagreement,
                        At {
                            document: service.document,
                            path: service.object.key("metadata").key("name"),
                        },
                        format!(
                            "Services `{}` and `{}` declare different protocols for port {number} \
                             of {}, so it counts as undeclared",
                            other.name,
                            service.name,
                            world.names([target])
                        ),
                        "give both ports the same `appProtocol`, or the same prefix of their names",
                    )
                });
            }
        }
    }
    found.into_values().collect()
}
