//! Suffixes that match more than their writer thinks of.

use super::world::World;
use crate::{
    ast::Action,
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        for field in world.fields(number) {
            // A wide positive value lets in too many; so does a wide exception of a DENY.
            let opens = match policy.action {
                Action::Allow => !field.negative,
                Action::Deny => field.negative,
                Action::Audit | Action::Custom { .. } => false,
            };
            if !opens {
                continue;
            }
            for (i, value) in field.values.iter().enumerate() {
                if let Some((example, fix)) = example(field.name, value) {
                    found.push(world.about(
                        policy,
                        Code::OverBroadSuffix,
                        Severity::Warning,
                        field.path().index(i),
                        format!("`{value}` also matches `{example}`"),
                        format!("write `\"{fix}\"`, or name the values"),
                    ));
                }
            }
        }
    }
    found
}

/// What else a suffix matches, and the suffix that begins at a border.
fn example(field: &str, value: &str) -> Option<(String, String)> {
    let rest = value.strip_prefix('*')?;
    let starts_inside = rest.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts_inside {
        return None;
    }
    let host = matches!(field, "hosts" | "notHosts" | "connection.sni")
        || field.eq_ignore_ascii_case("request.headers[:authority]")
        || field.eq_ignore_ascii_case("request.headers[host]");
    match field {
        _ if host => Some((format!("evil{rest}"), format!("*.{rest}"))),
        "principals" | "notPrincipals" | "source.principal" if !rest.contains("/ns/") => Some((
            format!("{}/ns/any/sa/evil-{rest}", "cluster.local"),
            format!("*/sa/{rest}"),
        )),
        "namespaces" | "notNamespaces" | "source.namespace" => {
            Some((format!("evil{rest}"), format!("*-{rest}")))
        }
        "trustDomains" | "notTrustDomains" | "source.trustDomain" => {
            Some((format!("evil{rest}"), format!("*.{rest}")))
        }
        // ISTIO: with a slash in it, the star stands for the beginning of the issuer.
        "requestPrincipals" | "notRequestPrincipals" | "request.auth.principal" => {
            match rest.split_once('/') {
                Some(_) => Some((format!("https://evil{rest}"), format!("https://{rest}"))),
                None => Some((format!("any-issuer/evil{rest}"), format!("*/{rest}"))),
            }
        }
        _ => None,
    }
}
