//! Key sets of token issuers, fetched by their address and kept fresh, so that `jwksUri` and the
//! discovery of an issuer work as they do in Istio.
//!
//! A set is fetched when a table first asks for it, and again every `refresh`. Where that fails, it is
//! tried again after a pause that doubles, and the set that is there stays good until it is older
//! than `stale`; from then on, and before the first one has come, every token of the issuer is
//! refused.

mod get;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use policyc::l7::{KeyRing, KeySet, KeySlot, KeySource};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::places::Places;
use get::Getter;

/// How key sets are kept fresh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freshness {
    pub refresh: Duration,
    /// From the last time that a set was fetched; after that it is not good any more.
    pub stale: Duration,
    pub first_pause: Duration,
    pub longest_pause: Duration,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            // As often as Istio.
            refresh: Duration::from_secs(20 * 60),
            stale: Duration::from_secs(24 * 3_600),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(300),
        }
    }
}

/// ISTIO: "The maximum duration to wait for a response from the JWKS URI", 5 seconds by default.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Key sets that are fetched at the same time.
const AT_ONCE: usize = 16;

/// One key set, for `enforcer status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeySetStatus {
    /// The address, or the issuer's discovery document.
    pub source: String,
    /// Keys that can verify something; with none every token is refused.
    pub keys: usize,
    /// Seconds since the set was fetched.
    pub age_seconds: Option<u64>,
    /// Why it could not be fetched the last time.
    pub error: Option<String>,
}

/// Fetches what a ring asks for.
pub struct Fetcher {
    ring: KeyRing,
    getter: Arc<Getter>,
    freshness: Freshness,
    known: Mutex<BTreeMap<KeySource, Known>>,
}

#[derive(Debug)]
struct Known {
    slot: Arc<KeySlot>,
    due: Instant,
    failures: u32,
    fetched: Option<Instant>,
    error: Option<String>,
}

impl Fetcher {
    pub fn new(ring: KeyRing, places: Arc<Places>, freshness: Freshness) -> Self {
        Self {
            ring,
            getter: Arc::new(Getter::new(places)),
            freshness,
            known: Mutex::default(),
        }
    }

    /// What there is.
    pub fn status(&self) -> Vec<KeySetStatus> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |(source, known): (&KeySource, &Known)| KeySetStatus {
            source: source.address(),
            keys: known.slot.now().len(),
            age_seconds: known.fetched.map(|at| at.elapsed().as_secs()),
            error: known.error.clone(),
        };
        known.iter().map(one).collect()
    }

    /// Fetches until `changes` ends; each change may bring new sources.
    pub async fn run(&self, mut changes: watch::Receiver<u64>) {
        loop {
            let due = self.round().await;
            let next = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next => {}
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Fetches what is due; when something is due next.
    async fn round(&self) -> Option<Instant> {
        let mut waiting = self.due();
        let mut fetching = JoinSet::new();
        loop {
            while fetching.len() < AT_ONCE
                && let Some((source, slot)) = waiting.pop()
            {
                let getter = Arc::clone(&self.getter);
                let limit = slot.timeout_ms().map_or(TIMEOUT, Duration::from_millis);
                fetching.spawn(async move {
                    let fetched = timeout(limit, fetch(&getter, &source)).await;
                    (source, fetched.unwrap_or_else(|late| Err(late.into())))
                });
            }
            match fetching.join_next().await {
                Some(Ok((source, fetched))) => self.fetched(&source, fetched),
                Some(Err(error)) => tracing::error!(%error, "fetching a key set broke off"),
                None => break,
            }
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().map(|known| known.due).min()
    }

    /// What is due now. What nobody asks for any more is forgotten.
    fn due(&self) -> Vec<(KeySource, Arc<KeySlot>)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let before = std::mem::take(&mut *known);
        // Its own hold on a slot is none of the asking.
        let mut times: BTreeMap<KeySource, _> = before
            .into_iter()
            .map(|(source, k)| (source, (k.due, k.failures, k.fetched, k.error)))
            .collect();
        for (source, slot) in self.ring.wanted() {
            let (due, failures, fetched, error) =
                times.remove(&source).unwrap_or((now, 0, None, None));
            let entry = Known {
                slot,
                due,
                failures,
                fetched,
                error,
            };
            known.insert(source, entry);
        }
        let due = known.iter().filter(|(_, known)| known.due <= now);
        due.map(|(source, known)| (source.clone(), Arc::clone(&known.slot)))
            .collect()
    }

    fn fetched(&self, source: &KeySource, fetched: io::Result<KeySet>) {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = all.get_mut(source) else {
            return;
        };
        let now = Instant::now();
        let address = source.address();
        match fetched {
            Ok(keys) => {
                tracing::info!(source = %address, keys = keys.len(), "key set");
                known.slot.set(keys);
                known.fetched = Some(now);
                known.failures = 0;
                known.error = None;
                known.due = now + self.freshness.refresh;
            }
            Err(error) => {
                let error = crate::chain(&error);
                let stale = self.freshness.stale;
                let good = known.fetched.is_some_and(|at| at.elapsed() < stale);
                if !good {
                    known.slot.set(KeySet::default());
                }
                tracing::warn!(source = %address, error, good, "cannot fetch a key set");
                known.error = Some(error);
                let doublings = known.failures.min(16);
                known.failures = known.failures.saturating_add(1);
                let pause = self.freshness.first_pause * (1 << doublings);
                // Not all agents of a cluster at the same moment.
                let pause = pause.min(self.freshness.longest_pause);
                let pause = pause.mul_f64(0.75 + fastrand::f64() / 2.0);
                known.due = now + pause;
            }
        }
    }
}

/// The key set of a source.
async fn fetch(getter: &Getter, source: &KeySource) -> io::Result<KeySet> {
    let address = match source {
        KeySource::Uri(uri) => uri.clone(),
        KeySource::Issuer(issuer) => {
            let text = getter.get(&source.address()).await?;
            let document: serde_json::Value = serde_json::from_str(&text)?;
            // OpenID Connect Discovery, 4.3: a document that names another issuer is not this one's.
            let named = |field: &str| document.get(field).and_then(|f| f.as_str());
            if named("issuer") != Some(issuer) {
                return Err(bad("the discovery document is of another issuer"));
            }
            let uri = named("jwks_uri").map(str::to_owned);
            uri.ok_or_else(|| bad("the discovery document names no `jwks_uri`"))?
        }
    };
    let keys = KeySet::parse(&getter.get(&address).await?);
    if keys.is_empty() {
        return Err(bad("it holds no key that can be used"));
    }
    Ok(keys)
}

fn bad(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests;
