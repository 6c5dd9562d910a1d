//! Trust-domain aliases: a principal of one trust domain of the mesh stands for all of them.

use crate::cluster::Mesh;

/// The mesh's own trust domain, then its aliases.
fn all(mesh: &Mesh) -> Vec<&str> {
    let mut list = vec![mesh.trust_domain.as_str()];
    for alias in &mesh.trust_domain_aliases {
        if !list.contains(&alias.as_str()) {
            list.push(alias);
        }
    }
    list
}

/// The principals that a value of `principals` or `source.principal` stands for.
///
/// Only values of five segments (`<td>/ns/<ns>/sa/<sa>`) whose trust domain is not exactly `*` are
/// rewritten. If the trust domain is one of the mesh's (or matches one, by a star at either end of
/// either side), or is literally `cluster.local`, the value is replaced by one per trust domain of
/// the mesh; `cluster.local` itself stays only where it is one of them.
pub(super) fn expand_principal(mesh: &Mesh, value: &str) -> Vec<String> {
    let unchanged = || vec![value.to_string()];
    let Some((domain, rest)) = value.split_once('/') else {
        return unchanged();
    };
    if value.split('/').count() != 5 || domain == "*" {
        return unchanged();
    }
    let list = all(mesh);
    if domain != "cluster.local" && !list.iter().any(|member| alike(domain, member)) {
        return unchanged();
    }
    let mut out = Vec::new();
    for member in list {
        // A pattern such as `*foo` already covers the members it ends: it is kept for those.
        let covered = domain
            .strip_prefix('*')
            .is_some_and(|suffix| member.ends_with(suffix));
        let one = if covered {
            value.to_string()
        } else {
            format!("{member}/{rest}")
        };
        if !out.contains(&one) {
            out.push(one);
        }
    }
    out
}

/// The trust domains that a value of `trustDomains` or `source.trustDomain` stands for: the whole
/// list for an exact member, itself for anything else. `cluster.local` is not special here.
pub(super) fn expand(mesh: &Mesh, value: &str) -> Vec<String> {
    let list = all(mesh);
    if list.contains(&value) {
        list.into_iter().map(Into::into).collect()
    } else {
        vec![value.into()]
    }
}

/// Equal, or equal up to a leading or trailing star of either.
fn alike(a: &str, b: &str) -> bool {
    a == b || covers(a, b) || covers(b, a)
}

fn covers(pattern: &str, value: &str) -> bool {
    if let Some(suffix) = pattern.strip_prefix('*') {
        value.ends_with(suffix)
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        value.starts_with(prefix)
    } else {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(domain: &str, aliases: &[&str]) -> Mesh {
        Mesh {
            trust_domain: domain.into(),
            trust_domain_aliases: aliases.iter().map(|a| (*a).into()).collect(),
            ..Mesh::default()
        }
    }

    #[test]
    fn a_member_stands_for_every_member_and_a_stranger_for_itself() {
        let mesh = mesh("td1", &["td2"]);
        assert_eq!(
            expand_principal(&mesh, "td2/ns/a/sa/b"),
            ["td1/ns/a/sa/b", "td2/ns/a/sa/b"]
        );
        assert_eq!(expand_principal(&mesh, "td9/ns/a/sa/b"), ["td9/ns/a/sa/b"]);
        assert_eq!(expand_principal(&mesh, "*"), ["*"], "not five segments");
        assert_eq!(
            expand_principal(&mesh, "*/ns/a/sa/b"),
            ["*/ns/a/sa/b"],
            "any trust domain"
        );
    }

    #[test]
    fn cluster_local_means_the_mesh_and_stays_only_where_it_is_a_member() {
        assert_eq!(
            expand_principal(&mesh("td1", &[]), "cluster.local/ns/a/sa/b"),
            ["td1/ns/a/sa/b"]
        );
        assert_eq!(
            expand_principal(&mesh("td1", &["cluster.local"]), "cluster.local/ns/a/sa/b"),
            ["td1/ns/a/sa/b", "cluster.local/ns/a/sa/b"]
        );
    }

    #[test]
    fn trust_domains_expand_exact_members_only() {
        let mesh = mesh("td1", &["td2"]);
        assert_eq!(expand(&mesh, "td1"), ["td1", "td2"]);
        assert_eq!(expand(&mesh, "td*"), ["td*"]);
        assert_eq!(expand(&mesh, "cluster.local"), ["cluster.local"]);
    }
}
