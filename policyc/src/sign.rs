//! Signatures of bundles: ed25519, as a trailer over every byte before it.
//!
//! ```text
//! offset from the bundle's end  size
//!                         -104     8  magic `POLSIGN\x01`
//!                          -96    32  public key of whoever signed: which key to try, not whom to trust
//!                          -64    64  signature over all bytes before the trailer
//! ```
//!
//! A bundle has one signature or none. Whoever verifies holds the public keys that it trusts, and
//! accepts a signature of any of them: so a key is replaced by trusting both, signing with the new
//! one, and then trusting the old one no more. `enforcer/TRUST.md` says what that protects from.

mod keys;

pub use keys::{KeyError, fingerprint, generate, private_key, public_keys};

use ed25519_dalek::{Signature, Signer};
pub use ed25519_dalek::{SigningKey, VerifyingKey};

use crate::bundle::{self, BundleError};

/// First bytes of the trailer.
pub const MAGIC: [u8; 8] = *b"POLSIGN\x01";
/// Bytes of the trailer.
pub const TRAILER: usize = 8 + 32 + 64;

/// The signature that a bundle carries. Nobody has verified it yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trailer {
    /// The public key that it claims to be by.
    pub key: [u8; 32],
    pub signature: [u8; 64],
}

/// Why a bundle's signature is not accepted, or cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SignError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("the bundle is not signed: sign it with `policyc sign`")]
    Unsigned,
    #[error("the bundle is signed by key {0}, which is not one of the trusted keys")]
    Stranger(String),
    #[error(
        "the bundle was changed after it was signed: its signature by key {0} does not match its bytes"
    )]
    Mismatch(String),
    #[error(
        "the bundle is signed by key {0} already: --replace puts another signature in its place"
    )]
    Signed(String),
}

impl Trailer {
    /// Reads a trailer. `None`: these bytes are none.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; TRAILER] = bytes.try_into().ok()?;
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (key, signature) = rest.split_first_chunk::<32>()?;
        (*magic == MAGIC).then_some(Self {
            key: *key,
            signature: signature.try_into().ok()?,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        [&MAGIC[..], &self.key, &self.signature].concat()
    }

    /// The key it claims to be by, in words.
    pub fn signer(&self) -> String {
        fingerprint(&self.key)
    }
}

/// A bundle's bytes with a signature at their end. The same bundle and key give the same bytes; a
/// signature of another key is only put in its place where `replace` says so.
///
/// # Errors
/// Bytes that are no whole bundle, and a bundle that another key has signed.
pub fn sign(bytes: &[u8], key: &SigningKey, replace: bool) -> Result<Vec<u8>, SignError> {
    bundle::read(bytes)?;
    let (content, trailer) = bundle::split(bytes)?;
    let public = key.verifying_key().to_bytes();
    if let Some(other) = trailer.filter(|trailer| trailer.key != public && !replace) {
        return Err(SignError::Signed(other.signer()));
    }
    let trailer = Trailer {
        key: public,
        signature: key.sign(content).to_bytes(),
    };
    Ok([content, &trailer.bytes()].concat())
}

/// Verifies that one of these keys has signed all of a bundle's bytes, before anything else of them
/// is read, and returns which.
///
/// # Errors
/// A bundle that is not whole, not signed, signed by nobody who is trusted, or changed since.
pub fn verify<'k>(bytes: &[u8], keys: &'k [VerifyingKey]) -> Result<&'k VerifyingKey, SignError> {
    let (content, trailer) = bundle::split(bytes)?;
    let trailer = trailer.ok_or(SignError::Unsigned)?;
    let key = keys
        .iter()
        .find(|key| key.as_bytes() == &trailer.key)
        .ok_or_else(|| SignError::Stranger(trailer.signer()))?;
    // Strict: keys and signatures that several verifiers would take differently are refused.
    key.verify_strict(content, &Signature::from_bytes(&trailer.signature))
        .map_err(|_| SignError::Mismatch(trailer.signer()))?;
    Ok(key)
}

#[cfg(test)]
mod tests;
