//! `when`: a key, and values that it must or must not have.

use super::{
    claims,
    rule::{Answer, Asking, field},
    truth::Truth,
    unjudgeable::Unjudgeable,
};
use crate::ast::Condition;

/// What a condition asks about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Key<'a> {
    Header(&'a str),
    SourceIp,
    RemoteIp,
    SourceNamespace,
    SourcePrincipal,
    SourceServiceAccount,
    SourceTrustDomain,
    RequestPrincipal,
    /// The way to a claim; audiences and presenter are claims too.
    Claim(Vec<&'a str>),
    DestinationIp,
    DestinationPort,
    Sni,
    /// Metadata of an Envoy filter. There is no Envoy, so it is never there.
    EnvoyFilter,
}

impl<'a> Key<'a> {
    /// Reads a key. One that does not exist is an error: to skip its rule, as Istio does, would let
    /// a DENY through.
    pub fn parse(asking: &Asking, key: &'a str) -> Result<Self, Unjudgeable> {
        let parsed = match key {
            "source.ip" => Some(Self::SourceIp),
            "remote.ip" => Some(Self::RemoteIp),
            "source.namespace" => Some(Self::SourceNamespace),
            "source.principal" => Some(Self::SourcePrincipal),
            "source.serviceAccount" => Some(Self::SourceServiceAccount),
            "source.trustDomain" => Some(Self::SourceTrustDomain),
            "request.auth.principal" => Some(Self::RequestPrincipal),
            "request.auth.audiences" => Some(Self::Claim(vec!["aud"])),
            "request.auth.presenter" => Some(Self::Claim(vec!["azp"])),
            "destination.ip" => Some(Self::DestinationIp),
            "destination.port" => Some(Self::DestinationPort),
            "connection.sni" => Some(Self::Sni),
            _ => Self::parse_bracketed(key),
        };
        parsed.ok_or_else(|| Unjudgeable::UnknownKey {
            policy: asking.policy_name(),
            rule: asking.number,
            key: key.into(),
        })
    }

    fn parse_bracketed(key: &'a str) -> Option<Self> {
        if let Some(rest) = key.strip_prefix("request.headers") {
            in_brackets(rest).map(Self::Header)
        } else if let Some(rest) = key.strip_prefix("request.auth.claims") {
            claims::path_in_brackets(rest).map(Self::Claim)
        } else {
            let rest = key.strip_prefix("experimental.envoy.filters.")?;
            in_brackets(&rest[rest.find('[')?..]).map(|_| Self::EnvoyFilter)
        }
    }

    /// Whether the key has a meaning on HTTP only.
    pub fn is_http(&self) -> bool {
        matches!(
            self,
            Self::Header(_) | Self::RequestPrincipal | Self::Claim(_)
        )
    }
}

/// ISTIO: "A list of allowed values for the attribute." and "A list of negative match of values for
/// the attribute." Both hold where both are given.
pub fn holds(asking: &Asking, condition: &Condition) -> Answer {
    let key = Key::parse(asking, &condition.key)?;
    let ask = |value: &str| match &key {
        Key::Header(name) => asking.header(name, value),
        Key::SourceIp => asking.source_ip(value),
        Key::RemoteIp => asking.remote_ip(value),
        Key::SourceNamespace => asking.namespace(value),
        Key::SourcePrincipal => asking.principal(value),
        Key::SourceServiceAccount => asking.service_account(value),
        Key::SourceTrustDomain => asking.trust_domain(value),
        Key::RequestPrincipal => asking.request_principal(value),
        Key::Claim(path) => asking.claim(path, value),
        Key::DestinationIp => asking.destination_ip(value),
        Key::DestinationPort => asking.port(value),
        Key::Sni => asking.sni(value),
        Key::EnvoyFilter => Ok(Truth::No),
    };
    if key.is_http() {
        asking.http_field(&condition.values, &condition.not_values, ask)
    } else {
        field(&condition.values, &condition.not_values, ask)
    }
}

/// The text in `[text]`, when there is any.
fn in_brackets(text: &str) -> Option<&str> {
    text.strip_prefix('[')?
        .strip_suffix(']')
        .filter(|inner| !inner.is_empty())
}
