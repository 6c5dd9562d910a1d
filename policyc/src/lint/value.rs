//! When one value of a field covers another: everything that matches the second matches the first.

use std::{borrow::Cow, net::IpAddr};

use ipnet::IpNet;

use crate::{cluster::Mesh, ir::Pattern};

/// How values are compared: what they mean depends on the mesh and on the policy's namespace.
#[derive(Clone, Copy)]
pub struct Values<'w> {
    pub mesh: &'w Mesh,
    pub namespace: &'w str,
}

impl Values<'_> {
    /// Whether `wide` matches all that `narrow` does. It may say no where it cannot tell.
    pub fn cover(&self, field: &str, wide: &str, narrow: &str) -> bool {
        let field = base(field);
        covers(field, &self.whole(field, wide), &self.whole(field, narrow))
    }

    /// The value with what it leaves out: a service account's namespace, and the one trust domain
    /// of the mesh in place of its other names.
    fn whole<'v>(&self, field: &str, value: &'v str) -> Cow<'v, str> {
        let own = |domain: &str| {
            domain == self.mesh.trust_domain
                || self.mesh.trust_domain_aliases.iter().any(|a| a == domain)
        };
        match field {
            "serviceaccounts" if !value.contains('/') => {
                format!("{}/{value}", self.namespace).into()
            }
            "trustdomains" if own(value) => self.mesh.trust_domain.clone().into(),
            "principals" => match value.split_once('/') {
                Some((domain, rest))
                    if rest.matches('/').count() == 3
                        && (own(domain) || domain == "cluster.local") =>
                {
                    format!("{}/{rest}", self.mesh.trust_domain).into()
                }
                _ => value.into(),
            },
            _ => value.into(),
        }
    }
}

/// Values of one kind of field, as [`base`] names it.
fn covers(kind: &str, wide: &str, narrow: &str) -> bool {
    match kind {
        "ipblocks" => block(wide)
            .zip(block(narrow))
            .is_some_and(|(wide, narrow)| wide.contains(&narrow)),
        "ports" => {
            let number = |text: &str| text.parse::<u16>().ok();
            number(wide).is_some() && number(wide) == number(narrow)
        }
        // Only what is written alike is known to be alike.
        "serviceaccounts" => wide == narrow,
        "hosts" => text_covers(&wide.to_ascii_lowercase(), &narrow.to_ascii_lowercase()),
        "requestprincipals" => request_principal_covers(wide, narrow),
        "paths" if wide.contains("{*") || narrow.contains("{*") => {
            wide == narrow || wide == "*" || literal_prefix_covers(wide, narrow)
        }
        _ => text_covers(wide, narrow),
    }
}

/// The kind of values that a field or a condition's key has.
fn base(field: &str) -> &'static str {
    match field {
        "ipBlocks" | "notIpBlocks" | "remoteIpBlocks" | "notRemoteIpBlocks" | "source.ip"
        | "remote.ip" | "destination.ip" => "ipblocks",
        "ports" | "notPorts" | "destination.port" => "ports",
        "serviceAccounts" | "notServiceAccounts" | "source.serviceAccount" => "serviceaccounts",
        "hosts" | "notHosts" => "hosts",
        "paths" | "notPaths" => "paths",
        "principals" | "notPrincipals" | "source.principal" => "principals",
        "trustDomains" | "notTrustDomains" | "source.trustDomain" => "trustdomains",
        "requestPrincipals" | "notRequestPrincipals" | "request.auth.principal" => {
            "requestprincipals"
        }
        _ => "",
    }
}

/// ISTIO: issuer and subject are compared apart; the value is split at its last slash.
fn request_principal_covers(wide: &str, narrow: &str) -> bool {
    let halves = |value: &str| -> (Pattern, Pattern) {
        let exact = |text: &str| Pattern::Exact(text.into());
        let split = value.rsplit_once('/');
        match (value, split) {
            ("*", _) => (Pattern::Present, Pattern::Present),
            // A leading star is looked at first, and makes the subject literal.
            (_, Some((issuer, subject))) if value.starts_with('*') => {
                (Pattern::parse(issuer), exact(subject))
            }
            (_, None) if value.starts_with('*') => (Pattern::Present, Pattern::parse(value)),
            (_, Some((issuer, subject))) => match value.ends_with('*') {
                true => (exact(issuer), Pattern::parse(subject)),
                false => (exact(issuer), exact(subject)),
            },
            (_, None) if value.ends_with('*') => (Pattern::parse(value), Pattern::Present),
            (_, None) => (exact(value), exact("")),
        }
    };
    let (wide, narrow) = (halves(wide), halves(narrow));
    pattern_covers(&wide.0, &narrow.0) && pattern_covers(&wide.1, &narrow.1)
}

fn pattern_covers(wide: &Pattern, narrow: &Pattern) -> bool {
    match (wide, narrow) {
        (wide, narrow) if wide == narrow => true,
        // Present means that there is some text.
        (Pattern::Present, Pattern::Exact(text)) => !text.is_empty(),
        (Pattern::Present, _) => true,
        (Pattern::Prefix(wide), Pattern::Exact(text) | Pattern::Prefix(text)) => {
            text.starts_with(wide.as_str())
        }
        (Pattern::Suffix(wide), Pattern::Exact(text) | Pattern::Suffix(text)) => {
            text.ends_with(wide.as_str())
        }
        _ => false,
    }
}

/// An address is a block of one.
pub fn block(text: &str) -> Option<IpNet> {
    let one = text.parse::<IpAddr>().ok().map(IpNet::from);
    one.or_else(|| text.parse::<IpNet>().ok().map(|net| net.trunc()))
}

/// Exact, `x*`, `*x` and `*`. A leading star is looked at first, as Istio does.
fn text_covers(wide: &str, narrow: &str) -> bool {
    if wide == narrow || wide == "*" {
        return true;
    }
    let exact = !narrow.starts_with('*') && !narrow.ends_with('*');
    if let Some(suffix) = wide.strip_prefix('*') {
        let narrow_suffix = narrow.strip_prefix('*');
        return match narrow_suffix {
            Some(narrow) => narrow.ends_with(suffix),
            None => exact && narrow.ends_with(suffix),
        };
    }
    if let Some(prefix) = wide.strip_suffix('*') {
        let narrow = match narrow.starts_with('*') {
            true => return false,
            false => narrow.strip_suffix('*').unwrap_or(narrow),
        };
        return narrow.starts_with(prefix);
    }
    false
}

/// `/a/*` covers `/a/{*}/b`: the template's text before its first variable begins with the prefix.
fn literal_prefix_covers(wide: &str, narrow: &str) -> bool {
    let Some(prefix) = wide.strip_suffix('*').filter(|p| !p.contains("{*")) else {
        return false;
    };
    !wide.starts_with('*') && narrow.split("{*").next().unwrap_or("").starts_with(prefix)
}

#[cfg(test)]
mod tests {
    use super::Values;
    use crate::cluster::Mesh;

    fn covers(field: &str, wide: &str, narrow: &str) -> bool {
        let mesh = Mesh {
            trust_domain: "td".into(),
            trust_domain_aliases: vec!["old".into()],
            ..Mesh::default()
        };
        let values = Values {
            mesh: &mesh,
            namespace: "shop",
        };
        values.cover(field, wide, narrow)
    }

    #[test]
    fn wider_values_cover_narrower_ones() {
        for (field, wide, narrow) in [
            ("principals", "*", "a"),
            ("principals", "a*", "ab*"),
            ("principals", "*b", "*ab"),
            ("notPrincipals", "a", "a"),
            ("principals", "old/ns/a/sa/b", "cluster.local/ns/a/sa/b"),
            ("trustDomains", "old", "td"),
            ("hosts", "*.Example", "a.example"),
            ("ipBlocks", "10.0.0.0/8", "10.1.0.0/16"),
            ("ports", "080", "80"),
            ("paths", "/a/*", "/a/{*}/b"),
            ("source.ip", "10.0.0.1/24", "10.0.0.77"),
            ("serviceAccounts", "web", "shop/web"),
            ("requestPrincipals", "https://i/*", "https://i/s"),
            ("requestPrincipals", "*", "i/s*"),
            ("request.auth.principal", "*/s", "i/s"),
        ] {
            assert!(
                covers(field, wide, narrow),
                "{field}: {wide} covers {narrow}"
            );
        }
        for (field, wide, narrow) in [
            ("principals", "a", "a*"),
            ("principals", "ab*", "a*"),
            ("principals", "*b", "b*"),
            ("principals", "*.a", "A.A"),
            ("principals", "td/ns/a/sa/b", "other/ns/a/sa/b"),
            ("paths", "/a/{*}", "/a/b"),
            ("ipBlocks", "10.1.0.0/16", "10.0.0.0/8"),
            ("ipBlocks", "::/0", "10.0.0.0/8"),
            ("serviceAccounts", "a*", "ab"),
            ("serviceAccounts", "web", "bank/web"),
            ("requestPrincipals", "https://i*", "https://i/x/s"),
            ("requestPrincipals", "https://*", "https://issuer/s"),
            ("requestPrincipals", "*", "i"),
        ] {
            assert!(
                !covers(field, wide, narrow),
                "{field}: {wide} does not cover {narrow}"
            );
        }
    }
}
