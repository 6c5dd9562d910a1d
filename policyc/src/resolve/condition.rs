//! The keys of `when`, and the values that need taking apart.

use super::Kind;
use crate::ir::Pattern;

/// What a `when` key asks about; `None` for a key that does not exist or is malformed.
pub(super) fn kind(key: &str) -> Option<Kind> {
    Some(match key {
        "source.ip" => Kind::SourceIp,
        "remote.ip" => Kind::RemoteIp,
        "source.namespace" => Kind::Namespace,
        "source.principal" => Kind::Principal,
        "source.serviceAccount" => Kind::ServiceAccount,
        "source.trustDomain" => Kind::TrustDomain,
        "request.auth.principal" => Kind::RequestPrincipal,
        "request.auth.audiences" => Kind::Claim(vec!["aud".into()]),
        "request.auth.presenter" => Kind::Claim(vec!["azp".into()]),
        "destination.ip" => Kind::DestinationIp,
        "destination.port" => Kind::DestinationPort,
        "connection.sni" => Kind::Sni,
        _ => {
            if let Some(rest) = key.strip_prefix("request.headers") {
                Kind::Header(bracketed(rest)?.to_ascii_lowercase())
            } else if let Some(rest) = key.strip_prefix("request.auth.claims") {
                Kind::Claim(claim_path(rest)?)
            } else if key.starts_with("experimental.envoy.filters.") {
                Kind::Metadata
            } else {
                return None;
            }
        }
    })
}

/// The text between the first `[` and the last `]`.
fn bracketed(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    (!inner.is_empty()).then_some(inner)
}

/// `[a][b][c]` is the path a, b, c. Istio: nesting that is malformed (`[a]b[c]`) falls back to one
/// key, the text between the first `[` and the last `]`.
fn claim_path(text: &str) -> Option<Vec<String>> {
    let whole = bracketed(text)?;
    let keys: Vec<&str> = whole.split("][").collect();
    // A name may be empty, as in `[a][]`; only the whole may not.
    let nested = keys.iter().all(|k| !k.contains(['[', ']']));
    Some(if nested {
        keys.into_iter().map(Into::into).collect()
    } else {
        vec![whole.into()]
    })
}

/// The issuer and subject that a `requestPrincipals` value asks for. The value is split at its last
/// slash; a leading star is looked at before a trailing one, and makes the subject literal.
pub(super) fn request_principal(value: &str) -> (Pattern, Pattern) {
    if value == "*" {
        return (Pattern::Present, Pattern::Present);
    }
    let split = value.rsplit_once('/');
    if let Some(rest) = value.strip_prefix('*') {
        return match split {
            Some((issuer, subject)) => (Pattern::parse(issuer), Pattern::Exact(subject.into())),
            None => (Pattern::Present, Pattern::Suffix(rest.into())),
        };
    }
    if let Some(rest) = value.strip_suffix('*') {
        return match split {
            Some((issuer, subject)) => (Pattern::Exact(issuer.into()), Pattern::parse(subject)),
            None => (Pattern::Prefix(rest.into()), Pattern::Present),
        };
    }
    let (issuer, subject) = split.unwrap_or((value, ""));
    (
        Pattern::Exact(issuer.into()),
        Pattern::Exact(subject.into()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use Pattern::{Exact, Prefix, Present, Suffix};

    #[test]
    fn request_principals_split_at_the_last_slash() {
        let e = |s: &str| Exact(s.into());
        for (value, expected) in [
            ("*", (Present, Present)),
            ("I/S", (e("I"), e("S"))),
            ("https://i/x/S", (e("https://i/x"), e("S"))),
            ("I/*", (e("I"), Present)),
            ("I/S*", (e("I"), Prefix("S".into()))),
            ("*/S", (Present, e("S"))),
            ("*I/S", (Suffix("I".into()), e("S"))),
            ("*S", (Present, Suffix("S".into()))),
            ("I*", (Prefix("I".into()), Present)),
            ("I", (e("I"), e(""))),
            ("*/*", (Present, e("*"))),
            ("*I/S*", (Suffix("I".into()), e("S*"))),
        ] {
            assert_eq!(
                request_principal(value),
                expected,
                "requestPrincipals `{value}`"
            );
        }
    }

    #[test]
    fn claim_keys_nest_and_fall_back_to_one_key() {
        let path = |key| match kind(key) {
            Some(Kind::Claim(path)) => path,
            other => panic!("`{key}` is {other:?}"),
        };
        assert_eq!(path("request.auth.claims[a][b]"), ["a", "b"]);
        assert_eq!(path("request.auth.claims[foo.com/name]"), ["foo.com/name"]);
        assert_eq!(path("request.auth.claims[a]b[c]"), ["a]b[c"]);
        assert_eq!(path("request.auth.claims[a][]"), ["a", ""]);
        assert_eq!(path("request.auth.claims[[a]]"), ["[a]"]);
        assert_eq!(kind("request.headers[]"), None);
        assert_eq!(kind("destination.labels[x]"), None);
        assert_eq!(
            kind("request.headers[X-Foo]"),
            Some(Kind::Header("x-foo".into()))
        );
    }
}
