//! Policies in the root namespace, which apply to the whole mesh.

use std::collections::BTreeSet;

use super::world::World;
use crate::diagnostic::{Code, Diagnostic, Severity};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let root = world.cluster.mesh.root_namespace.as_str();
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        if policy.namespace != root || !policy.attachment.target_refs.is_empty() {
            continue;
        }
        let namespaces: BTreeSet<&str> = world.targets_of(number).map(|t| t.namespace).collect();
        let elsewhere: Vec<&str> = namespaces.iter().copied().filter(|n| *n != root).collect();
        let (severity, message, help) = match elsewhere.as_slice() {
            [] => continue,
            [only] if !namespaces.contains(root) => (
                Severity::Warning,
                format!(
                    "a policy in the root namespace `{root}` applies to every namespace, and all \
                     workloads that this one selects are in `{only}`"
                ),
                format!("if only those are meant, write `namespace: {only}`"),
            ),
            several => (
                Severity::Note,
                format!(
                    "`{root}` is the root namespace, so this policy applies to workloads of {} \
                     other namespaces",
                    several.len()
                ),
                "move it if only one namespace is meant".to_owned(),
            ),
        };
        let path = policy.object.key("metadata").key("namespace");
        found.push(world.about(policy, Code::RootNamespace, severity, path, message, help));
    }
    found
}
