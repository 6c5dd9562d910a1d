//! A bundle: a compiled program as bytes, with a header that tells what it is and whether it is
//! whole.
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
//!     80     -  payload: bincode 2, fixed-size integers, little-endian
//! ```
//!
//! The same program gives the same bytes. bincode is unmaintained upstream: everything about it
//! stays in this file.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use enforcer_ebpf::words::ABI;
use sha2::{Digest, Sha256};

use crate::ir::Program;

/// First bytes of every bundle.
pub const MAGIC: [u8; 8] = *b"POLICYC\0";
/// Version of the header and of the payload's types.
pub const FORMAT: u32 = 1;
/// Most bytes of a payload that are ever read.
pub const PAYLOAD_MAX: usize = 1 << 30;
const HEADER: usize = 80;

/// A bundle that was read and found whole.
#[derive(Clone, PartialEq, Debug)]
pub struct Bundle {
    /// Given by whoever compiled; 0 is unordered.
    pub generation: u64,
    /// Version of the compiler.
    pub compiler: String,
    /// SHA-256 of the payload, in lower-case hexadecimal.
    pub hash: String,
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

/// The bytes of a program.
///
/// # Errors
/// A payload beyond [`PAYLOAD_MAX`].
pub fn write(program: &Program, generation: u64) -> Result<Vec<u8>, BundleError> {
    let payload = bincode::serde::encode_to_vec(program, config())
        .map_err(|e| BundleError::Payload(e.to_string()))?;
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend(MAGIC);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(ABI.to_le_bytes());
    bytes.extend(generation.to_le_bytes());
    let mut version = [0u8; 16];
    for (place, byte) in version.iter_mut().zip(env!("CARGO_PKG_VERSION").bytes()) {
        *place = byte;
    }
    bytes.extend(version);
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(Sha256::digest(&payload));
    bytes.extend(payload);
    Ok(bytes)
}

/// Reads a bundle and checks that it is whole.
///
/// # Errors
/// Anything that is not exactly one bundle of this version.
pub fn read(bytes: &[u8]) -> Result<Bundle, BundleError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(BundleError::Foreign);
    }
    let found = bytes.len() as u64;
    let header: &[u8; HEADER] = bytes.first_chunk().ok_or(BundleError::Truncated {
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
    if found < expected {
        return Err(BundleError::Truncated { expected, found });
    }
    if found > expected {
        return Err(BundleError::Trailing(found - expected));
    }
    let payload = bytes.get(HEADER..).unwrap_or_default();
    let digest: [u8; 32] = Sha256::digest(payload).into();
    if digest != part::<32>(header, 48) {
        return Err(BundleError::Checksum);
    }
    let (program, used): (Program, usize) = bincode::serde::decode_from_slice(payload, config())
        .map_err(|e| BundleError::Payload(e.to_string()))?;
    if used != payload.len() {
        return Err(BundleError::Trailing((payload.len() - used) as u64));
    }
    check(&program)?;
    let compiler: Vec<u8> = part::<16>(header, 24)
        .into_iter()
        .take_while(|b| *b != 0)
        .collect();
    Ok(Bundle {
        generation: u64::from_le_bytes(part(header, 16)),
        compiler: String::from_utf8_lossy(&compiler).into_owned(),
        hash: digest.iter().map(|b| format!("{b:02x}")).collect(),
        program,
    })
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
            for atom in crate::lower::scope::atoms(rule) {
                if program.atoms.get(atom.index()).is_none() {
                    return Err(BundleError::Dangling {
                        what: "atom",
                        number: atom.0,
                    });
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Atom, Pattern};

    fn program() -> Program {
        Program {
            atoms: vec![Atom::Method(Pattern::Exact("GET".into()))],
            ..Program::default()
        }
    }

    #[test]
    fn a_bundle_round_trips_and_is_reproducible() {
        let bytes = write(&program(), 7).unwrap();
        assert_eq!(
            bytes,
            write(&program(), 7).unwrap(),
            "same input, same bytes"
        );
        let bundle = read(&bytes).unwrap();
        assert_eq!((bundle.generation, &bundle.program), (7, &program()));
    }

    #[test]
    fn whatever_is_not_exactly_a_bundle_is_refused() {
        let bytes = write(&program(), 0).unwrap();
        assert_eq!(read(b"#!/bin/sh"), Err(BundleError::Foreign));
        assert_eq!(read(b""), Err(BundleError::Foreign));
        for length in MAGIC.len()..bytes.len() {
            assert!(
                matches!(read(&bytes[..length]), Err(BundleError::Truncated { .. })),
                "cut to {length} bytes"
            );
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(read(&longer), Err(BundleError::Trailing(1)));
        for (at, error) in [
            (8, "format"),
            (12, "ABI"),
            (90, "checksum"),
            (50, "checksum"),
        ] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let message = read(&damaged).unwrap_err().to_string();
            assert!(message.contains(error), "byte {at}: {message}");
        }
    }

    #[test]
    fn numbers_that_lead_nowhere_are_refused() {
        let mut program = program();
        program.policies.push(crate::ir::Policy {
            namespace: "a".into(),
            name: "b".into(),
            file: String::new(),
            lines: vec![1],
            action: crate::ir::Action::Deny,
            dry_run: false,
            attachment: crate::ir::Attachment::default(),
            rules: vec![crate::ir::Rule {
                clauses: vec![crate::ir::Clause {
                    any: vec![crate::ir::Alternative {
                        all: vec![crate::ir::Literal {
                            any: vec![crate::ir::AtomId(9)],
                            negated: false,
                        }],
                    }],
                }],
            }],
        });
        let bytes = write(&program, 0).unwrap();
        assert_eq!(
            read(&bytes),
            Err(BundleError::Dangling {
                what: "atom",
                number: 9
            })
        );
    }
}
