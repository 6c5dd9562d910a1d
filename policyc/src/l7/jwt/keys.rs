//! Key sets: JSON to keys that can verify. A key that cannot be read is left out, so that what it
//! signed is refused; one strange key does not spoil its neighbours.

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, crypto, jwk::Jwk};
use serde_json::Value;

use super::token::Failure;

/// The keys of one issuer.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    key: DecodingKey,
}

impl KeySet {
    /// Reads a JSON Web Key Set. Without one usable key nothing verifies.
    pub fn parse(json: &str) -> Self {
        let set: Option<Value> = serde_json::from_str(json).ok();
        let keys = set.as_ref().and_then(|s| s.get("keys")?.as_array());
        let keys = keys.map_or(&[][..], Vec::as_slice);
        Self {
            keys: keys.iter().flat_map(Key::parse).collect(),
        }
    }

    /// Keys that can verify something.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Nothing verifies.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether some key that the token may mean verifies its signature.
    pub fn verify(
        &self,
        signed: &str,
        signature: &str,
        algorithm: &str,
        id: Option<&str>,
    ) -> Result<(), Failure> {
        if self.keys.is_empty() {
            return Err(Failure::NoValidKeys);
        }
        let (known, family) = algorithm_by_name(algorithm).ok_or(Failure::Algorithm)?;
        let mut asked = false;
        for key in &self.keys {
            let same_id = id.is_none_or(|id| key.id.as_deref().is_none_or(|own| own == id));
            let same_algorithm = key.algorithm.as_deref().is_none_or(|own| own == algorithm);
            if !same_id || !same_algorithm || key.key.family() != family {
                continue;
            }
            asked = true;
            if crypto::verify(signature, signed.as_bytes(), &key.key, known) == Ok(true) {
                return Ok(());
            }
        }
        Err(if asked {
            Failure::Signature
        } else {
            Failure::NoSuchKey
        })
    }
}

impl Key {
    fn parse(value: &Value) -> Option<Self> {
        let text = |name| value.get(name).and_then(Value::as_str).map(String::from);
        let mut plain = value.clone();
        // What else a key may say (use, x5c) decides nothing here, and must not stop it from being
        // read.
        if let Some(fields) = plain.as_object_mut() {
            fields.retain(|name, _| matches!(&**name, "kty" | "n" | "e" | "crv" | "x" | "y" | "k"));
        }
        let jwk: Jwk = serde_json::from_value(plain).ok()?;
        Some(Self {
            id: text("kid"),
            algorithm: text("alg"),
            key: DecodingKey::from_jwk(&jwk).ok()?,
        })
    }
}

/// The algorithms that signatures may use; `none` is not among them.
pub(super) fn algorithm_by_name(name: &str) -> Option<(Algorithm, AlgorithmFamily)> {
    Some(match name {
        "RS256" => (Algorithm::RS256, AlgorithmFamily::Rsa),
        "RS384" => (Algorithm::RS384, AlgorithmFamily::Rsa),
        "RS512" => (Algorithm::RS512, AlgorithmFamily::Rsa),
        "PS256" => (Algorithm::PS256, AlgorithmFamily::Rsa),
        "PS384" => (Algorithm::PS384, AlgorithmFamily::Rsa),
        "PS512" => (Algorithm::PS512, AlgorithmFamily::Rsa),
        "ES256" => (Algorithm::ES256, AlgorithmFamily::Ec),
        "ES384" => (Algorithm::ES384, AlgorithmFamily::Ec),
        "HS256" => (Algorithm::HS256, AlgorithmFamily::Hmac),
        "HS384" => (Algorithm::HS384, AlgorithmFamily::Hmac),
        "HS512" => (Algorithm::HS512, AlgorithmFamily::Hmac),
        "EdDSA" => (Algorithm::EdDSA, AlgorithmFamily::Ed),
        _ => return None,
    })
}
