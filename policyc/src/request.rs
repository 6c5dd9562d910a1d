//! One request to be judged, as `policyc eval` reads it: a JSON line.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

/// A request. Unknown fields are errors.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub id: String,
    pub src: SourceRef,
    /// The address that the pod sees, where it is not the source pod's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_ip: Option<IpAddr>,
    /// Trust domain of the source's identity, where it is not the mesh's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_trust_domain: Option<String>,
    /// `namespace/pod` or `namespace/workload`.
    pub dst: String,
    pub port: u16,
    pub protocol: Wire,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// TLS server name; absent: none was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ext_authz: Option<BTreeMap<String, Authorizer>>,
    /// The expected verdict, in conformance cases only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expected>,
}

/// Who asks: a pod or workload, an address without identity, or a service account.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum SourceRef {
    /// `namespace/pod` or `namespace/workload`
    Pod(String),
    Ip(IpSource),
    ServiceAccount(ServiceAccountSource),
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IpSource {
    pub ip: IpAddr,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountSource {
    /// `namespace/name`
    pub sa: String,
}

/// What is on the wire, whatever the port is declared to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    Tcp,
    Http,
    Tls,
}

#[derive(Clone, PartialEq, Debug, Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub method: String,
    /// The raw request target, query included, before normalisation.
    pub path: String,
    /// `Host` or `:authority`; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderValues>,
    /// The payload of a token that has been verified already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A header once, or several lines of it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum HeaderValues {
    One(String),
    Many(Vec<String>),
}

impl HeaderValues {
    /// The lines, in order.
    pub fn lines(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

/// What an external authorizer answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Authorizer {
    Allow,
    Deny,
    Error,
}

/// What a conformance case expects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    Allow,
    Deny,
}

/// What came of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Judgement {
    pub verdict: Expected,
    pub layer: Layer,
    pub reason: Cause,
    /// `namespace/name` of the policy that decided.
    pub policy: Option<String>,
    /// Its rule, counted from 0.
    pub rule: Option<u32>,
    pub audit: Vec<Hit>,
    pub dry_run: Vec<DryRunHit>,
}

/// Where the verdict falls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    L4,
    L7,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Hit {
    pub policy: String,
    pub rule: u32,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct DryRunHit {
    pub policy: String,
    pub rule: u32,
    /// `ALLOW` or `DENY`
    pub action: String,
}

/// Why: the closed set of causes that policies can have. Stages in the order CUSTOM, JWT, DENY, ALLOW.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The request itself is malformed: answered 400 before any policy is asked.
    BadRequest,
    /// A CUSTOM policy's authorizer said no.
    CustomDenied,
    /// A CUSTOM policy's authorizer could not be asked, and failure means no.
    CustomError,
    /// A CUSTOM policy names a provider that cannot be resolved: what it matches is denied.
    CustomUnresolved,
    /// A token that does not verify: answered 401.
    JwtInvalid,
    /// A token that verifies, for another audience: answered 403.
    JwtAudience,
    /// A DENY rule matched.
    DenyRule,
    /// `--catch-all-deny=default-deny`: no ALLOW rule matched, and a catch-all DENY makes that a no.
    DefaultDeny,
    /// An ALLOW rule matched.
    AllowRule,
    /// ALLOW policies apply to the workload, and none of their rules matched.
    NoAllowMatched,
    /// No ALLOW policy applies to the workload.
    NoAllowPolicy,
}
