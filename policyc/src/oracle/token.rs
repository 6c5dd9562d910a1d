//! RequestAuthentication: which tokens a request carries, whether they verify, and what the request
//! looks like afterwards.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{http::HttpFacts, locations, signature};
use crate::{ast::JwtRule, request::Cause};

/// What a verified token says.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Claims {
    pub payload: Map<String, Value>,
    space_delimited: BTreeSet<String>,
}

impl Claims {
    fn new(payload: Map<String, Value>, rule: Option<&JwtRule>) -> Self {
        let always = ["scope", "permission"].map(String::from);
        Self {
            payload,
            space_delimited: always
                .into_iter()
                .chain(
                    rule.into_iter()
                        .flat_map(|r| r.space_delimited_claims.clone()),
                )
                .collect(),
        }
    }

    /// Whether the top-level claim is a list of words written as one string: `scope` and
    /// `permission` always are.
    pub fn is_space_delimited(&self, name: &str) -> bool {
        self.space_delimited.contains(name)
    }
}

/// What came of the tokens of a request.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    Refused(Cause),
    /// There was no token, or a good one; the request as what comes later sees it.
    Passed {
        claims: Option<Claims>,
        request: HttpFacts,
    },
}

/// Keys and the time, which nobody may ask the machine for.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    /// Seconds since 1970.
    pub now: u64,
    /// Key sets by `jwksUri`, as JSON text.
    pub key_sets: &'a BTreeMap<String, String>,
}

/// Checks the tokens of a request against all rules that apply. `verified` is the payload of a token
/// that has been verified already, elsewhere; it counts where the request itself carries none.
pub fn check(
    rules: &[&JwtRule],
    request: &HttpFacts,
    verified: Option<&Map<String, Value>>,
    trust: Trust,
) -> Outcome {
    // Without a RequestAuthentication nothing is verified, and no token counts for anything, however
    // good.
    if rules.is_empty() {
        return Outcome::Passed {
            claims: None,
            request: request.clone(),
        };
    }
    let mut stripped = request.clone();
    strip_outputs(rules, &mut stripped);
    // A browser's preflight is let past: its tokens are not looked at, and give it no identity.
    if request.is_cors_preflight() {
        return Outcome::Passed {
            claims: None,
            request: stripped,
        };
    }
    let results: Vec<(&JwtRule, RuleResult)> = rules
        .iter()
        .map(|rule| (*rule, check_rule(rule, request, trust)))
        .collect();
    let mut request = stripped;

    // ISTIO: "Each rule will be activated only when a token is presented at the location recorgnized
    // by the rule." A token that satisfies any rule is good, whatever the other rules find.
    for (rule, result) in &results {
        if let RuleResult::Good { payload, encoded } = result {
            if !rule.forward_original_token {
                locations::remove(rule, &mut request);
            }
            add_outputs(rule, payload, encoded, &mut request);
            return Outcome::Passed {
                claims: Some(Claims::new(payload.clone(), Some(rule))),
                request,
            };
        }
    }
    match failure(&results) {
        Some(cause) => Outcome::Refused(cause),
        // ISTIO: "A request that does not contain any authentication credentials will be accepted
        // but will not have any authenticated identity."
        None => Outcome::Passed {
            claims: verified.map(|payload| Claims::new(payload.clone(), rule_of(rules, payload))),
            request,
        },
    }
}

/// What one rule makes of a request.
#[derive(Debug)]
enum RuleResult {
    /// No token where the rule looks for one.
    Missing,
    /// The payload of the first token, and its encoded form; all others are good as well.
    Good {
        payload: Map<String, Value>,
        encoded: String,
    },
    Bad(signature::Bad),
}

fn check_rule(rule: &JwtRule, request: &HttpFacts, trust: Trust) -> RuleResult {
    let mut result = RuleResult::Missing;
    // Several tokens, at one place or at several, must all be good.
    for token in locations::tokens(rule, request) {
        match (signature::verify(rule, &token, trust), &result) {
            (Err(bad), _) => return RuleResult::Bad(bad),
            (Ok(good), RuleResult::Missing) => {
                result = RuleResult::Good {
                    payload: good.payload,
                    encoded: good.encoded_payload,
                };
            }
            (Ok(_), RuleResult::Good { .. } | RuleResult::Bad(_)) => {}
        }
    }
    result
}

/// Why the request is refused: the first failure that says more than "not my issuer".
fn failure(results: &[(&JwtRule, RuleResult)]) -> Option<Cause> {
    let bad = || {
        results.iter().filter_map(|(_, result)| match result {
            RuleResult::Bad(bad) => Some(*bad),
            RuleResult::Missing | RuleResult::Good { .. } => None,
        })
    };
    let telling = bad().find(|bad| *bad != signature::Bad::UnknownIssuer);
    match telling.or_else(|| bad().next())? {
        signature::Bad::Audience => Some(Cause::JwtAudience),
        signature::Bad::UnknownIssuer | signature::Bad::Invalid => Some(Cause::JwtInvalid),
    }
}

/// The first rule that would take a payload of that issuer.
fn rule_of<'a>(rules: &[&'a JwtRule], payload: &Map<String, Value>) -> Option<&'a JwtRule> {
    let issuer = payload.get("iss").and_then(Value::as_str);
    let takes = |rule: &&&JwtRule| rule.issuer.is_empty() || issuer == Some(&rule.issuer);
    rules.iter().find(takes).copied()
}

/// Headers that a rule writes cannot be sent by a client.
fn strip_outputs(rules: &[&JwtRule], request: &mut HttpFacts) {
    for rule in rules {
        let outputs = rule.output_claim_to_headers.iter().map(|o| &o.header);
        for name in outputs.chain(&rule.output_payload_to_header) {
            request.headers.remove(&name.to_ascii_lowercase());
        }
    }
}

fn add_outputs(
    rule: &JwtRule,
    payload: &Map<String, Value>,
    encoded: &str,
    request: &mut HttpFacts,
) {
    let mut set = |name: &str, value: String| {
        request
            .headers
            .insert(name.to_ascii_lowercase(), vec![value]);
    };
    if let Some(name) = &rule.output_payload_to_header {
        set(name, encoded.into());
    }
    for output in &rule.output_claim_to_headers {
        if let Some(text) = claim_as_header(payload, &output.claim) {
            set(&output.header, text);
        }
    }
}

/// A claim, nested by `.`, as a header: strings, numbers and booleans as text, lists as encoded
/// JSON, nothing else.
fn claim_as_header(payload: &Map<String, Value>, claim: &str) -> Option<String> {
    let mut names = claim.split('.');
    let mut value = payload.get(names.next()?)?;
    for name in names {
        value = value.as_object()?.get(name)?;
    }
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Array(_) => Some(URL_SAFE_NO_PAD.encode(value.to_string())),
        Value::Null | Value::Object(_) => None,
    }
}
