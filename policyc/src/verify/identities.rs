//! Whom to ask as: everybody in the inventory, and for every identity that a policy names the
//! identity itself and its nearest neighbours, so that `web` and `web*` are told apart though no
//! pod runs as `web2`.

use std::collections::BTreeSet;

use crate::{
    cluster::Cluster,
    ir::{Atom, Pattern, Program},
    link::Identity,
};

/// All of them, without repetition.
pub(super) fn all(world: &Cluster, programs: &[&Program]) -> Vec<Identity> {
    let own = &world.mesh.trust_domain;
    let mut found = BTreeSet::new();
    for (namespace, account) in &world.service_accounts {
        found.insert(identity(own, namespace, account));
    }
    for pod in &world.pods {
        found.insert(identity(own, &pod.namespace, &pod.template.service_account));
    }
    for atom in programs.iter().flat_map(|program| &program.atoms) {
        for named in named(own, atom) {
            found.extend(neighbours(&named));
            found.insert(named);
        }
    }
    found.into_iter().collect()
}

fn identity(trust_domain: &str, namespace: &str, service_account: &str) -> Identity {
    Identity {
        trust_domain: trust_domain.into(),
        namespace: namespace.into(),
        service_account: service_account.into(),
    }
}

/// Identities that an atom is meant for.
fn named(own: &str, atom: &Atom) -> Vec<Identity> {
    match atom {
        Atom::Principal(pattern) => principals(own, pattern),
        Atom::Namespace(pattern) => {
            vec![
                identity(own, &pattern.replace('*', ""), "default"),
                identity(own, &pattern.replace('*', "x"), "default"),
            ]
        }
        Atom::ServiceAccount { namespace, name } => vec![identity(own, namespace, name)],
        Atom::TrustDomain(pattern) => text(pattern)
            .into_iter()
            .map(|domain| identity(&domain, "default", "default"))
            .collect(),
        _ => Vec::new(),
    }
}

/// A principal is `<trust domain>/ns/<namespace>/sa/<service account>`; whatever part of one a
/// pattern gives is completed.
fn principals(own: &str, pattern: &Pattern) -> Vec<Identity> {
    let whole = |text: &str| -> Option<Identity> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [domain, "ns", namespace, "sa", account] => Some(identity(domain, namespace, account)),
            _ => None,
        }
    };
    let completed: Vec<String> = match pattern {
        Pattern::Exact(value) => vec![value.clone()],
        Pattern::Prefix(value) => [
            "",
            "x",
            "/sa/x",
            "/x/sa/x",
            "/ns/x/sa/x",
            "ns/x/sa/x",
            "sa/x",
        ]
        .iter()
        .map(|rest| format!("{value}{rest}"))
        .collect(),
        Pattern::Suffix(value) => ["", "x", "/ns/x/sa/", "/ns/x", "/ns/", "/"]
            .iter()
            .flat_map(|rest| {
                [
                    format!("{own}{rest}{value}"),
                    format!("{own}{rest}x{value}"),
                ]
            })
            .collect(),
        Pattern::Present => Vec::new(),
    };
    completed.iter().filter_map(|text| whole(text)).collect()
}

fn text(pattern: &Pattern) -> Vec<String> {
    match pattern {
        Pattern::Exact(value) => vec![value.clone()],
        Pattern::Prefix(value) => vec![value.clone(), format!("{value}x")],
        Pattern::Suffix(value) => vec![value.clone(), format!("x{value}")],
        Pattern::Present => vec!["x".into()],
    }
}

/// Identities that differ in one part, by one character at either end.
fn neighbours(of: &Identity) -> Vec<Identity> {
    let mut found = Vec::new();
    for change in [
        |part: &str| format!("{part}x"),
        |part: &str| format!("x{part}"),
    ] {
        found.push(Identity {
            trust_domain: change(&of.trust_domain),
            ..of.clone()
        });
        found.push(Identity {
            namespace: change(&of.namespace),
            ..of.clone()
        });
        found.push(Identity {
            service_account: change(&of.service_account),
            ..of.clone()
        });
    }
    found.retain(|i| {
        ![&i.trust_domain, &i.namespace, &i.service_account]
            .iter()
            .any(|part| part.is_empty() || part.contains('/'))
    });
    found
}
