//! Key sets that are fetched while policies are in force: who fetches puts them here, who verifies
//! takes them from here. Nothing in this module fetches.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::KeySet;
use crate::ir::JwtRule;

/// Where a key set is to be had.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum KeySource {
    /// `jwksUri`
    Uri(String),
    /// The issuer, whose discovery document names the address.
    Issuer(String),
}

impl KeySource {
    /// ISTIO: "Provide the URL of the provider's public key set to validate signature of the JWT.
    /// Optional if the key set document can either (a) be retrieved from OpenID Discovery of the
    /// issuer."
    pub(super) fn of(rule: &JwtRule) -> Self {
        match &rule.jwks_uri {
            Some(uri) => Self::Uri(uri.clone()),
            None => Self::Issuer(rule.issuer.clone()),
        }
    }

    /// What is asked first.
    pub fn address(&self) -> String {
        match self {
            Self::Uri(uri) => uri.clone(),
            Self::Issuer(issuer) => format!(
                "{}/.well-known/openid-configuration",
                issuer.trim_end_matches('/')
            ),
        }
    }
}

/// All key sets that programs have asked for, by source. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct KeyRing(Arc<Mutex<BTreeMap<KeySource, Arc<KeySlot>>>>);

/// The keys of one source, as they are now. In the beginning there are none.
#[derive(Debug, Default)]
pub struct KeySlot {
    keys: RwLock<Arc<KeySet>>,
    timeout_ms: AtomicU64,
}

impl KeyRing {
    /// The slot of a source, made where there is none.
    pub(super) fn slot(&self, source: KeySource, timeout_ms: Option<u64>) -> Arc<KeySlot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(source).or_default();
        let timeout = timeout_ms.unwrap_or(0);
        slot.timeout_ms.fetch_max(timeout, Ordering::Relaxed);
        Arc::clone(slot)
    }

    /// The sources that some program still asks for; the others are forgotten.
    pub fn wanted(&self) -> Vec<(KeySource, Arc<KeySlot>)> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        let all = slots.iter();
        all.map(|(source, slot)| (source.clone(), Arc::clone(slot)))
            .collect()
    }
}

impl KeySlot {
    /// From now on tokens are verified with these.
    pub fn set(&self, keys: KeySet) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// The keys of this moment.
    pub fn now(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The longest `timeout` of the rules that ask for it, in milliseconds; `None`: they name none.
    pub fn timeout_ms(&self) -> Option<u64> {
        Some(self.timeout_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }
}

/// What an issuer's tokens are verified with.
#[derive(Debug)]
pub(super) enum Keys {
    Given(Arc<KeySet>),
    Fetched(Arc<KeySlot>),
}

impl Keys {
    pub fn now(&self) -> Arc<KeySet> {
        match self {
            Self::Given(keys) => Arc::clone(keys),
            Self::Fetched(slot) => slot.now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_one_slot_as_long_as_somebody_asks() {
        let ring = KeyRing::default();
        let uri = KeySource::Uri("https://a/keys".into());
        let slot = ring.slot(uri.clone(), Some(7));
        let same = ring.clone().slot(uri.clone(), None);
        assert!(Arc::ptr_eq(&slot, &same));
        assert_eq!(slot.timeout_ms(), Some(7));
        let found: Vec<_> = ring
            .wanted()
            .into_iter()
            .map(|(source, _)| source)
            .collect();
        assert_eq!(found, [uri]);
        drop((slot, same));
        assert!(ring.wanted().is_empty(), "nobody asks any more");
    }

    #[test]
    fn discovery_is_asked_of_the_issuer() {
        let issuer = KeySource::Issuer("https://a/b/".into());
        let expected = "https://a/b/.well-known/openid-configuration";
        assert_eq!(issuer.address(), expected);
    }
}
