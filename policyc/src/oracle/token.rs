//! RequestAuthentication: which tokens a request carries, whether they verify, and what the request
//! looks like afterwards.

use std::collections::{BTreeMap, BTreeSet};

use base64::{
    Engine as _,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};
use serde_json::{Map, Value};

use super::{
    http::HttpFacts,
    locations::{self, Found, Place},
    signature::{self, Bad},
};
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
    let found: Vec<(&JwtRule, Vec<Found>)> = rules
        .iter()
        .map(|rule| (*rule, locations::tokens(rule, request)))
        .filter(|(_, tokens)| !tokens.is_empty())
        .collect();
    // ISTIO: "A request that does not contain any authentication credentials will be accepted but
    // will not have any authenticated identity."
    if found.is_empty() {
        return without_token(rules, stripped, verified);
    }

    // ISTIO: "Each rule will be activated only when a token is presented at the location recorgnized
    // by the rule." Tokens that satisfy any rule are good, whatever the other rules find.
    let mut failures = Vec::new();
    for (rule, tokens) in &found {
        let alone = [(*rule, tokens.clone())];
        match check_each(&alone, tokens, trust) {
            Ok(good) => return accept(good, stripped),
            Err(bad) => failures.push(bad),
        }
    }
    // Otherwise each token may be another rule's, as long as all of them are good.
    match check_each(&found, &all_tokens(&found), trust) {
        Ok(good) => accept(good, stripped),
        Err(bad) => {
            failures.push(bad);
            Outcome::Refused(match most_telling(&failures) {
                Bad::Audience => Cause::JwtAudience,
                Bad::UnknownIssuer | Bad::Invalid => Cause::JwtInvalid,
            })
        }
    }
}

/// A request that carries no token: what was verified elsewhere counts, as a token of its issuer.
fn without_token(
    rules: &[&JwtRule],
    mut request: HttpFacts,
    verified: Option<&Map<String, Value>>,
) -> Outcome {
    let claims = verified.map(|payload| {
        let rule = rule_of(rules, payload);
        if let Some(rule) = rule {
            let text = Value::Object(payload.clone()).to_string();
            add_outputs(rule, payload, &URL_SAFE_NO_PAD.encode(text), &mut request);
        }
        Claims::new(payload.clone(), rule)
    });
    Outcome::Passed { claims, request }
}

/// A token, and the rule that it satisfies.
#[derive(Debug)]
struct Good<'a> {
    rule: &'a JwtRule,
    place: Place,
    payload: Map<String, Value>,
    encoded: String,
}

/// Checks each token against the rules that look where it stands, the last one first. All must be
/// good: a good one must not carry a bad one past.
fn check_each<'a>(
    found: &[(&'a JwtRule, Vec<Found>)],
    tokens: &[Found],
    trust: Trust,
) -> Result<Vec<Good<'a>>, Bad> {
    let mut all = Vec::new();
    for token in tokens.iter().rev() {
        let mut failures = Vec::new();
        let mut good = None;
        for (rule, its_own) in found {
            if good.is_some() || !its_own.contains(token) {
                continue;
            }
            match signature::verify(rule, &token.token, trust) {
                Ok(verified) => {
                    good = Some(Good {
                        rule,
                        place: token.place.clone(),
                        payload: verified.payload,
                        encoded: verified.encoded_payload,
                    });
                }
                Err(bad) => failures.push(bad),
            }
        }
        all.insert(0, good.ok_or_else(|| most_telling(&failures))?);
    }
    Ok(all)
}

/// Every token that any rule looks at, once, in the order of the places.
fn all_tokens(found: &[(&JwtRule, Vec<Found>)]) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    for token in found.iter().flat_map(|(_, tokens)| tokens) {
        if !all.contains(token) {
            all.push(token.clone());
        }
    }
    all.sort_by(|a, b| a.place.cmp(&b.place));
    all
}

/// The request as what comes later sees it; the first token speaks for the client.
fn accept(good: Vec<Good>, mut request: HttpFacts) -> Outcome {
    for token in good.iter().filter(|t| !t.rule.forward_original_token) {
        locations::remove(&token.place, &mut request);
    }
    let Some(first) = good.first() else {
        return Outcome::Passed {
            claims: None,
            request,
        };
    };
    for token in good
        .iter()
        .rev()
        .filter(|t| std::ptr::eq(t.rule, first.rule))
    {
        add_outputs(token.rule, &token.payload, &token.encoded, &mut request);
    }
    Outcome::Passed {
        claims: Some(Claims::new(first.payload.clone(), Some(first.rule))),
        request,
    }
}

/// The first failure that says more than "not my issuer".
fn most_telling(failures: &[Bad]) -> Bad {
    let mut telling = failures.iter().filter(|bad| **bad != Bad::UnknownIssuer);
    telling.next().copied().unwrap_or(Bad::UnknownIssuer)
}

/// The rule of that issuer; else the first that takes any.
fn rule_of<'a>(rules: &[&'a JwtRule], payload: &Map<String, Value>) -> Option<&'a JwtRule> {
    let issuer = payload.get("iss").and_then(Value::as_str);
    let own = rules.iter().find(|rule| issuer == Some(&rule.issuer));
    let any = || rules.iter().find(|rule| rule.issuer.is_empty());
    own.or_else(any).copied()
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
        let lines = request.headers.entry(name.to_ascii_lowercase());
        lines.or_default().push(value);
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

/// A claim, nested by `.`, as a header: strings, numbers and booleans as text, lists and objects as
/// encoded JSON. What is empty, or would break the line, is none.
fn claim_as_header(payload: &Map<String, Value>, claim: &str) -> Option<String> {
    let mut names = claim.split('.');
    let mut value = payload.get(names.next()?)?;
    for name in names {
        value = value.as_object()?.get(name)?;
    }
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number_as_header(number.as_f64()?),
        Value::Bool(flag) => flag.to_string(),
        Value::Array(_) | Value::Object(_) => URL_SAFE.encode(value.to_string()),
        Value::Null => return None,
    };
    let breaks_line = |c: char| c.is_ascii_control() && c != '\t';
    (!text.is_empty() && !text.contains(breaks_line)).then_some(text)
}

/// Every number is a float to Envoy. One that counts something has no fraction, any other has six
/// digits of it.
fn number_as_header(number: f64) -> String {
    let counts = number >= 0.0 && number < 2.0_f64.powi(64) && number.fract() == 0.0;
    if counts {
        format!("{:.0}", number.abs())
    } else {
        format!("{number:.6}")
    }
}
