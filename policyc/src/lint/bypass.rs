//! DENY values that a caller walks around: a host without its form with a port, a path that a
//! trailing slash or another case changes.

use super::{fields, value::covers, world::World};
use crate::{
    ast::{Action, AuthorizationPolicy},
    cluster::PathNormalization,
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (_, policy) in world.policies().filter(|(_, p)| p.action == Action::Deny) {
        for (operation, path) in fields::operations(policy) {
            for field in fields::operation(operation, &path) {
                match field.name {
                    "hosts" => hosts(world, policy, &field, &mut found),
                    "paths" => paths(world, policy, &field, &mut found),
                    _ => {}
                }
            }
        }
    }
    found
}

/// Istio compares the whole Host header, and a caller may add the port to it.
fn hosts(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    field: &fields::Field<'_>,
    found: &mut Vec<Diagnostic>,
) {
    for (i, host) in field.values.iter().enumerate() {
        let with_port = format!("{host}:443");
        let covered = field.values.iter().any(|v| covers("hosts", v, &with_port));
        if covered || host.ends_with('*') || host.contains(':') {
            continue;
        }
        found.push(world.about(
            policy,
            Code::HostWithoutPort,
            Severity::Warning,
            field.path.index(i),
            format!(
                "a request with `Host: {}:443` is not denied by `{host}`",
                host.replacen('*', "any", 1)
            ),
            // After a leading star a trailing one would be a literal star.
            match host.starts_with('*') {
                true => format!("add the form with each port in use, such as `\"{host}:443\"`"),
                false => format!("add the form with a port: `\"{host}:*\"`"),
            },
        ));
    }
}

fn paths(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    field: &fields::Field<'_>,
    found: &mut Vec<Diagnostic>,
) {
    for (i, path) in field.values.iter().enumerate() {
        if path.contains('*') || path == "/" {
            continue;
        }
        let slash = format!("{}/", path.trim_end_matches('/'));
        if field.values.iter().any(|v| covers("paths", v, &slash)) {
            continue;
        }
        let double = match world.cluster.mesh.path_normalization {
            PathNormalization::None | PathNormalization::Base => format!(", `/{path}`"),
            PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes => {
                String::new()
            }
        };
        found.push(world.about(
            policy,
            Code::ExactPathDeny,
            Severity::Warning,
            field.path.index(i),
            format!(
                "`{slash}`{double} and `{}` are other paths to this DENY rule, and may be the same \
                 to the server",
                other_case(path)
            ),
            format!(
                "deny the prefix, `\"{path}*\"`, or better list what is allowed in an ALLOW policy"
            ),
        ));
    }
}

/// The path as a caller may write it for a server that ignores case.
fn other_case(path: &str) -> String {
    match path.to_ascii_uppercase() {
        upper if upper == path => path.to_ascii_lowercase(),
        upper => upper,
    }
}
