//! Questions about who asks: principals, namespaces, service accounts, trust domains.

use super::{
    facts::Identity,
    text::{self, Star},
};
use crate::cluster::Mesh;

/// ISTIO: "A list of peer identities derived from the peer certificate. The peer identity is in the
/// format of `<TRUST_DOMAIN>/ns/<NAMESPACE>/sa/<SERVICE_ACCOUNT>`."
pub fn has_principal(mesh: &Mesh, identity: &Identity, pattern: &str) -> bool {
    with_aliases(mesh, pattern)
        .iter()
        .any(|pattern| text::matches(pattern, &identity.principal(), Star::NotEmpty))
}

/// The namespace alone is compared, and `*` is a wildcard wherever it stands. A pattern never
/// reaches beyond the namespace: `*a` means namespaces that end in `a`.
pub fn has_namespace(identity: &Identity, pattern: &str) -> bool {
    text::matches_everywhere(pattern, &identity.namespace)
}

/// `<namespace>/<service account>`, or a service account of the policy's own namespace (not of the
/// workload's: they differ for a policy of the root namespace). No wildcards; any trust domain.
pub fn has_service_account(identity: &Identity, policy_namespace: &str, value: &str) -> bool {
    let (namespace, name) = value.split_once('/').unwrap_or((policy_namespace, value));
    identity.namespace == namespace && identity.service_account == name
}

/// A value that is one of the mesh's own trust domains stands for all of them; a pattern stands for
/// itself, unless an alias is written just so.
pub fn has_trust_domain(mesh: &Mesh, identity: &Identity, pattern: &str) -> bool {
    let has = |pattern| text::matches(pattern, &identity.trust_domain, Star::Present);
    if trust_domains(mesh).any(|own| own == pattern) {
        trust_domains(mesh).any(has)
    } else {
        has(pattern)
    }
}

/// The mesh's trust domain and its aliases.
fn trust_domains(mesh: &Mesh) -> impl Iterator<Item = &str> {
    std::iter::once(&mesh.trust_domain)
        .chain(&mesh.trust_domain_aliases)
        .map(String::as_str)
}

/// The principals that a value stands for: when its trust domain is the mesh's, an alias, or the
/// literal `cluster.local`, the same identity under each of the mesh's trust domains.
fn with_aliases(mesh: &Mesh, pattern: &str) -> Vec<String> {
    let Some((domain, rest)) = trust_domain_of(pattern) else {
        return vec![pattern.into()];
    };
    let is_own = trust_domains(mesh).any(|own| {
        own == domain
            || ends_as(own, domain)
            || ends_as(domain, own)
            || begins_as(own, domain)
            || begins_as(domain, own)
    });
    // `cluster.local` always points to the mesh's own trust domain, whatever that is called.
    if !is_own && domain != "cluster.local" {
        return vec![pattern.into()];
    }
    trust_domains(mesh)
        .map(|own| {
            if ends_as(own, domain) {
                pattern.into()
            } else {
                format!("{own}/{rest}")
            }
        })
        .collect()
}

/// Splits `<trust domain>/ns/<namespace>/sa/<service account>` at the first `/`. A value of another
/// number of segments, or with `*` for its trust domain, speaks of no trust domain.
fn trust_domain_of(pattern: &str) -> Option<(&str, &str)> {
    let (domain, rest) = pattern.split_once('/')?;
    (domain != "*" && rest.split('/').count() == 4).then_some((domain, rest))
}

fn ends_as(text: &str, pattern: &str) -> bool {
    pattern
        .strip_prefix('*')
        .is_some_and(|suffix| text.ends_with(suffix))
}

fn begins_as(text: &str, pattern: &str) -> bool {
    pattern
        .strip_suffix('*')
        .is_some_and(|prefix| text.starts_with(prefix))
}
