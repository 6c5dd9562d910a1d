//! One token: its form, its issuer, its times, its audience, and its signature.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, crypto,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk},
};
use serde_json::{Map, Value};

use super::token::Trust;
use crate::{ast::JwtRule, token_json};

/// How far clocks may be apart, in seconds.
const CLOCK_SKEW: f64 = 60.0;

/// A token that verifies.
#[derive(Debug)]
pub struct Good {
    pub payload: Map<String, Value>,
    /// The payload as it was sent.
    pub encoded_payload: String,
}

/// Why a token does not verify.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bad {
    /// It is another issuer's.
    UnknownIssuer,
    /// It is for others.
    Audience,
    /// Form, time or signature.
    Invalid,
}

/// Checks one token against one rule.
pub fn verify(rule: &JwtRule, token: &str, trust: Trust) -> Result<Good, Bad> {
    let [encoded_header, encoded_payload, signature] =
        <[&str; 3]>::try_from(token.split('.').collect::<Vec<_>>()).map_err(|_| Bad::Invalid)?;
    let header = object(encoded_header).ok_or(Bad::Invalid)?;
    let payload = object(encoded_payload).ok_or(Bad::Invalid)?;
    let algorithm = algorithm(&header).ok_or(Bad::Invalid)?;
    if !has_known_types(&header, &payload) {
        return Err(Bad::Invalid);
    }

    // ISTIO: "Identifies the issuer that issued the JWT." An empty one accepts any.
    let issuer = payload.get("iss").and_then(Value::as_str).unwrap_or("");
    if !rule.issuer.is_empty() && rule.issuer != issuer {
        return Err(Bad::UnknownIssuer);
    }
    if !is_in_time(&payload, trust.now) {
        return Err(Bad::Invalid);
    }
    // An audience need only be among those listed; where none is listed any token will do.
    let is_for_us = |audience: &String| audiences(&payload).contains(&audience.as_str());
    if !rule.audiences.is_empty() && !rule.audiences.iter().any(is_for_us) {
        return Err(Bad::Audience);
    }
    let message = format!("{encoded_header}.{encoded_payload}");
    let key_id = header.get("kid").and_then(Value::as_str);
    let is_signed = keys(rule, trust)
        .iter()
        .any(|key| has_signed(key, key_id, algorithm, message.as_bytes(), signature));
    if !is_signed {
        return Err(Bad::Invalid);
    }
    Ok(Good {
        payload,
        encoded_payload: encoded_payload.into(),
    })
}

fn object(encoded: &str) -> Option<Map<String, Value>> {
    token_json::object(&URL_SAFE_NO_PAD.decode(encoded).ok()?)
}

/// Whether every member that has a meaning is of the type that its meaning asks for, needed or not.
fn has_known_types(header: &Map<String, Value>, payload: &Map<String, Value>) -> bool {
    let is_text = |name| payload.get(name).is_none_or(Value::is_string);
    let is_time = |name| payload.get(name).is_none_or(|value| time(value).is_some());
    header.get("kid").is_none_or(Value::is_string)
        && ["iss", "sub", "jti"].into_iter().all(is_text)
        && ["iat", "exp", "nbf"].into_iter().all(is_time)
        && payload.get("aud").is_none_or(|audience| match audience {
            Value::Array(list) => list.iter().all(Value::is_string),
            one => one.is_string(),
        })
}

/// Seconds since 1970, without their fraction; what fits into 64 bits.
fn time(value: &Value) -> Option<f64> {
    let is_in_range = |seconds: &f64| *seconds >= 0.0 && *seconds < 2.0_f64.powi(64);
    value.as_f64().filter(is_in_range).map(f64::floor)
}

fn algorithm(header: &Map<String, Value>) -> Option<Algorithm> {
    header.get("alg")?.as_str()?.parse().ok()
}

/// `exp` and `nbf`, where they are given; an `exp` of 0 is none.
fn is_in_time(payload: &Map<String, Value>, now: u64) -> bool {
    let now = std::time::Duration::from_secs(now).as_secs_f64();
    let at = |name| payload.get(name).and_then(time);
    let expires = at("exp").filter(|expires| *expires > 0.0);
    expires.is_none_or(|expires| now <= expires + CLOCK_SKEW)
        && at("nbf").is_none_or(|begins| begins <= now + CLOCK_SKEW)
}

fn audiences(payload: &Map<String, Value>) -> Vec<&str> {
    match payload.get("aud") {
        Some(Value::String(audience)) => vec![audience],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The rule's keys. Without a key set, or with one that cannot be read, there are none, so that
/// every token fails. A key of a kind that nobody here knows is no key.
fn keys(rule: &JwtRule, trust: Trust) -> Vec<Jwk> {
    let by_uri = || {
        rule.jwks_uri
            .as_ref()
            .and_then(|uri| trust.key_sets.get(uri))
    };
    let Some(text) = rule.jwks.as_ref().or_else(by_uri) else {
        return Vec::new();
    };
    let Ok(set) = serde_json::from_str::<Value>(text) else {
        return Vec::new();
    };
    let keys = set.get("keys").and_then(Value::as_array);
    keys.into_iter()
        .flatten()
        .flat_map(|key| serde_json::from_value(key.clone()))
        .collect()
}

/// Whether this key made the signature. A key that has an id or an algorithm of its own serves no
/// other, and a key serves the algorithms of its own kind only.
fn has_signed(
    key: &Jwk,
    key_id: Option<&str>,
    algorithm: Algorithm,
    message: &[u8],
    signature: &str,
) -> bool {
    let is_other_key =
        matches!((key_id, key.common.key_id.as_deref()), (Some(a), Some(b)) if a != b);
    let is_other_algorithm = key
        .common
        .key_algorithm
        .is_some_and(|own| own.to_string() != format!("{algorithm:?}"));
    if is_other_key || is_other_algorithm || !serves(key, algorithm) {
        return false;
    }
    DecodingKey::from_jwk(key)
        .and_then(|key| crypto::verify(signature, message, &key, algorithm))
        .unwrap_or(false)
}

fn serves(key: &Jwk, algorithm: Algorithm) -> bool {
    use Algorithm::{
        ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
    };
    match (&key.algorithm, algorithm) {
        (AlgorithmParameters::RSA(_), RS256 | RS384 | RS512 | PS256 | PS384 | PS512)
        | (AlgorithmParameters::OctetKey(_), HS256 | HS384 | HS512) => true,
        (AlgorithmParameters::EllipticCurve(key), ES256) => key.curve == EllipticCurve::P256,
        (AlgorithmParameters::EllipticCurve(key), ES384) => key.curve == EllipticCurve::P384,
        (AlgorithmParameters::OctetKeyPair(key), EdDSA) => key.curve == EllipticCurve::Ed25519,
        _ => false,
    }
}
