//! Why a request cannot be judged. Nothing is guessed: whatever is missing is named.

/// One reason, as a sentence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unjudgeable {
    #[error("`{0}` is not of the form `namespace/name`")]
    MalformedName(String),
    #[error("the source `{0}` is neither a Pod nor a workload of the given manifests")]
    UnknownSource(String),
    #[error("the destination `{0}` is neither a Pod nor a workload of the given manifests")]
    UnknownDestination(String),
    #[error("`{0}` has finished (phase Succeeded or Failed): nothing listens there")]
    Finished(String),
    #[error("several workloads are called `{0}`, and their pod templates differ")]
    AmbiguousWorkload(String),
    #[error("the source has two addresses, `src.ip` and `src_ip`, and they differ")]
    TwoAddresses,
    #[error("`src_trust_domain` is given for a source that has no identity")]
    TrustDomainWithoutIdentity,
    #[error("a source's trust domain cannot be empty or contain `/`")]
    MalformedTrustDomain,
    #[error("`http` is given for a request whose protocol is not http")]
    HttpOnOtherProtocol,
    #[error("port {0} is judged request by request, and the request has no `http`")]
    NoHttp(u16),
    #[error("the request names two hosts: `http.host` and a `host` header")]
    TwoHosts,
    #[error(
        "rule {rule} of `{policy}` asks for the source's address, and the request gives none: \
         add `src_ip`"
    )]
    NoSourceAddress { policy: String, rule: u32 },
    #[error(
        "rule {rule} of `{policy}` asks for the destination's address, and it has none that the \
         source can reach"
    )]
    NoDestinationAddress { policy: String, rule: u32 },
    #[error(
        "rule {rule} of `{policy}` asks the authorizer `{provider}`, and the request does not say \
         what it answers: add it to `ext_authz`"
    )]
    NoAnswer {
        policy: String,
        rule: u32,
        provider: String,
    },
    #[error("rule {rule} of `{policy}`: `{value}` is no value that {field} can have")]
    InvalidValue {
        policy: String,
        rule: u32,
        field: &'static str,
        value: String,
    },
    #[error("rule {rule} of `{policy}`: there is no condition key `{key}`")]
    UnknownKey {
        policy: String,
        rule: u32,
        key: String,
    },
}
