//! Keys in files: PEM, PKCS#8 for private ones and SubjectPublicKeyInfo for public ones, as openssl
//! reads and writes them.

use ed25519_dalek::{
    SigningKey, VerifyingKey,
    pkcs8::{
        DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes,
        spki::der::pem::LineEnding,
    },
};
use sha2::{Digest, Sha256};

/// Why a key cannot be read or made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "it holds a private key, and a public one is wanted: `openssl pkey -in KEY -pubout` prints it"
    )]
    Private,
    #[error("it holds a public key, and the private one is wanted")]
    Public,
    #[error(
        "the private key is encrypted: decrypt it on the way, `openssl pkey -in KEY | policyc sign --key - ...`"
    )]
    Encrypted,
    #[error("it holds no key in PEM form (`-----BEGIN {0}-----`)")]
    None(&'static str),
    #[error("it holds a key, and not one of ed25519 (`policyc keygen` makes one): {0}")]
    Other(String),
    #[error("the machine gives no random bytes: {0}")]
    Random(String),
}

const PUBLIC: &str = "PUBLIC KEY";
const PRIVATE: &str = "PRIVATE KEY";

/// A new key: the private one as PKCS#8, the public one as SubjectPublicKeyInfo, both PEM.
///
/// # Errors
/// No random bytes.
pub fn generate() -> Result<(String, String), KeyError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| KeyError::Random(e.to_string()))?;
    let other = |e: &dyn std::fmt::Display| KeyError::Other(e.to_string());
    let public = SigningKey::from_bytes(&secret)
        .verifying_key()
        .to_public_key_pem(LineEnding::LF)
        .map_err(|e| other(&e))?;
    // Without the public half: openssl before 3.5 does not read version 2 of PKCS#8.
    let pair = KeypairBytes {
        secret_key: secret,
        public_key: None,
    };
    let private = pair.to_pkcs8_pem(LineEnding::LF).map_err(|e| other(&e))?;
    Ok((private.to_string(), public))
}

/// Reads a private key.
///
/// # Errors
/// Text that is not exactly that.
pub fn private_key(pem: &str) -> Result<SigningKey, KeyError> {
    if pem.contains("BEGIN ENCRYPTED PRIVATE KEY") {
        return Err(KeyError::Encrypted);
    }
    let blocks = blocks(pem, PRIVATE);
    let [block] = blocks.as_slice() else {
        return Err(match pem.contains("BEGIN PUBLIC KEY") {
            true => KeyError::Public,
            false => KeyError::None(PRIVATE),
        });
    };
    SigningKey::from_pkcs8_pem(block).map_err(|e| KeyError::Other(e.to_string()))
}

/// Reads public keys: at least one, as many as the text holds.
///
/// # Errors
/// Text that holds no public key, or anything in PEM form that is none.
pub fn public_keys(pem: &str) -> Result<Vec<VerifyingKey>, KeyError> {
    if pem.contains("PRIVATE KEY-----") {
        return Err(KeyError::Private);
    }
    let blocks = blocks(pem, PUBLIC);
    if blocks.is_empty() || pem.matches("-----BEGIN ").count() != blocks.len() {
        return Err(KeyError::None(PUBLIC));
    }
    let key = |block: &String| {
        VerifyingKey::from_public_key_pem(block).map_err(|e| KeyError::Other(e.to_string()))
    };
    blocks.iter().map(key).collect()
}

/// The PEM blocks of that label; text around them is for people.
fn blocks(text: &str, label: &str) -> Vec<String> {
    let (begin, end) = (
        format!("-----BEGIN {label}-----"),
        format!("-----END {label}-----"),
    );
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(&begin) {
        let block = rest.get(start..).unwrap_or_default();
        let Some(length) = block.find(&end).map(|at| at + end.len()) else {
            break;
        };
        found.push(format!("{}\n", block.get(..length).unwrap_or_default()));
        rest = block.get(length..).unwrap_or_default();
    }
    found
}

/// A short name of a public key, for people: the first 16 hexadecimal digits of its SHA-256.
pub fn fingerprint(key: &[u8; 32]) -> String {
    let digest = Sha256::digest(key);
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}
