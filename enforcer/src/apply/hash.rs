//! What a bundle is known by.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// SHA-256 of a bundle's payload, shared by every activation of it. Policies that were changed one by
/// one have none until somebody has compiled all of them.
#[derive(Clone, Default, Debug)]
pub struct BundleHash(Arc<OnceLock<String>>);

impl BundleHash {
    pub fn known(hash: String) -> Self {
        Self(Arc::new(OnceLock::from(hash)))
    }

    /// What is shown until it is known.
    pub const PENDING: &str = "pending";

    /// In lower-case hexadecimal.
    pub fn get(&self) -> &str {
        self.0.get().map_or(Self::PENDING, String::as_str)
    }

    /// Its beginning, for people.
    pub fn short(&self) -> &str {
        self.get().get(..12).unwrap_or(self.get())
    }

    /// Tells what it is; the first word on it counts.
    pub fn tell(&self, hash: String) {
        self.0.get_or_init(|| hash);
    }
}

impl fmt::Display for BundleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_activation_learns_of_a_hash_that_is_told_once() {
        let first = BundleHash::default();
        let again = first.clone();
        assert_eq!(again.get(), BundleHash::PENDING);
        first.tell("aa".into());
        first.tell("bb".into());
        assert_eq!(again.to_string(), "aa");
        assert_eq!(BundleHash::known("cc".into()).get(), "cc");
    }
}
