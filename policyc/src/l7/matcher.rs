//! One atom and the facts that make it true or false. An attribute that is missing makes every atom
//! about it false; negation is the rules' business.

use std::{borrow::Cow, net::IpAddr};

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{
    request::{self, Connection, HttpRequest},
    template::Template,
};
use crate::{
    headers,
    ir::{Atom, PathPattern, Pattern},
};

/// What is known about the request or connection when a stage is judged.
pub(super) struct Facts<'a> {
    pub connection: Connection<'a>,
    pub http: Option<HttpFacts<'a>>,
}

/// The HTTP part, after normalisation and, past the JWT stage, after what that stage changes.
pub(super) struct HttpFacts<'a> {
    pub request: &'a HttpRequest<'a>,
    /// Which element of X-Forwarded-For, from the right, is the client; 0: none.
    pub forwarded_for: u32,
    pub path: &'a str,
    /// The target as it is forwarded: path and query, without the tokens that are taken out.
    pub target: Cow<'a, str>,
    /// In lower case.
    pub host: Option<Cow<'a, str>>,
    pub claims: Option<&'a Map<String, Value>>,
    /// Claims split on spaces besides `scope` and `permission`.
    pub space_delimited: &'a [String],
    /// Headers that the JWT stage removes, and those it sets.
    pub removed: &'a [String],
    pub added: &'a [(String, String)],
}

impl<'a> Facts<'a> {
    /// Calls `test` with the values of a header or pseudo-header until it says yes.
    pub fn header(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let Some(http) = &self.http else { return false };
        match name {
            ":path" => test(http.target.as_bytes()),
            ":method" => test(http.request.method.as_bytes()),
            ":scheme" => test(b"http"),
            // Envoy knows no Host header: it is the authority.
            ":authority" | "host" => http.request.authority.is_some_and(|a| test(a.as_bytes())),
            _ if headers::is_joined(name) => http.joined(name, test),
            _ => http.lines(name, test),
        }
    }

    /// The client's address: on HTTP what X-Forwarded-For says, as far as it may be believed, else
    /// the TCP peer's. An element that is no address falls back to the peer, as in Envoy.
    pub fn remote(&self) -> Option<IpAddr> {
        let peer = self.connection.peer;
        let Some(http) = &self.http else { return peer };
        let Some(back) = http.forwarded_for.checked_sub(1) else {
            return peer;
        };
        let parse = |e: &[u8]| std::str::from_utf8(e).ok()?.trim().parse().ok();
        let mut client = None;
        request::value(http.request.headers, "x-forwarded-for", &mut |elements| {
            let from_right = elements.rsplit(|b| *b == b',').nth(back as usize);
            client = from_right.and_then(parse);
            false
        });
        client.or(peer)
    }

    /// Values of a claim: the string, or the strings of the list. Claims that are split on spaces
    /// give their parts.
    pub fn claim(&self, path: &[String], test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let Some(http) = &self.http else { return false };
        let Some((first, rest)) = path.split_first() else {
            return false;
        };
        let mut value = http.claims.and_then(|claims| claims.get(first));
        for key in rest {
            value = value.and_then(Value::as_object).and_then(|o| o.get(key));
        }
        let splits = rest.is_empty()
            && (matches!(first.as_str(), "scope" | "permission")
                || http.space_delimited.contains(first));
        match value {
            Some(Value::String(text)) if splits => text.split(' ').any(|p| test(p.as_bytes())),
            Some(Value::String(text)) => test(text.as_bytes()),
            Some(Value::Array(list)) => list
                .iter()
                .filter_map(Value::as_str)
                .any(|text| test(text.as_bytes())),
            _ => false,
        }
    }

    /// A claim that must be a string itself.
    pub fn claim_text(&self, name: &str) -> Option<&'a str> {
        let claims = self.http.as_ref()?.claims?;
        claims.get(name)?.as_str()
    }
}

impl HttpFacts<'_> {
    /// The lines of a header, one after another.
    fn lines(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let mut added = self.added.iter().filter(|(n, _)| n == name);
        added.any(|(_, value)| test(value.as_bytes()))
            || (!self.removed.iter().any(|n| n == name) && self.request.headers.any(name, test))
    }

    /// The one value of a header whose lines are joined.
    fn joined(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let added = self.added.iter().filter(|(n, _)| n == name);
        let added: Vec<&[u8]> = added.map(|(_, value)| value.as_bytes()).collect();
        if !added.is_empty() {
            return test(&headers::join(&added));
        }
        !self.removed.iter().any(|n| n == name) && request::value(self.request.headers, name, test)
    }
}

/// A pattern over bytes. `Any` matches the empty value too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Bytes {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    NotEmpty,
    Any,
}

impl Bytes {
    /// `present` is what the pattern `*` means for the attribute.
    pub fn new(pattern: &Pattern, present: Self) -> Self {
        match pattern {
            Pattern::Exact(s) => Self::Exact(s.as_bytes().into()),
            Pattern::Prefix(s) => Self::Prefix(s.as_bytes().into()),
            Pattern::Suffix(s) => Self::Suffix(s.as_bytes().into()),
            Pattern::Present => present,
        }
    }

    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == &**exact,
            Self::Prefix(prefix) => value.starts_with(prefix),
            Self::Suffix(suffix) => value.ends_with(suffix),
            Self::NotEmpty => !value.is_empty(),
            Self::Any => true,
        }
    }
}

/// An atom, ready to be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Test {
    Method(Bytes),
    /// In lower case.
    Host(Bytes),
    Path(Bytes),
    Template(Template),
    Header {
        name: String,
        value: Bytes,
    },
    RequestPrincipal {
        issuer: Bytes,
        subject: Bytes,
    },
    Claim {
        path: Vec<String>,
        value: Bytes,
    },
    SourceIp(IpNet),
    RemoteIp(IpNet),
    Sni(Bytes),
    Never,
}

impl Test {
    /// `None`: the atom is about source or destination, and has no answer here.
    pub fn new(atom: &Atom) -> Option<Self> {
        // ISTIO: header presence matches an empty value too; everything else wants a character.
        Some(match atom {
            Atom::Method(pattern) => Self::Method(Bytes::new(pattern, Bytes::Any)),
            Atom::Host(pattern) => Self::Host(lower_case(Bytes::new(pattern, Bytes::Any))),
            Atom::Path(PathPattern::Plain(p)) => Self::Path(Bytes::new(p, Bytes::NotEmpty)),
            Atom::Path(PathPattern::Template(t)) => Self::Template(Template::parse(t)),
            Atom::Header { name, value } => Self::Header {
                name: name.to_ascii_lowercase(),
                value: Bytes::new(value, Bytes::Any),
            },
            Atom::RequestPrincipal { issuer, subject } => Self::RequestPrincipal {
                issuer: Bytes::new(issuer, Bytes::NotEmpty),
                subject: Bytes::new(subject, Bytes::NotEmpty),
            },
            Atom::Claim { path, value } => Self::Claim {
                path: path.clone(),
                value: Bytes::new(value, Bytes::NotEmpty),
            },
            Atom::SourceIp(net) => Self::SourceIp(*net),
            Atom::RemoteIp(net) => Self::RemoteIp(*net),
            Atom::Sni(pattern) => Self::Sni(Bytes::new(pattern, Bytes::NotEmpty)),
            Atom::Never => Self::Never,
            Atom::Principal(_)
            | Atom::Namespace(_)
            | Atom::ServiceAccount { .. }
            | Atom::TrustDomain(_)
            | Atom::DestinationIp(_)
            | Atom::DestinationPort(_) => return None,
        })
    }

    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        let http = facts.http.as_ref();
        match self {
            Self::Method(p) => http.is_some_and(|h| p.matches(h.request.method.as_bytes())),
            Self::Host(p) => http
                .and_then(|h| h.host.as_ref())
                .is_some_and(|host| p.matches(host.as_bytes())),
            Self::Path(p) => http.is_some_and(|h| p.matches(h.path.as_bytes())),
            Self::Template(t) => http.is_some_and(|h| t.matches(h.path.as_bytes())),
            Self::Header { name, value } => facts.header(name, &mut |line| value.matches(line)),
            Self::RequestPrincipal { issuer, subject } => {
                let matches = |claim, p: &Bytes| {
                    let text = facts.claim_text(claim);
                    text.is_some_and(|t| p.matches(t.as_bytes()))
                };
                matches("iss", issuer) && matches("sub", subject)
            }
            Self::Claim { path, value } => facts.claim(path, &mut |text| value.matches(text)),
            Self::SourceIp(net) => facts.connection.peer.is_some_and(|ip| net.contains(&ip)),
            Self::RemoteIp(net) => facts.remote().is_some_and(|ip| net.contains(&ip)),
            Self::Sni(p) => {
                let sni = facts.connection.sni;
                sni.is_some_and(|name| p.matches(name.as_bytes()))
            }
            Self::Never => false,
        }
    }
}

fn lower_case(mut bytes: Bytes) -> Bytes {
    if let Bytes::Exact(b) | Bytes::Prefix(b) | Bytes::Suffix(b) = &mut bytes {
        b.make_ascii_lowercase();
    }
    bytes
}

#[cfg(test)]
mod tests;
