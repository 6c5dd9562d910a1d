//! Policies as numbers: interned atoms, rules as clauses over them, attachments, and what is left of
//! a rule for userspace to judge. Owns no meaning of its own: `resolve` makes it from the policies,
//! `lower` evaluates it, `l7` evaluates what remains.

mod display;

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{cluster::Mesh, options::CatchAllDeny};

macro_rules! numbers {
    ($( $(#[doc = $doc:literal])+ $name:ident; )+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl $name {
            /// As an index into the vector that the number refers to.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    )+ };
}

numbers! {
    /// Index of an [`Atom`] in [`Program::atoms`].
    AtomId;
    /// Index of a [`Policy`] in [`Program::policies`]; the order is (namespace, name).
    PolicyId;
    /// Index of an [`Authentication`] in [`Program::authentications`].
    AuthenticationId;
}

/// Everything that was compiled, for any inventory: what a bundle holds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Program {
    pub mesh: Mesh,
    pub catch_all_deny: CatchAllDeny,
    pub atoms: Vec<Atom>,
    /// Shared with the program that this one was made from.
    pub policies: Vec<Arc<Policy>>,
    pub authentications: Vec<Authentication>,
    /// Key sets by the `jwksUri` that names them, as JSON text.
    pub key_sets: BTreeMap<String, String>,
}

/// One question about a connection or a request, true or false once its facts are known. An
/// attribute that is missing makes every atom about it false.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Atom {
    /// The source's `<trust domain>/ns/<namespace>/sa/<service account>`.
    Principal(Pattern),
    /// The source's namespace; `*` is a wildcard wherever it stands.
    Namespace(String),
    /// The source's service account, of whatever trust domain.
    ServiceAccount {
        namespace: String,
        name: String,
    },
    /// The source's trust domain.
    TrustDomain(Pattern),
    /// The TCP peer's address.
    SourceIp(IpNet),
    /// The client's address: the rightmost X-Forwarded-For element where HTTP carries one, else
    /// the TCP peer's.
    RemoteIp(IpNet),
    /// The address that the connection was made to.
    DestinationIp(IpNet),
    /// The port that the connection was made to.
    DestinationPort(u16),
    /// The TLS server name.
    Sni(Pattern),
    /// `Host` or `:authority`, case ignored.
    Host(Pattern),
    Method(Pattern),
    /// The path after normalisation, without the query.
    Path(PathPattern),
    /// Any line of the header, or all lines as one value where they are joined. The name is lower
    /// case; `:path` is the target as it is forwarded, query included.
    Header {
        name: String,
        value: Pattern,
    },
    /// Claims `iss` and `sub`; both must be present.
    RequestPrincipal {
        issuer: Pattern,
        subject: Pattern,
    },
    /// The string, or any string of the list, that the claim holds. The path leads through nested
    /// objects: `aud`, `azp`, `["realm", "roles"]`.
    Claim {
        path: Vec<String>,
        value: Pattern,
    },
    /// Dynamic metadata of an Envoy filter, which no request here ever has.
    Never,
}

/// What only the request can tell, and what the connection tells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fact {
    /// Who and from where: known in the kernel.
    Source,
    /// To where: known in the kernel.
    Destination,
    /// The source's address on TCP, a header on HTTP.
    RemoteAddress,
    /// Known after the first TLS record.
    ServerName,
    /// Known for each HTTP request.
    Http,
    /// Never there.
    Nothing,
}

impl Atom {
    /// What must be known to answer the question.
    pub fn fact(&self) -> Fact {
        match self {
            Self::Principal(_)
            | Self::Namespace(_)
            | Self::ServiceAccount { .. }
            | Self::TrustDomain(_)
            | Self::SourceIp(_) => Fact::Source,
            Self::RemoteIp(_) => Fact::RemoteAddress,
            Self::DestinationIp(_) | Self::DestinationPort(_) => Fact::Destination,
            Self::Sni(_) => Fact::ServerName,
            Self::Host(_)
            | Self::Method(_)
            | Self::Path(_)
            | Self::Header { .. }
            | Self::RequestPrincipal { .. }
            | Self::Claim { .. } => Fact::Http,
            Self::Never => Fact::Nothing,
        }
    }
}

impl Atom {
    /// Whether the question is about a verified token.
    pub fn asks_token(&self) -> bool {
        matches!(self, Self::RequestPrincipal { .. } | Self::Claim { .. })
    }
}

/// A string pattern. `Present` is the pattern `*`: for headers, methods and hosts any value, the
/// empty one included; for all else a value that is not empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Present,
}

impl Pattern {
    /// Reads `*`, `*suffix`, `prefix*` or an exact value. A leading star is tested first, so `*a*`
    /// is the suffix `a*`; a star anywhere else is itself.
    pub fn parse(value: &str) -> Self {
        if value == "*" {
            Self::Present
        } else if let Some(rest) = value.strip_prefix('*') {
            Self::Suffix(rest.into())
        } else if let Some(rest) = value.strip_suffix('*') {
            Self::Prefix(rest.into())
        } else {
            Self::Exact(value.into())
        }
    }

    /// Whether a value that is there matches; `Present` wants it not empty.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => value == exact,
            Self::Prefix(prefix) => value.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => value.ends_with(suffix.as_str()),
            Self::Present => !value.is_empty(),
        }
    }
}

/// A path pattern.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum PathPattern {
    Plain(Pattern),
    /// A template with `{*}` and `{**}`, as written.
    Template(String),
}

/// Some atom of `any` is true, or none is when `negated`. Never empty; sorted, without repetition, and
/// all of it about the same fact: one field's values.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Literal {
    pub any: Vec<AtomId>,
    pub negated: bool,
}

/// All of its literals hold; holds when empty. One `source`, one `operation` or one condition.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Alternative {
    pub all: Vec<Literal>,
}

/// One of its alternatives holds; a clause without alternatives never does. One `from` list, one
/// `to` list, or one `when` entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Clause {
    pub any: Vec<Alternative>,
}

/// All of its clauses hold; holds when empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Rule {
    pub clauses: Vec<Clause>,
}

/// A policy with its rules.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    pub namespace: String,
    pub name: String,
    /// Where it was written, for people.
    pub file: String,
    /// Line of each rule, counted from 1.
    pub lines: Vec<u32>,
    pub action: Action,
    pub dry_run: bool,
    pub attachment: Attachment,
    pub rules: Vec<Rule>,
}

impl Policy {
    /// `namespace/name`
    pub fn qualified_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Action {
    Allow,
    Deny,
    Audit,
    Custom { provider: String },
}

/// To which workloads a policy applies.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Attachment {
    /// The namespace, or `None` for the root namespace's policies: every namespace.
    pub namespace: Option<String>,
    /// Labels that the pod must carry, in the order of their keys; empty selects all.
    pub labels: Vec<(String, String)>,
    /// Objects named instead of labels; such a policy never applies to an ordinary pod.
    pub targets: Vec<Target>,
    /// Namespace that the policy itself lives in.
    pub home: String,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Target {
    pub group: String,
    pub kind: String,
    pub name: String,
}

/// One RequestAuthentication.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Authentication {
    pub namespace: String,
    pub name: String,
    pub attachment: Attachment,
    pub jwt_rules: Vec<JwtRule>,
}

/// One token issuer; the fields of `jwtRules[]`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct JwtRule {
    pub issuer: String,
    pub audiences: Vec<String>,
    pub jwks: Option<String>,
    pub jwks_uri: Option<String>,
    /// Header name in lower case, and the text before the token.
    pub from_headers: Vec<(String, String)>,
    pub from_params: Vec<String>,
    pub from_cookies: Vec<String>,
    pub output_payload_to_header: Option<String>,
    /// (header, claim)
    pub output_claim_to_headers: Vec<(String, String)>,
    pub forward_original_token: bool,
    pub space_delimited_claims: Vec<String>,
    pub timeout_ms: Option<u64>,
}

/// A rule of a policy, by number: what attribution names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RuleRef {
    pub policy: PolicyId,
    pub rule: u32,
}

/// What is left for userspace of all policies of a workload, once source, destination and port are
/// known: a whole order of judgement for each thing that may be spoken.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Residual {
    /// When HTTP is spoken, on a port that may speak it.
    pub http: Option<Stages>,
    /// When anything else is spoken: only the server name is still unknown.
    pub tcp: Stages,
    /// Which element of X-Forwarded-For, counted from the right, is the client's address: 1 for a
    /// sidecar, the number of trusted proxies for a gateway. 0: the header is ignored. With fewer
    /// elements than that, the TCP peer is the client.
    pub forwarded_for: u32,
}

/// The order of judgement. Within a stage rules stand by (namespace, name, rule).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Stages {
    /// 1. CUSTOM: what matches is asked of the provider.
    pub custom: Vec<ResidualRule>,
    pub provider: Provider,
    /// 2. The RequestAuthentications that apply.
    pub authentications: Vec<AuthenticationId>,
    /// 3. DENY: any match refuses.
    pub deny: Vec<ResidualRule>,
    /// 4. ALLOW: any match lets through.
    pub allow: Vec<ResidualRule>,
    /// 5. What happens when nothing matched.
    pub otherwise: Otherwise,
    /// Recorded, without effect.
    pub audit: Vec<ResidualRule>,
    /// Recorded, without effect, with their action.
    pub dry_run_allow: Vec<ResidualRule>,
    pub dry_run_deny: Vec<ResidualRule>,
}

/// Who answers for a workload's CUSTOM rules.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Provider {
    /// No CUSTOM policy applies.
    #[default]
    None,
    Named(String),
    /// Unknown, or several on one workload: what matches is refused.
    Unresolved,
}

/// The verdict when no DENY and no ALLOW rule matched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Otherwise {
    /// ISTIO: "If there are no ALLOW policies for the workload, allow the request."
    Allow,
    /// ALLOW policies apply: what none of them matches is refused.
    #[default]
    Deny,
    /// A catch-all DENY that was compiled as the workload's default.
    DefaultDeny(RuleRef),
}

/// What is left of a rule: true when every clause is; without clauses it has matched already.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ResidualRule {
    pub rule: RuleRef,
    pub clauses: Vec<Clause>,
}
