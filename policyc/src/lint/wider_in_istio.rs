//! Patterns of namespaces that match more under Istio than here. Its sidecars compare the whole
//! identity, `ns/NAMESPACE/sa/ACCOUNT`, and a star crosses the slashes; here a pattern is compared
//! with the namespace alone.

use super::world::World;
use crate::{
    ast::Action,
    diagnostic::{Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (number, policy) in world.policies().filter(|(_, p)| !p.dry_run) {
        for field in world.fields(number) {
            if !matches!(
                field.name,
                "namespaces" | "notNamespaces" | "source.namespace"
            ) {
                continue;
            }
            // Where fewer matches let more through: a DENY, and an exception of an ALLOW.
            let (severity, effect) = match (&policy.action, field.negative) {
                (Action::Deny, false) => (Severity::Error, "denies"),
                (Action::Allow, true) => (Severity::Warning, "keeps out"),
                _ => continue,
            };
            for (i, value) in field.values.iter().enumerate() {
                let Some(namespace) = only_in_istio(value) else {
                    continue;
                };
                found.push(world.about(
                    policy,
                    Code::WiderInIstio,
                    severity,
                    field.path().index(i),
                    format!(
                        "under Istio `{value}` also {effect} callers of namespace `{namespace}`, \
                         and here it does not"
                    ),
                    "name the namespaces; `\"*\"` stands for all of them",
                ));
            }
        }
    }
    found
}

/// A namespace that the pattern matches under Istio, and not here.
fn only_in_istio(pattern: &str) -> Option<String> {
    // Istio's expression may end at the slash behind the namespace or at the one behind `/sa`.
    let by_account = ["/sa", "sa", "a"].into_iter().filter_map(|tail| {
        let base = pattern.strip_suffix(tail)?;
        (tail == "/sa" || base.ends_with('*')).then_some(base)
    });
    let by_slash = pattern.split_once('/').map(|(namespace, _)| namespace);
    by_account
        .chain(by_slash)
        .map(|base| base.replace('*', "zq"))
        .find(|namespace| {
            !namespace.is_empty()
                && !namespace.contains('/')
                && glob(pattern, &format!("{namespace}/sa"))
                && !glob(pattern, namespace)
        })
}

/// Whether the pattern matches the text, a star being any text.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::only_in_istio;

    #[test]
    fn only_patterns_that_reach_into_the_account_differ() {
        for pattern in [
            "*sa", "*a", "*/sa", "shop/sa", "s*a", "*op/sa", "shop/*", "a*/s*",
        ] {
            assert!(only_in_istio(pattern).is_some(), "{pattern} reaches `/sa`");
        }
        for pattern in ["*", "a*", "shop", "*-prod", "a*b", "sa", "a", "*b/sb"] {
            assert_eq!(only_in_istio(pattern), None, "{pattern}");
        }
    }
}
