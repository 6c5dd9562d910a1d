//! DENY rules about metadata of Envoy's filters, which is not there without those filters.

use super::world::World;
use crate::{
    ast::Action,
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let denies = world.policies().filter(|(_, p)| p.action == Action::Deny);
    for (number, policy) in denies {
        for field in world.fields(number) {
            if field.negative || !field.name.starts_with("experimental.envoy.filters.") {
                continue;
            }
            found.push(world.about(
                policy,
                Code::FilterMetadata,
                Severity::Warning,
                field.path(),
                format!(
                    "no such filter runs here, so `{}` has no value and this DENY rule never \
                     matches",
                    field.name
                ),
                "deny by what a connection or request says itself, or keep the workload in the \
                 mesh whose filter sets the value",
            ));
        }
    }
    found
}
