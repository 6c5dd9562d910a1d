//! RequestAuthentication: from the tokens in a request to claims, or to a refusal. A request without
//! a token passes and has no claims; one with tokens at places that some issuer names must satisfy
//! one issuer with all tokens at that issuer's places, or else each token must satisfy some issuer.
//!
//! `keys` are the key sets, `token` is one token, `locate` finds tokens; here they come together.

mod keys;
mod locate;
mod ring;
mod token;

use std::{collections::BTreeMap, sync::Arc};

use base64::{
    Engine as _,
    prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::{Map, Value};

pub use keys::KeySet;
pub(super) use locate::without_params;
use locate::{Found, Locations, Place};
use ring::Keys;
pub use ring::{KeyRing, KeySlot, KeySource};
pub use token::Failure;

use super::request::HttpRequest;
use crate::ir::{JwtRule, Program};

/// One issuer, with its keys parsed.
#[derive(Debug)]
pub struct Provider {
    rule: JwtRule,
    keys: Keys,
    locations: Locations,
}

/// The issuers of the RequestAuthentications that apply together.
#[derive(Debug, Default)]
pub struct Authenticator {
    /// By issuer, as Istio sorts them.
    providers: Vec<Arc<Provider>>,
    /// Headers that only a verified token may set; a client's own copies always go.
    outputs: Vec<String>,
}

/// What came of a request's tokens.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Verified {
    /// The payload of the first token of the issuer that was satisfied.
    pub claims: Option<Map<String, Value>>,
    /// Claims of that issuer that are split on spaces.
    pub space_delimited: Vec<String>,
    /// Headers to take away before the request is judged and forwarded, in lower case.
    pub removed_headers: Vec<String>,
    /// Headers to add after that.
    pub added_headers: Vec<(String, String)>,
    /// Query parameters to take away, tokens that are not forwarded.
    pub removed_params: Vec<String>,
}

/// The payload of one token, as sent and as read.
struct Payload {
    encoded: String,
    claims: Map<String, Value>,
}

/// A token that its issuer verified.
struct Accepted<'a> {
    place: Place,
    provider: &'a Arc<Provider>,
    payload: Payload,
}

/// All issuers of a program, by RequestAuthentication. Key sets that are neither in a policy nor in the
/// program are the ring's: without them every token of the issuer is refused, as with Istio's dummy key.
pub fn providers(program: &Program, ring: &KeyRing) -> Vec<Vec<Arc<Provider>>> {
    let mut parsed: BTreeMap<&str, Arc<KeySet>> = BTreeMap::new();
    let mut all = Vec::with_capacity(program.authentications.len());
    for authentication in &program.authentications {
        let mut providers = Vec::with_capacity(authentication.jwt_rules.len());
        for rule in &authentication.jwt_rules {
            let by_uri = || program.key_sets.get(rule.jwks_uri.as_ref()?);
            let keys = match rule.jwks.as_ref().or_else(by_uri) {
                Some(text) => {
                    let set = parsed.entry(text);
                    Keys::Given(Arc::clone(
                        set.or_insert_with(|| KeySet::parse(text).into()),
                    ))
                }
                None => Keys::Fetched(ring.slot(KeySource::of(rule), rule.timeout_ms)),
            };
            providers.push(Arc::new(Provider {
                keys,
                locations: Locations::new(rule),
                rule: rule.clone(),
            }));
        }
        all.push(providers);
    }
    all
}

impl Authenticator {
    /// ISTIO: "When more than one policy matches a workload, the system combines all rules as if
    /// they were specified as a single policy."
    pub fn new<'a>(applying: impl Iterator<Item = &'a [Arc<Provider>]>) -> Self {
        let mut providers: Vec<_> = applying.flatten().cloned().collect();
        providers.sort_by(|a, b| a.rule.issuer.cmp(&b.rule.issuer));
        let mut outputs: Vec<String> = providers
            .iter()
            .flat_map(|p| {
                let claims = p
                    .rule
                    .output_claim_to_headers
                    .iter()
                    .map(|(header, _)| header);
                claims.chain(&p.rule.output_payload_to_header)
            })
            .map(|header| header.to_ascii_lowercase())
            .collect();
        outputs.sort_unstable();
        outputs.dedup();
        Self { providers, outputs }
    }

    /// No issuer: tokens mean nothing.
    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// Verifies the tokens of a request whose query is `query` (`?` included).
    pub fn verify(&self, request: &HttpRequest<'_>, query: &str) -> Result<Verified, Failure> {
        let mut failure = None;
        let mut all = Vec::with_capacity(self.providers.len());
        for provider in &self.providers {
            let found = provider.locations.find(request.headers, query);
            if found.is_empty() {
                continue;
            }
            match provider.verify_all(&found, request.now) {
                Ok(accepted) => return Ok(self.accept(accepted)),
                Err(why) => more_telling(&mut failure, why),
            }
            all.push((provider, found));
        }
        // Alone, an issuer would say the same again.
        if all.len() > 1 {
            match verify_each(&all, request.now) {
                Ok(accepted) => return Ok(self.accept(accepted)),
                Err(why) => more_telling(&mut failure, why),
            }
        }
        match (failure, request.claims) {
            (Some(why), _) => Err(why),
            (None, Some(claims)) => Ok(self.accept_claims(claims)),
            (None, None) => Ok(self.without_token()),
        }
    }

    /// What a payload that was verified elsewhere is worth: as much as a token of its issuer.
    pub fn accept_claims(&self, claims: &Map<String, Value>) -> Verified {
        let issuer = claims.get("iss").and_then(Value::as_str);
        let named = |p: &&Arc<Provider>| issuer == Some(p.rule.issuer.as_str());
        let any = |p: &&Arc<Provider>| p.rule.issuer.is_empty();
        let own = self.providers.iter().find(named);
        let mut verified = self.without_token();
        if let Some(provider) = own.or_else(|| self.providers.iter().find(any)) {
            let text = Value::Object(claims.clone()).to_string();
            let payload = Payload {
                encoded: BASE64_URL_SAFE_NO_PAD.encode(text),
                claims: claims.clone(),
            };
            provider.add_outputs(&payload, &mut verified.added_headers);
            verified.space_delimited = provider.rule.space_delimited_claims.clone();
        }
        verified.claims = Some(claims.clone());
        verified
    }

    /// What happens to a request that carries no token, or whose tokens are not looked at.
    pub fn without_token(&self) -> Verified {
        Verified {
            removed_headers: self.outputs.clone(),
            ..Verified::default()
        }
    }

    /// The first token is the one that speaks for the client.
    fn accept(&self, mut accepted: Vec<Accepted<'_>>) -> Verified {
        let mut verified = self.without_token();
        let Some(first) = accepted.first().map(|token| token.provider) else {
            return verified;
        };
        for token in accepted.iter().rev() {
            if Arc::ptr_eq(token.provider, first) {
                first.add_outputs(&token.payload, &mut verified.added_headers);
            }
        }
        for token in &accepted {
            if token.provider.rule.forward_original_token {
                continue;
            }
            match &token.place {
                Place::Header(name) => verified.removed_headers.push(name.clone()),
                Place::Param(name) => verified.removed_params.push(name.clone()),
                // As in Envoy, which leaves cookies alone.
                Place::Cookie(_) => {}
            }
        }
        verified.space_delimited = first.rule.space_delimited_claims.clone();
        verified.claims = Some(accepted.swap_remove(0).payload.claims);
        verified
    }
}

/// Keeps the failure that says more: an issuer that never heard of a token says less than one that
/// did, and the first that says something is heard.
fn more_telling(failure: &mut Option<Failure>, other: Failure) {
    if failure.is_none_or(|f| f == Failure::UnknownIssuer && other != f) {
        *failure = Some(other);
    }
}

/// Every token may be another issuer's, if each verifies: what Envoy makes of `allow_missing`. The
/// last is verified first.
fn verify_each<'a>(
    all: &[(&'a Arc<Provider>, Vec<Found>)],
    now: u64,
) -> Result<Vec<Accepted<'a>>, Failure> {
    let mut tokens: Vec<&Found> = Vec::new();
    for found in all.iter().flat_map(|(_, found)| found) {
        if !tokens.contains(&found) {
            tokens.push(found);
        }
    }
    tokens.sort_by_key(|found| &found.place);
    let mut accepted = Vec::with_capacity(tokens.len());
    for token in tokens.into_iter().rev() {
        let mut failure = None;
        let mut verified = None;
        for (provider, found) in all {
            if verified.is_some() || !found.contains(token) {
                continue;
            }
            match provider.verify(token, now) {
                Ok(payload) => verified = Some((provider, payload)),
                Err(why) => more_telling(&mut failure, why),
            }
        }
        let (provider, payload) = verified.ok_or(failure.unwrap_or(Failure::UnknownIssuer))?;
        accepted.push(Accepted {
            place: token.place.clone(),
            provider,
            payload,
        });
    }
    accepted.reverse();
    Ok(accepted)
}

impl Provider {
    /// Every token must verify: otherwise a good one could smuggle a bad one past, and the server
    /// behind might read the bad one. The last is verified first, as in Envoy.
    fn verify_all<'a>(
        self: &'a Arc<Self>,
        found: &[Found],
        now: u64,
    ) -> Result<Vec<Accepted<'a>>, Failure> {
        let mut accepted = Vec::with_capacity(found.len());
        for token in found.iter().rev() {
            accepted.push(Accepted {
                place: token.place.clone(),
                provider: self,
                payload: self.verify(token, now)?,
            });
        }
        accepted.reverse();
        Ok(accepted)
    }

    fn verify(&self, found: &Found, now: u64) -> Result<Payload, Failure> {
        let token = token::Token::parse(&found.token)?;
        token.check(&self.rule, &self.keys.now(), now)?;
        Ok(Payload {
            encoded: token.encoded_payload.into(),
            claims: token.payload,
        })
    }

    fn add_outputs(&self, payload: &Payload, headers: &mut Vec<(String, String)>) {
        if let Some(name) = &self.rule.output_payload_to_header {
            headers.push((name.to_ascii_lowercase(), payload.encoded.clone()));
        }
        for (header, claim) in &self.rule.output_claim_to_headers {
            if let Some(text) = claim_text(&payload.claims, claim) {
                headers.push((header.to_ascii_lowercase(), text));
            }
        }
    }
}

/// A claim as header text; dots lead into nested objects. `None` for what is absent, empty, or
/// would not be one header line.
fn claim_text(claims: &Map<String, Value>, path: &str) -> Option<String> {
    let mut keys = path.split('.');
    let mut value = claims.get(keys.next()?)?;
    for key in keys {
        value = value.as_object()?.get(key)?;
    }
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number_text(number.as_f64()?),
        Value::Bool(truth) => truth.to_string(),
        Value::Array(_) | Value::Object(_) => BASE64_URL_SAFE.encode(value.to_string()),
        Value::Null => return None,
    };
    let one_line = !text.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f);
    (one_line && !text.is_empty()).then_some(text)
}

/// A number as Envoy writes it, which knows floats only.
fn number_text(number: f64) -> String {
    let whole = number.trunc() == number && (0.0..18_446_744_073_709_551_616.0).contains(&number);
    match whole {
        true => format!("{:.0}", number.abs()),
        false => format!("{number:.6}"),
    }
}

#[cfg(test)]
mod tests;
