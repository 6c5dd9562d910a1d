//! The meaning of policies, written as plainly as possible: a reader can hold it against Istio's
//! documentation sentence by sentence. It knows the policies as written, the cluster and one
//! request, and nothing of how they are compiled; the compiled table is tested against it.
//!
//! **Which facts count.** A port that is declared to speak TCP is judged as bytes, even if HTTP is
//! spoken on it. On any other port HTTP is judged request by request, and whatever else is spoken is
//! judged as bytes. On bytes, fields of HTTP have no meaning: they make an ALLOW rule void, and are
//! dropped from the rules of other actions. The TLS server name is known where the client sent one.
//!
//! **Where a verdict falls.** It falls at L4 when it is the same whatever a client may say beyond
//! its identity, its address and the port. To find that out, the policies are judged again with all
//! that can be said unknown, in three-valued logic: as HTTP and as bytes, or as bytes alone where the
//! port is declared so. When all of that gives one certain verdict, it falls at L4. Where tokens must
//! be checked, nothing is allowed for certain; something may well be denied for certain.
//!
//! **Malformed requests.** A request that HTTP itself would answer with 400 is denied as such only
//! where its verdict falls at L7: at L4 nobody reads it.
//!
//! **What is missing.** A rule that asks for an address which the request does not give, an
//! authorizer whose answer is not given, a request without `http` on a port that is judged request by
//! request: all of them make the request [`Unjudgeable`]. Nothing is assumed.

mod address;
mod attach;
mod claims;
mod condition;
mod facts;
mod http;
mod identity;
mod locations;
mod normalize;
mod rule;
mod signature;
mod stages;
mod template;
mod text;
mod token;
mod truth;
mod unjudgeable;

#[cfg(test)]
mod tests;

pub use crate::options::Options;
pub use unjudgeable::Unjudgeable;

use crate::{
    cluster::{Cluster, Protocol, Service},
    request::{Cause, Expected, Judgement, Layer, Request, Wire},
};
use facts::{Facts, Spoken, Workload};
use http::HttpFacts;
use stages::{Known, Stages};
use token::{Outcome, Trust};
use truth::{Fact, Truth};

/// Judges one request.
///
/// The policy and rule that are named are the lowest (namespace, name, rule) among those that match,
/// in the first stage that decides. AUDIT and dry-run hits are all that match, whatever the verdict.
///
/// # Errors
/// [`Unjudgeable`] when something that the policies ask for is missing or cannot be read.
pub fn evaluate(
    cluster: &Cluster,
    request: &Request,
    options: &Options,
) -> Result<Judgement, Unjudgeable> {
    let destination = facts::destination(cluster, request)?;
    let stages = Stages::of(cluster, &destination, options.catch_all_deny);
    let facts = connection(cluster, request, &destination)?;
    stages.check_addresses(&facts)?;
    let declared = declared_protocol(cluster, &destination, request.port);
    let http = spoken_http(cluster, request, declared)?;
    let unknown_http = unknown_http(&stages, &facts, &destination, cluster);

    let unknown_bytes = unknown_bytes(&facts);
    let layer = layer(&stages, &unknown_http, &unknown_bytes, declared)?;
    let unknown = match declared {
        Protocol::Tcp => &unknown_bytes,
        Protocol::Http | Protocol::Undeclared => &unknown_http,
    };
    // At L4 the verdict is due to what is certain, whatever else the request would have met.
    let certain = match layer {
        Layer::L4 => Some(stages.judge(unknown)?),
        Layer::L7 => None,
    };
    let known = match http {
        Some(http) if http.is_malformed && layer == Layer::L7 => return Ok(bad_request()),
        // Nobody reads it: what it says cannot be the reason for anything.
        Some(http) if http.is_malformed => unknown_http,
        Some(http) => known_http(
            &stages,
            &facts,
            http,
            request,
            &destination,
            cluster,
            options,
        ),
        None => known_bytes(&facts, request),
    };
    let verdict = certain.map_or_else(|| stages.judge(&known), Ok)?;
    Ok(Judgement {
        verdict: match verdict.allowed {
            Truth::Yes => Expected::Allow,
            // Every fact is known, so this is a no; a doubt would be one too.
            Truth::No | Truth::Maybe => Expected::Deny,
        },
        layer,
        reason: verdict.cause,
        policy: verdict.named.map(|named| named.name()),
        rule: verdict.named.map(|named| named.rule),
        audit: stages.audit_hits(&known.after_tokens)?,
        dry_run: stages.dry_run_hits(&known.after_tokens)?,
    })
}

/// Who asks, from where, to where; judged as bytes until more is known.
fn connection(
    cluster: &Cluster,
    request: &Request,
    destination: &Workload,
) -> Result<Facts, Unjudgeable> {
    let peer = facts::peer(cluster, request, destination)?;
    Ok(Facts {
        identity: peer.identity,
        source: peer.address,
        destination: facts::reached(destination, peer.address),
        port: request.port,
        sni: Fact::Known(request.sni.clone()),
        spoken: Spoken::Tcp,
    })
}

/// The request, where it is judged as one: HTTP is spoken, and the port is not declared otherwise.
fn spoken_http(
    cluster: &Cluster,
    request: &Request,
    declared: Protocol,
) -> Result<Option<HttpFacts>, Unjudgeable> {
    match (request.protocol, declared, &request.http) {
        (Wire::Tcp | Wire::Tls, _, Some(_)) => Err(Unjudgeable::HttpOnOtherProtocol),
        (Wire::Tcp | Wire::Tls, _, None) | (Wire::Http, Protocol::Tcp, _) => Ok(None),
        (Wire::Http, Protocol::Http | Protocol::Undeclared, None) => {
            Err(Unjudgeable::NoHttp(request.port))
        }
        (Wire::Http, Protocol::Http | Protocol::Undeclared, Some(http)) => {
            HttpFacts::new(http, cluster.mesh.path_normalization).map(Some)
        }
    }
}

/// All facts of a request, before and after its tokens are looked at.
fn known_http<'a>(
    stages: &Stages,
    facts: &Facts,
    http: HttpFacts,
    request: &'a Request,
    destination: &Workload,
    cluster: &Cluster,
    options: &Options,
) -> Known<'a> {
    let trust = Trust {
        now: options.now,
        key_sets: &options.jwks,
    };
    let verified = request.http.as_ref().and_then(|h| h.claims.as_ref());
    let outcome = token::check(&stages.jwt_rules, &http, verified, trust);
    let saying = |request: HttpFacts, claims| Facts {
        spoken: Spoken::Http {
            request: Fact::Known(request),
            claims: Fact::Known(claims),
            trusted_proxies: trusted_proxies(cluster, destination),
        },
        ..facts.clone()
    };
    let before_tokens = saying(http.clone(), None);
    let (after_tokens, refused) = match outcome {
        Outcome::Refused(cause) => (before_tokens.clone(), Some(cause)),
        Outcome::Passed { claims, request } => (saying(request, claims), None),
    };
    Known {
        before_tokens,
        after_tokens,
        tokens: Fact::Known(refused),
        answers: Fact::Known(request.ext_authz.as_ref()),
    }
}

fn known_bytes<'a>(facts: &Facts, request: &'a Request) -> Known<'a> {
    Known {
        before_tokens: facts.clone(),
        after_tokens: facts.clone(),
        tokens: Fact::Known(None),
        answers: Fact::Known(request.ext_authz.as_ref()),
    }
}

/// A connection on which HTTP is spoken, and nothing of what it says is known.
fn unknown_http<'a>(
    stages: &Stages,
    facts: &Facts,
    destination: &Workload,
    cluster: &Cluster,
) -> Known<'a> {
    let checks_tokens = !stages.jwt_rules.is_empty();
    let http = Facts {
        sni: Fact::Unknown,
        spoken: Spoken::Http {
            request: Fact::Unknown,
            // Without a RequestAuthentication no request has a verified token.
            claims: if checks_tokens {
                Fact::Unknown
            } else {
                Fact::Known(None)
            },
            trusted_proxies: trusted_proxies(cluster, destination),
        },
        ..facts.clone()
    };
    Known {
        before_tokens: http.clone(),
        after_tokens: http,
        tokens: if checks_tokens {
            Fact::Unknown
        } else {
            Fact::Known(None)
        },
        answers: Fact::Unknown,
    }
}

/// A connection on which anything but HTTP is spoken, or HTTP that nobody reads.
fn unknown_bytes<'a>(facts: &Facts) -> Known<'a> {
    let bytes = Facts {
        sni: Fact::Unknown,
        spoken: Spoken::Tcp,
        ..facts.clone()
    };
    Known {
        before_tokens: bytes.clone(),
        after_tokens: bytes,
        tokens: Fact::Known(None),
        answers: Fact::Unknown,
    }
}

/// Judges with everything unknown that a client may say, for each thing that may be spoken.
fn layer(
    stages: &Stages,
    unknown_http: &Known,
    unknown_bytes: &Known,
    declared: Protocol,
) -> Result<Layer, Unjudgeable> {
    let as_bytes = stages.judge(unknown_bytes)?.allowed;
    let as_http = match declared {
        Protocol::Tcp => as_bytes,
        Protocol::Http | Protocol::Undeclared => stages.judge(unknown_http)?.allowed,
    };
    let is_certain = as_bytes == as_http && as_bytes != Truth::Maybe;
    Ok(if is_certain { Layer::L4 } else { Layer::L7 })
}

fn declared_protocol(cluster: &Cluster, destination: &Workload, port: u16) -> Protocol {
    let services: Vec<&Service> = cluster.services.iter().collect();
    destination
        .template
        .protocol(destination.namespace, port, &services)
}

/// A gateway trusts as many proxies in front of it as the mesh says; a sidecar does not count them.
fn trusted_proxies(cluster: &Cluster, destination: &Workload) -> Option<u32> {
    let trusted = cluster.mesh.trusted_proxies;
    destination.is_gateway().then_some(trusted)
}

fn bad_request() -> Judgement {
    Judgement {
        verdict: Expected::Deny,
        layer: Layer::L7,
        reason: Cause::BadRequest,
        policy: None,
        rule: None,
        audit: Vec::new(),
        dry_run: Vec::new(),
    }
}
