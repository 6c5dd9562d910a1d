//! Values that a caller walks around: a host without its form with a port, a path that a trailing
//! slash or another case changes. It matters where a match keeps callers out: in a DENY rule, and
//! in an exception of an ALLOW rule.

use super::{fields::Field, value::Values, world::World};
use crate::{
    ast::{Action, AuthorizationPolicy},
    cluster::PathNormalization,
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        let keeps_out = |field: &Field<'_>| match policy.action {
            Action::Deny => !field.negative,
            Action::Allow => field.negative,
            Action::Audit | Action::Custom { .. } => false,
        };
        for field in world.fields(number).iter().filter(|f| keeps_out(f)) {
            let values = world.values(policy);
            match field.name {
                "hosts" | "notHosts" => hosts(world, policy, values, field, &mut found),
                "paths" | "notPaths" => paths(world, policy, values, field, &mut found),
                key if is_header(key, ":authority") || is_header(key, "host") => {
                    hosts(world, policy, values, field, &mut found);
                }
                key if is_header(key, ":path") => paths(world, policy, values, field, &mut found),
                _ => {}
            }
        }
    }
    found
}

/// Whether a condition's key asks for this header.
fn is_header(key: &str, name: &str) -> bool {
    let inner = key.strip_prefix("request.headers[");
    inner.is_some_and(|rest| rest.trim_end_matches(']').eq_ignore_ascii_case(name))
}

/// Istio compares the whole Host header, and a caller may add any port to it.
fn hosts(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    values: Values<'_>,
    field: &Field<'_>,
    found: &mut Vec<Diagnostic>,
) {
    for (i, host) in field.values.iter().enumerate() {
        if host.ends_with('*') || host.contains(':') {
            continue;
        }
        let covered = |form: String| {
            let mut all = field.values.iter();
            all.any(|v| values.cover("hosts", v, &form))
        };
        // After a leading star a trailing one is a literal star, so such hosts can only be listed.
        let some = match host.starts_with('*') {
            true => field
                .values
                .iter()
                .any(|v| v.starts_with(&format!("{host}:"))),
            false => covered(format!("{host}:443")) && covered(format!("{host}:1")),
        };
        if some {
            continue;
        }
        let (kept, denied) = subject(policy, host);
        found.push(world.about(
            policy,
            Code::HostWithoutPort,
            Severity::Warning,
            field.path().index(i),
            format!(
                "a request with `Host: {}:443` is {denied} by {kept}",
                host.replacen('*', "any", 1)
            ),
            match host.starts_with('*') {
                true => format!("add the form with each port in use, such as `\"{host}:443\"`"),
                false => format!("add the form with a port: `\"{host}:*\"`"),
            },
        ));
    }
}

/// The value, and what does not happen to a caller who walks around it.
fn subject(policy: &AuthorizationPolicy, value: &str) -> (String, &'static str) {
    match policy.action {
        Action::Deny => (format!("`{value}`"), "not denied"),
        _ => (format!("the exception of `{value}`"), "not kept out"),
    }
}

fn paths(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    values: Values<'_>,
    field: &Field<'_>,
    found: &mut Vec<Diagnostic>,
) {
    for (i, path) in field.values.iter().enumerate() {
        if path.contains('*') || path == "/" {
            continue;
        }
        let slash = format!("{}/", path.trim_end_matches('/'));
        if field
            .values
            .iter()
            .any(|v| values.cover("paths", v, &slash))
        {
            continue;
        }
        let mut others = vec![format!("`{slash}`")];
        if matches!(
            world.cluster.mesh.path_normalization,
            PathNormalization::None | PathNormalization::Base
        ) {
            others.push(format!("`/{path}`"));
        }
        others.extend(other_case(path).map(|other| format!("`{other}`")));
        let last = others.pop().unwrap_or_default();
        let (listed, verb, noun) = match others.is_empty() {
            true => (last, "is", "another path"),
            false => (
                format!("{} and {last}", others.join(", ")),
                "are",
                "other paths",
            ),
        };
        let rule = match policy.action {
            Action::Deny => "this DENY rule",
            _ => "this exception",
        };
        found.push(world.about(
            policy,
            Code::ExactPathDeny,
            Severity::Warning,
            field.path().index(i),
            format!("{listed} {verb} {noun} to {rule}, and may be the same to the server"),
            format!(
                "write the prefix, `\"{path}*\"`, or better list what is allowed in an ALLOW policy"
            ),
        ));
    }
}

/// The path as a caller may write it for a server that ignores case; none without letters.
fn other_case(path: &str) -> Option<String> {
    let (upper, lower) = (path.to_ascii_uppercase(), path.to_ascii_lowercase());
    [upper, lower].into_iter().find(|other| other != path)
}
