//! Rules about tokens on workloads where no RequestAuthentication verifies any.

use super::world::World;
use crate::diagnostic::{Code, Diagnostic, Severity};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        let fields = world.fields(number);
        let asks = |name: &str| {
            matches!(name, "requestPrincipals" | "notRequestPrincipals")
                || name.starts_with("request.auth.")
        };
        let Some(field) = fields.iter().find(|f| asks(f.name)) else {
            continue;
        };
        let without: Vec<_> = world.targets_of(number).filter(|t| !t.tokens).collect();
        let nobody = world.cluster.request_authentications.is_empty();
        let subject = match without.is_empty() {
            false => world.names(without),
            // Without workloads it is only certain where there is no RequestAuthentication at all.
            true if nobody => "any workload".to_owned(),
            true => continue,
        };
        let effect = match field.negative {
            true => "so every request matches",
            false => "so no request matches",
        };
        found.push(world.about(
            policy,
            Code::TokensNotVerified,
            Severity::Warning,
            field.path(),
            format!(
                "no RequestAuthentication verifies tokens for {subject}, {effect} `{}`",
                field.name
            ),
            "add a RequestAuthentication with the issuer for the same workloads",
        ));
    }
    found
}
