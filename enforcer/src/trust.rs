//! Which bundles this node accepts: with `--require-signature` only those that a trusted key has
//! signed, and of those none that is older than one that was accepted before.
//!
//! The highest accepted generation is remembered in a file, and not beside the pins: a BPF file
//! system is empty after a reboot, and whoever can hand in an old bundle may be able to wait for one.
//! Only root may write the file. Whoever is root on the node can undo it, and needs not: root can
//! detach the programs. `enforcer/TRUST.md` says what is protected from whom.

mod memory;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use policyc::sign::{self, KeyError, SignError, VerifyingKey};

use memory::Memory;
pub use memory::{Accepted, MemoryError};

/// Where the highest accepted generation is remembered, unless told otherwise.
pub const STATE: &str = "/var/lib/enforcer/accepted.json";

/// The keys that are trusted, and what they have signed so far.
#[derive(Debug, Default)]
pub struct Trust {
    required: Option<Required>,
}

#[derive(Debug)]
struct Required {
    keys: Vec<VerifyingKey>,
    memory: Memory,
    highest: Mutex<Option<Accepted>>,
}

/// Why a bundle is not accepted. The old one stays in force.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Signature(#[from] SignError),
    #[error(
        "it has no generation, and signed bundles are ordered by it: compile it with `--generation N`"
    )]
    Unordered,
    #[error(
        "it is of generation {found}, and {highest} was accepted before: an older one is refused"
    )]
    Older { found: u64, highest: u64 },
    #[error(
        "it is of generation {generation}, as the bundle {accepted} that was accepted before, and is another one ({found}): give each state of the policies a generation of its own"
    )]
    Twin {
        generation: u64,
        accepted: String,
        found: String,
    },
    #[error("cannot read the public key `{path}`")]
    ReadKey {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is no public key")]
    Key {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl Trust {
    /// Trusts the keys that these files hold, with the memory in the file `state`. Without files
    /// every bundle is accepted, and nothing is remembered here.
    ///
    /// # Errors
    /// A file that is not public keys, or a memory that cannot be read: what was accepted before
    /// must not be forgotten.
    pub fn open(files: &[PathBuf], state: &Path) -> Result<Self, TrustError> {
        if files.is_empty() {
            return Ok(Self::default());
        }
        let mut keys = Vec::new();
        for path in files {
            let text = fs::read_to_string(path).map_err(|source| TrustError::ReadKey {
                path: path.clone(),
                source,
            })?;
            keys.extend(sign::public_keys(&text).map_err(|source| TrustError::Key {
                path: path.clone(),
                source,
            })?);
        }
        let memory = Memory::at(state);
        let highest = Mutex::new(memory.read()?);
        Ok(Self {
            required: Some(Required {
                keys,
                memory,
                highest,
            }),
        })
    }

    /// Whether bundles must be signed.
    pub fn is_required(&self) -> bool {
        self.required.is_some()
    }

    /// The keys that are trusted, as fingerprints. Empty: bundles need no signature.
    pub fn fingerprints(&self) -> Vec<String> {
        let keys = self.required.iter().flat_map(|required| &required.keys);
        keys.map(|key| sign::fingerprint(key.as_bytes())).collect()
    }

    /// The newest bundle that was accepted, where signatures are required.
    pub fn accepted(&self) -> Option<Accepted> {
        self.required.as_ref()?.highest().clone()
    }

    /// Checks the signature, before anything else of the bytes is read. Every way to a table goes
    /// through here, an operator's rollback as well.
    ///
    /// # Errors
    /// A bundle that no trusted key has signed as it is.
    pub fn check_signature(&self, bytes: &[u8]) -> Result<(), TrustError> {
        if let Some(required) = &self.required {
            sign::verify(bytes, &required.keys)?;
        }
        Ok(())
    }

    /// Checks that a bundle is not older than one that was accepted before, and is not another one
    /// of the same generation. For `load` and for whatever is delivered; an operator who rolls back
    /// means the older one, so that a rollback does not ask this, and leaves the memory as it is.
    ///
    /// # Errors
    /// A bundle without generation, an older one, or another one of the same generation.
    pub fn check_order(&self, generation: u64, hash: &str) -> Result<(), TrustError> {
        let Some(required) = &self.required else {
            return Ok(());
        };
        let found = generation;
        if found == 0 {
            return Err(TrustError::Unordered);
        }
        match &*required.highest() {
            Some(highest) if found < highest.generation => Err(TrustError::Older {
                found,
                highest: highest.generation,
            }),
            Some(highest) if found == highest.generation && hash != highest.hash => {
                Err(TrustError::Twin {
                    generation: found,
                    accepted: short(&highest.hash),
                    found: short(hash),
                })
            }
            _ => Ok(()),
        }
    }

    /// Remembers a bundle that is about to become active. What cannot be remembered must not become
    /// active: an older one could follow it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn remember(&self, generation: u64, hash: &str) -> Result<(), TrustError> {
        let Some(required) = &self.required else {
            return Ok(());
        };
        let mut highest = required.highest();
        if highest.as_ref().is_some_and(|h| h.generation >= generation) {
            return Ok(());
        }
        let accepted = Accepted {
            generation,
            hash: hash.into(),
        };
        required.memory.write(&accepted)?;
        *highest = Some(accepted);
        Ok(())
    }
}

impl Required {
    fn highest(&self) -> std::sync::MutexGuard<'_, Option<Accepted>> {
        // Whatever broke off while it was held left the old value or the new one.
        self.highest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first digits of a hash.
fn short(hash: &str) -> String {
    hash.get(..12).unwrap_or(hash).into()
}

#[cfg(test)]
mod tests;
