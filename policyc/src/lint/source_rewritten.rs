//! Address rules on workloads whose callers come through a NodePort or a load balancer: the node
//! rewrites the source before the pod, and we, see it.

use super::world::World;
use crate::{
    cluster::Service,
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        let fields = world.fields(number);
        let addresses = |name: &str| matches!(name, "ipBlocks" | "notIpBlocks" | "source.ip");
        let Some(field) = fields.iter().find(|f| addresses(f.name)) else {
            continue;
        };
        let mut services = world.targets_of(number).flat_map(|t| world.services_of(t));
        let Some(service) = services.find(|s| rewrites(s)) else {
            continue;
        };
        found.push(world.about(
            policy,
            Code::SourceRewritten,
            Severity::Warning,
            field.path(),
            format!(
                "Service `{}/{}` of type {} replaces the caller's address by a node's, so `{}` \
                 does not see who calls from outside",
                service.namespace, service.name, service.kind, field.name
            ),
            "set `externalTrafficPolicy: Local` on the Service, which keeps the address, or check \
             the caller at the ingress",
        ));
    }
    found
}

fn rewrites(service: &Service) -> bool {
    matches!(service.kind.as_str(), "NodePort" | "LoadBalancer") && !service.external_traffic_local
}
