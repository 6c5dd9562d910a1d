//! Rules in words, for people.

use std::fmt;

use super::{Atom, AtomId, Clause, Literal, PathPattern, Pattern, Program};

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(value) => write!(f, "{value}"),
            Self::Prefix(value) => write!(f, "{value}*"),
            Self::Suffix(value) => write!(f, "*{value}"),
            Self::Present => write!(f, "*"),
        }
    }
}

impl Atom {
    /// The field that the question is about, as a policy names it.
    pub fn field(&self) -> String {
        match self {
            Self::Principal(_) => "principal".into(),
            Self::Namespace(_) => "namespace".into(),
            Self::ServiceAccount { .. } => "serviceAccount".into(),
            Self::TrustDomain(_) => "trustDomain".into(),
            Self::SourceIp(_) => "source.ip".into(),
            Self::RemoteIp(_) => "remote.ip".into(),
            Self::DestinationIp(_) => "destination.ip".into(),
            Self::DestinationPort(_) => "port".into(),
            Self::Sni(_) => "connection.sni".into(),
            Self::Host(_) => "host".into(),
            Self::Method(_) => "method".into(),
            Self::Path(_) => "path".into(),
            Self::Header { name, .. } => format!("request.headers[{name}]"),
            Self::RequestPrincipal { .. } => "requestPrincipal".into(),
            Self::Claim { path, .. } => format!("request.auth.claims[{}]", path.join("][")),
            Self::Never => "envoy filter metadata".into(),
        }
    }

    /// The value that is asked for, as a policy writes it.
    pub fn value(&self) -> String {
        match self {
            Self::Principal(p) | Self::TrustDomain(p) | Self::Sni(p) => p.to_string(),
            Self::Host(p) | Self::Method(p) | Self::Path(PathPattern::Plain(p)) => p.to_string(),
            Self::Header { value, .. } | Self::Claim { value, .. } => value.to_string(),
            Self::Namespace(value) | Self::Path(PathPattern::Template(value)) => value.clone(),
            Self::ServiceAccount { namespace, name } => format!("{namespace}/{name}"),
            Self::SourceIp(net) | Self::RemoteIp(net) | Self::DestinationIp(net) => net.to_string(),
            Self::DestinationPort(port) => port.to_string(),
            Self::RequestPrincipal { issuer, subject } => format!("{issuer}/{subject}"),
            Self::Never => "(never there)".into(),
        }
    }
}

/// Values of one list that are spelled out; more are counted.
const SPELLED_OUT: usize = 4;

impl Program {
    /// `principal is a or b, and path is not /x`; alternatives are joined by `; or`.
    pub fn describe(&self, clause: &Clause) -> String {
        let alternatives: Vec<String> = clause
            .any
            .iter()
            .map(|a| {
                let all: Vec<String> = a.all.iter().map(|l| self.describe_literal(l)).collect();
                if all.is_empty() {
                    "anything".into()
                } else {
                    all.join(", and ")
                }
            })
            .collect();
        alternatives.join("; or ")
    }

    fn describe_literal(&self, literal: &Literal) -> String {
        let atom = |id: &AtomId| self.atoms.get(id.index());
        let field = literal
            .any
            .first()
            .and_then(atom)
            .map(Atom::field)
            .unwrap_or_default();
        let mut values: Vec<String> = literal
            .any
            .iter()
            .take(SPELLED_OUT)
            .filter_map(atom)
            .map(Atom::value)
            .collect();
        if literal.any.len() > SPELLED_OUT {
            values.push(format!("{} more", literal.any.len() - SPELLED_OUT));
        }
        let is = if literal.negated { "is not" } else { "is" };
        format!("{field} {is} {}", values.join(" or "))
    }
}
