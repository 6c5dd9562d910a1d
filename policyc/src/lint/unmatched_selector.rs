//! Selectors that no given workload has the labels for.

use std::collections::BTreeSet;

use super::world::World;
use crate::{
    ast::AuthorizationPolicy,
    diagnostic::{Code, Diagnostic, Severity},
    read::node::nearest,
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        let Some(selector) = &policy.attachment.selector else {
            continue;
        };
        let root = policy.namespace == world.cluster.mesh.root_namespace;
        let in_scope: Vec<_> = world
            .targets
            .iter()
            .filter(|t| root || t.namespace == policy.namespace)
            .collect();
        // Manifests without workloads of that namespace say nothing about its labels.
        let matched = world.targets_of(number).next().is_some();
        if matched || in_scope.is_empty() || selector.is_empty() {
            continue;
        }
        let written: Vec<String> = selector.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        let scope = match root {
            true => "any namespace".to_owned(),
            false => format!("namespace `{}`", policy.namespace),
        };
        let path = policy.object.key("spec").key("selector").key("matchLabels");
        let path = match selector.len() {
            1 => selector
                .keys()
                .next()
                .map_or(path.clone(), |key| path.key(key)),
            _ => path,
        };
        found.push(world.about(
            policy,
            Code::UnmatchedSelector,
            Severity::Warning,
            path,
            format!(
                "no workload of {scope} has the labels `{}`",
                written.join(", ")
            ),
            help(policy, &in_scope),
        ));
    }
    found
}

fn help(policy: &AuthorizationPolicy, in_scope: &[&super::world::Target<'_>]) -> String {
    let wanted = policy.attachment.selector.iter().flatten();
    for (key, value) in wanted {
        let values: BTreeSet<&str> = in_scope
            .iter()
            .filter_map(|t| t.template.labels.get(key).map(String::as_str))
            .collect();
        if values.contains(value.as_str()) {
            continue;
        }
        if let Some(near) = nearest(value, values.iter().copied()) {
            return format!("did you mean `{key}: {near}`?");
        }
        if values.is_empty() {
            let keys: BTreeSet<&str> = in_scope
                .iter()
                .flat_map(|t| t.template.labels.keys().map(String::as_str))
                .collect();
            if let Some(near) = nearest(key, keys.into_iter()) {
                return format!("no workload has a label `{key}`; did you mean `{near}`?");
            }
        }
    }
    "compare the labels with those of the pods, not of the Deployment itself".into()
}
