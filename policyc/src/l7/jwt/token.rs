//! One token: its three parts, what its payload must look like, and the checks in Envoy's order.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::keys::{KeySet, algorithm_by_name};
use crate::{ir::JwtRule, token_json};

/// How far clocks may differ, in seconds.
const SKEW: u64 = 60;

/// Why a token is refused; the text is what the client is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Form,
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderBase64,
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    #[error("Jwt header [alg] field is required and must be a string")]
    NoAlgorithm,
    #[error("Jwt header [alg] is not supported")]
    Algorithm,
    #[error("Jwt header [kid] field is not a string")]
    KeyId,
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBase64,
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    #[error("Jwt payload [{0}] field is not a string")]
    NotAString(&'static str),
    #[error("Jwt payload [{0}] field is not an integer")]
    NotAnInteger(&'static str),
    #[error("Jwt payload [{0}] field is not a positive 64 bit integer")]
    OutOfRange(&'static str),
    #[error("Jwt payload [aud] field is not a string or string list")]
    AudienceForm,
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBase64,
    #[error("Jwt issuer is not configured")]
    UnknownIssuer,
    #[error("Jwt not yet valid")]
    NotYetValid,
    #[error("Jwt is expired")]
    Expired,
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    #[error("Jwks doesn't have any valid public key")]
    NoValidKeys,
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoSuchKey,
    #[error("Jwt verification fails")]
    Signature,
}

impl Failure {
    /// 403 for a token meant for others, 401 for all else.
    pub fn status(self) -> u16 {
        if self == Self::Audience { 403 } else { 401 }
    }
}

/// A token whose parts can be read; nothing is verified yet.
#[derive(Debug)]
pub(super) struct Token<'a> {
    signed: &'a str,
    signature: &'a str,
    algorithm: String,
    key_id: Option<String>,
    pub encoded_payload: &'a str,
    pub payload: Map<String, Value>,
    times: Times,
    audiences: Vec<String>,
}

/// Seconds since 1970.
#[derive(Debug, Default)]
struct Times {
    not_before: Option<u64>,
    expires: Option<u64>,
}

impl<'a> Token<'a> {
    pub fn parse(token: &'a str) -> Result<Self, Failure> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Failure::Form)?;
        let (header, encoded_payload) = signed.split_once('.').ok_or(Failure::Form)?;
        if encoded_payload.contains('.') {
            return Err(Failure::Form);
        }
        let header = decode(header).ok_or(Failure::HeaderBase64)?;
        let header = token_json::object(&header).ok_or(Failure::HeaderJson)?;
        let algorithm = header.get("alg").and_then(Value::as_str);
        let algorithm = algorithm.ok_or(Failure::NoAlgorithm)?.to_string();
        algorithm_by_name(&algorithm).ok_or(Failure::Algorithm)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(Failure::KeyId),
        };
        let payload = decode(encoded_payload).ok_or(Failure::PayloadBase64)?;
        let payload = token_json::object(&payload).ok_or(Failure::PayloadJson)?;
        for name in ["iss", "sub", "jti"] {
            if payload.get(name).is_some_and(|value| !value.is_string()) {
                return Err(Failure::NotAString(name));
            }
        }
        seconds(&payload, "iat")?;
        let times = Times {
            not_before: seconds(&payload, "nbf")?,
            // As in Envoy, 0 is no time at all.
            expires: seconds(&payload, "exp")?.filter(|until| *until > 0),
        };
        let audiences = audiences(&payload)?;
        decode(signature).ok_or(Failure::SignatureBase64)?;
        Ok(Self {
            signed,
            signature,
            algorithm,
            key_id,
            encoded_payload,
            payload,
            times,
            audiences,
        })
    }

    /// Issuer, time, audience, signature: the first that fails is what the client hears.
    pub fn check(&self, rule: &JwtRule, keys: &KeySet, now: u64) -> Result<(), Failure> {
        let issuer = self.payload.get("iss").and_then(Value::as_str);
        if !rule.issuer.is_empty() && issuer != Some(&rule.issuer) {
            return Err(Failure::UnknownIssuer);
        }
        let early = |from: u64| now.saturating_add(SKEW) < from;
        if self.times.not_before.is_some_and(early) {
            return Err(Failure::NotYetValid);
        }
        let late = |until: u64| now > until.saturating_add(SKEW);
        if self.times.expires.is_some_and(late) {
            return Err(Failure::Expired);
        }
        let listed = |audience: &String| rule.audiences.contains(audience);
        if !rule.audiences.is_empty() && !self.audiences.iter().any(listed) {
            return Err(Failure::Audience);
        }
        let id = self.key_id.as_deref();
        keys.verify(self.signed, self.signature, &self.algorithm, id)
    }
}

fn decode(part: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(part).ok()
}

fn seconds(payload: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, Failure> {
    let Some(value) = payload.get(name) else {
        return Ok(None);
    };
    let number = value.as_number().ok_or(Failure::NotAnInteger(name))?;
    // Envoy knows no numbers but floats; only what fits into 64 bits is a time.
    let float = number.as_f64().filter(|n| *n >= 0.0 && *n < TIME_END);
    let float = float.ok_or(Failure::OutOfRange(name))?;
    // A fraction is cut off. Text first: a float has no checked way to an integer.
    let cut = || format!("{:.0}", float.trunc().abs()).parse().ok();
    let whole = number.as_u64().or_else(cut);
    whole.map(Some).ok_or(Failure::OutOfRange(name))
}

/// 2^64: the first number that is no time.
const TIME_END: f64 = 18_446_744_073_709_551_616.0;

fn audiences(payload: &Map<String, Value>) -> Result<Vec<String>, Failure> {
    match payload.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(list)) => {
            let text = |v: &Value| v.as_str().map(String::from).ok_or(Failure::AudienceForm);
            list.iter().map(text).collect()
        }
        Some(_) => Err(Failure::AudienceForm),
    }
}
