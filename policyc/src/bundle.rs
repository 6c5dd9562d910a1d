//! A bundle: a compiled program and the inventory it was compiled with, as bytes, with a header that
//! tells what it is and whether it is whole.
//!
//! ```text
//! offset  size
//!      0     8  magic `POLICYC\0`
//!      8     4  format version           all numbers little-endian
//!     12     4  table ABI
//!     16     8  generation
//!     24    16  compiler version, ASCII, padded with zeros
//!     40     8  length of the payload in bytes
//!     48    32  SHA-256 of the payload
//!     80     -  payload: length of the program in bytes (8), program, inventory; bincode 2 with
//!               fixed-size integers, little-endian
//!      -   104  a signature over all bytes before it, or nothing: `sign`
//! ```
//!
//! A node reads the program alone: 100 000 pods would be read for nothing. The same sources give the
//! same bytes. bincode is unmaintained upstream: everything about it
//! stays in this file.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use enforcer_ebpf::words::ABI;
use sha2::{Digest, Sha256};

use crate::{
    inventory::Inventory,
    ir::{Literal, Program},
    sign::{TRAILER, Trailer},
};

/// First bytes of every bundle.
pub const MAGIC: [u8; 8] = *b"POLICYC\0";
/// Version of the header and of the payload's types.
pub const FORMAT: u32 = 2;
/// Most bytes of a payload that are ever read.
pub const PAYLOAD_MAX: usize = 1 << 30;
/// Bytes of the header.
pub const HEADER: usize = 80;
/// Bytes of the program's length, in front of it.
const LENGTH: usize = 8;

/// A bundle that was read and found whole.
#[derive(Clone, PartialEq, Debug)]
pub struct Bundle {
    /// Given by whoever compiled; 0 is unordered.
    pub generation: u64,
    /// Version of the compiler.
    pub compiler: String,
    /// SHA-256 of the payload, in lower-case hexadecimal.
    pub hash: String,
    /// The key that claims to have signed it, by its fingerprint. Reading verifies no signature.
    pub signer: Option<String>,
    pub program: Program,
}

/// Why bytes are not a bundle.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BundleError {
    #[error("not a bundle: it does not begin with the bundle's magic")]
    Foreign,
    #[error("the bundle ends early: {found} bytes of {expected}")]
    Truncated { expected: u64, found: u64 },
    #[error("{0} bytes follow the end of the bundle")]
    Trailing(u64),
    #[error("bundle format {found}, this version reads {expected}: compile the policies again")]
    Format { found: u32, expected: u32 },
    #[error("table ABI {found}, this version writes {expected}: compile the policies again")]
    Abi { found: u32, expected: u32 },
    #[error("the bundle was damaged: its checksum does not match")]
    Checksum,
    #[error("a payload of {0} bytes exceeds the limit of {PAYLOAD_MAX}")]
    TooLarge(u64),
    #[error("the payload cannot be read: {0}")]
    Payload(String),
    #[error("the payload refers to {what} {number}, which it does not hold")]
    Dangling { what: &'static str, number: u32 },
}

type Config = Configuration<LittleEndian, Fixint, Limit<PAYLOAD_MAX>>;

fn config() -> Config {
    bincode::config::standard()
        .with_fixed_int_encoding()
        .with_limit::<PAYLOAD_MAX>()
}

/// The bytes of a program and of the inventory it was compiled with.
///
/// # Errors
/// A payload beyond [`PAYLOAD_MAX`].
pub fn write(
    program: &Program,
    inventory: &Inventory,
    generation: u64,
) -> Result<Vec<u8>, BundleError> {
    let failed = |e: bincode::error::EncodeError| BundleError::Payload(e.to_string());
    let mut payload = vec![0; LENGTH];
    bincode::serde::encode_into_std_write(program, &mut payload, config()).map_err(failed)?;
    let program_length = (payload.len() - LENGTH) as u64;
    payload.splice(..LENGTH, program_length.to_le_bytes());
    bincode::serde::encode_into_std_write(inventory, &mut payload, config()).map_err(failed)?;
    if payload.len() > PAYLOAD_MAX {
        return Err(BundleError::TooLarge(payload.len() as u64));
    }
    Ok(sealed(&payload, generation))
}

/// A payload under a header that fits it.
pub fn sealed(payload: &[u8], generation: u64) -> Vec<u8> {
    let mut version = [0u8; 16];
    for (place, byte) in version.iter_mut().zip(env!("CARGO_PKG_VERSION").bytes()) {
        *place = byte;
    }
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend(MAGIC);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(ABI.to_le_bytes());
    bytes.extend(generation.to_le_bytes());
    bytes.extend(version);
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(Sha256::digest(payload));
    bytes.extend(payload);
    bytes
}

/// Reads a bundle and checks that it is whole; the inventory is left unread.
///
/// # Errors
/// Anything that is not exactly one bundle of this version.
pub fn read(bytes: &[u8]) -> Result<Bundle, BundleError> {
    let whole = whole(bytes)?;
    let program: Program = decode(whole.program)?;
    check(&program)?;
    let compiler: Vec<u8> = part::<16>(whole.header, 24)
        .into_iter()
        .take_while(|b| *b != 0)
        .collect();
    Ok(Bundle {
        generation: u64::from_le_bytes(part(whole.header, 16)),
        compiler: String::from_utf8_lossy(&compiler).into_owned(),
        hash: part::<32>(whole.header, 48)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect(),
        signer: whole.trailer.map(|trailer| trailer.signer()),
        program,
    })
}

/// The bytes that a signature covers, and the signature. Only the header is looked at: what is not
/// signed is not to be read.
///
/// # Errors
/// Bytes that are not as long as the header says.
pub fn split(bytes: &[u8]) -> Result<(&[u8], Option<Trailer>), BundleError> {
    let (content, rest) = lengths(bytes)?;
    if rest.is_empty() {
        return Ok((content, None));
    }
    match Trailer::read(rest) {
        Some(trailer) => Ok((content, Some(trailer))),
        // A piece of a signature, or anything else.
        None if rest.len() < TRAILER
            && crate::sign::MAGIC.starts_with(&rest[..rest.len().min(8)]) =>
        {
            Err(BundleError::Truncated {
                expected: (content.len() + TRAILER) as u64,
                found: bytes.len() as u64,
            })
        }
        None => Err(BundleError::Trailing(rest.len() as u64)),
    }
}

/// Reads a bundle's inventory.
///
/// # Errors
/// Anything that is not exactly one bundle of this version.
pub fn read_inventory(bytes: &[u8]) -> Result<Inventory, BundleError> {
    decode(whole(bytes)?.inventory)
}

/// A bundle's bytes, found whole.
struct Whole<'a> {
    header: &'a [u8; HEADER],
    program: &'a [u8],
    inventory: &'a [u8],
    trailer: Option<Trailer>,
}

/// A bundle's own bytes, and what follows them.
fn lengths(bytes: &[u8]) -> Result<(&[u8], &[u8]), BundleError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(BundleError::Foreign);
    }
    let found = bytes.len() as u64;
    let (header, _) = bytes
        .split_first_chunk::<HEADER>()
        .ok_or(BundleError::Truncated {
            expected: HEADER as u64,
            found,
        })?;
    let format = u32::from_le_bytes(part(header, 8));
    if format != FORMAT {
        return Err(BundleError::Format {
            found: format,
            expected: FORMAT,
        });
    }
    let abi = u32::from_le_bytes(part(header, 12));
    if abi != ABI {
        return Err(BundleError::Abi {
            found: abi,
            expected: ABI,
        });
    }
    let length = u64::from_le_bytes(part(header, 40));
    if length > PAYLOAD_MAX as u64 {
        return Err(BundleError::TooLarge(length));
    }
    let expected = HEADER as u64 + length;
    let split = usize::try_from(expected).ok();
    split
        .and_then(|at| bytes.split_at_checked(at))
        .ok_or(BundleError::Truncated { expected, found })
}

fn whole(bytes: &[u8]) -> Result<Whole<'_>, BundleError> {
    let (content, trailer) = split(bytes)?;
    let (header, payload) = content
        .split_first_chunk::<HEADER>()
        .ok_or(BundleError::Foreign)?;
    if Sha256::digest(payload)[..] != part::<32>(header, 48) {
        return Err(BundleError::Checksum);
    }
    let (program, inventory) = payload
        .split_first_chunk::<LENGTH>()
        .and_then(|(length, parts)| {
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            parts.split_at_checked(length)
        })
        .ok_or(BundleError::Payload("its parts do not fit".into()))?;
    Ok(Whole {
        header,
        program,
        inventory,
        trailer,
    })
}

/// Decodes a part that must be read to its last byte.
fn decode<T: serde::de::DeserializeOwned>(part: &[u8]) -> Result<T, BundleError> {
    let (value, used) = bincode::serde::decode_from_slice(part, config())
        .map_err(|e| BundleError::Payload(e.to_string()))?;
    if used != part.len() {
        return Err(BundleError::Trailing((part.len() - used) as u64));
    }
    Ok(value)
}

fn part<const N: usize>(header: &[u8; HEADER], at: usize) -> [u8; N] {
    let mut out = [0; N];
    for (place, byte) in out.iter_mut().zip(header.iter().skip(at)) {
        *place = *byte;
    }
    out
}

/// Every number must refer to something: a checksum protects against damage, not against a writer
/// that meant ill.
fn check(program: &Program) -> Result<(), BundleError> {
    for policy in &program.policies {
        for rule in &policy.rules {
            for question in crate::lower::scope::questions(rule) {
                check_question(program, question)?;
            }
        }
        if policy.lines.len() != policy.rules.len() {
            return Err(BundleError::Dangling {
                what: "the line of a rule",
                number: u32::try_from(policy.lines.len()).unwrap_or(u32::MAX),
            });
        }
    }
    Ok(())
}

/// A field's values must be what evaluation takes them for: there, sorted, and about one fact.
fn check_question(program: &Program, question: &Literal) -> Result<(), BundleError> {
    let mut facts = Vec::with_capacity(question.any.len());
    for id in &question.any {
        let atom = program.atoms.get(id.index());
        let dangling = BundleError::Dangling {
            what: "atom",
            number: id.0,
        };
        facts.push(atom.ok_or(dangling)?.fact());
    }
    let sorted = question.any.is_sorted_by(|a, b| a < b);
    if question.any.is_empty() || !sorted || facts.iter().any(|fact| Some(fact) != facts.first()) {
        return Err(BundleError::Payload(
            "the values of a field are not sorted, or not about the same fact".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
