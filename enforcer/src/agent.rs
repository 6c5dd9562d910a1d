//! The running agent: what it holds, and what can be asked of it.
//!
//! [`start`](start::start) brings it up. Every order goes through one lock, so that activations
//! follow one another; packets never wait for it.

mod change;
mod cluster;
mod explain;
mod gather;
mod hooks;
pub mod links;
mod pause;
mod proxied;
mod refresh;
mod relink;
mod rollback;
mod shadow;
pub mod start;
mod status;
mod take_up;
mod takeover;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use enforcer_ebpf::{
    flow::FlowKey,
    reason::Reason,
    words::{Words as _, header},
};
use tokio::sync::{Notify, watch};

pub use change::Changed;
pub use explain::{Explained, Live};
pub use gather::{Gather, LATE_MAX};
pub use hooks::{ASK_EVERY, HookChoice, HookPath, Hooks};
pub use pause::{PAUSE_MAX, PauseError, PauseStatus, Paused};
pub use shadow::{ShadowRule, ShadowStatus};
pub use start::{Options, Running, StartError};
pub use status::{PodStatus, Status};

use crate::{
    apply::{self, ApplyError, Before, Generation, Settings},
    attach::AttachError,
    delivery::{Delivery, Fetched},
    ext_authz::ExtAuthz,
    flows::{
        FlowsError, OutFlows, Owner, address_of,
        datagrams::DatagramFlows,
        denied::{self, Exempt},
    },
    inventory::{Inventory, InventoryError, LocalPod, Lost, PodName, Wanted, enrolment::unwanted},
    key_sets::{Fetcher, KeySetStatus},
    kube::Health,
    object::ObjectError,
    pins::PinsError,
    places::Places,
    proxy::Flow,
    proxy_host::Watched,
    report::{
        Kind, Reporter,
        access::AccessLog,
        counters::{Counters, CountersError},
        line,
    },
    state::{HISTORY_MAX, Keeper, Kept, Names, Past},
    table::Tables,
    trust::Trust,
};

/// The agent.
pub struct Agent {
    state: Mutex<State>,
    /// What judges now; read by the proxy for each connection.
    pub active: ArcSwapOption<Generation>,
    pub reporter: Arc<Reporter>,
    /// The proxy, once it runs.
    pub proxy: OnceLock<Watched>,
    /// How well the API server is followed, where one is.
    pub cluster: Option<Arc<Health>>,
    /// Epoch of the last activation.
    pub(crate) changes: watch::Sender<u64>,
    /// Has the node's interfaces looked at once more.
    look: Notify,
    /// Which pods are this node's.
    wanted: Wanted,
    /// Files of the inventory and of the mesh, if it comes from files.
    inventory: (Vec<PathBuf>, Option<PathBuf>),
    /// Where those are whom the agent itself asks.
    places: Arc<Places>,
    /// What keeps the agent from following the node's interfaces.
    unfollowed: ArcSwapOption<String>,
    /// Pauses, as far as the proxy must know of them.
    paused: ArcSwap<Paused>,
    settings: Settings,
    hooks: Hooks,
    /// What is known of the pods' hooks.
    paths: Mutex<BTreeMap<PodName, HookPath>>,
    /// As it was started, for reports.
    configuration: BTreeMap<String, serde_json::Value>,
    /// Which bundles are accepted.
    trust: Trust,
    /// What has come from where bundles are published.
    pub delivery: OnceLock<Arc<Delivery>>,
    /// Asks authorizers.
    pub(crate) authorizers: Arc<ExtAuthz>,
    /// Keeps key sets fresh.
    pub fetcher: Fetcher,
    pub(crate) access: Option<AccessLog>,
}

struct State {
    tables: Tables,
    counters: Counters,
    out: OutFlows,
    datagrams: DatagramFlows,
    exempt: Exempt,
    /// Activation whose denials have been carried over to the pods' sockets.
    ended_epoch: u32,
    inventory: Arc<Inventory>,
    /// Everything is about to be detached: nothing may be attached any more.
    leaving: bool,
    shadow: Option<shadow::Shadow>,
    keeper: Keeper,
    /// What the keeper was given last.
    kept: Kept,
    /// Indices of the interfaces that may speak for pods of other nodes, where that is limited.
    uplinks: Vec<u32>,
}

/// Why an order was not carried out. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("no table is active yet")]
    NoTable,
    #[error("no shadow generation is loaded: `enforcer shadow load` does that")]
    NoShadow,
    #[error("no bundle that was active before this one is kept: there is nothing to go back to")]
    NothingBefore,
    #[error(
        "the policies are those of the API server, and whatever is applied there is in force here: use \
         `kubectl apply`, also for what was there before; `enforcer shadow load` tries a bundle beside \
         them, and `enforcer pause` lets a pod's connections through"
    )]
    ClustersPolicies,
    #[error("the inventory does not come from files: there is nothing to read again")]
    NoFiles,
    #[error(transparent)]
    Inventory(#[from] Box<InventoryError>),
    #[error("{0}")]
    Unexplained(String),
    #[error(transparent)]
    Pause(#[from] PauseError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Counters(#[from] CountersError),
    #[error(transparent)]
    Flows(#[from] FlowsError),
    #[error(transparent)]
    Object(#[from] Box<ObjectError>),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Pins(#[from] PinsError),
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}

impl Agent {
    /// Makes a bundle the active one. Blocks for a grace period.
    pub fn load(&self, path: &Path) -> Result<Arc<Generation>, OrderError> {
        self.takes_bundles()?;
        self.activate(apply::read(path, &self.trust)?)
    }

    /// Makes a bundle that was delivered the active one, as [`load`](Self::load) does.
    pub fn offer(&self, fetched: Fetched) -> Result<Arc<Generation>, OrderError> {
        let loaded = apply::parse(fetched.bytes, &fetched.name, &self.trust)?;
        match self.active.load_full() {
            // Whoever published it has told the agent as well.
            Some(active) if active.hash.get() == loaded.bundle.hash => Ok(active),
            _ => self.activate(loaded),
        }
    }

    /// Refuses what the next change in the cluster would undo.
    fn takes_bundles(&self) -> Result<(), OrderError> {
        let cluster = self.cluster.as_ref();
        match cluster.is_some_and(|health| health.has_policies()) {
            true => Err(OrderError::ClustersPolicies),
            false => Ok(()),
        }
    }

    fn activate(&self, loaded: apply::Loaded) -> Result<Arc<Generation>, OrderError> {
        self.activate_in(&mut self.state(), loaded)
    }

    fn activate_in(
        &self,
        state: &mut State,
        loaded: apply::Loaded,
    ) -> Result<Arc<Generation>, OrderError> {
        apply::check_order(&loaded, state.kept.newest, &self.trust)?;
        let active = self.active.load_full();
        self.link_and_publish(state, loaded, active.as_deref())
    }

    /// From now on packets from these interfaces, and no others, may speak for pods of other nodes.
    pub fn trust_uplinks(&self, indices: &[u32]) {
        let state = &mut *self.state();
        if state.uplinks != indices {
            tracing::info!(names = ?self.settings.trusted_uplinks, ?indices, "trusted uplinks");
            state.uplinks = indices.into();
            state.tables.trust_uplinks(&apply::trusted(indices));
        }
    }

    /// Forgets outbound connections that are over, and which pods had connections through the proxy.
    /// Blocks while the kernel is asked for sockets.
    pub fn clean(&self) -> Result<usize, OrderError> {
        let state = &mut *self.state();
        self.end_denied(state);
        if let Some(active) = &*self.active.load() {
            let busy = self.proxy.get().map(Watched::slots).unwrap_or_default();
            proxied::clear(&state.tables, active, &busy);
        }
        let slots = self.before(state).slots(&state.inventory);
        let owners = owners(&state.inventory, &slots);
        let cleaned = state.out.clean(&owners);
        self.keep_requests(state);
        Ok(cleaned? + state.datagrams.clean()?)
    }

    /// Keeps what only this process knows. To be called before it ends.
    pub fn keep(&self) {
        self.keep_requests(&mut self.state());
    }

    /// Takes away what was kept: everything is detached. Nothing is kept from now on.
    pub fn forget(&self) {
        self.state().keeper.forget();
    }

    /// Events that were counted by the kernel and not sent.
    pub fn events_dropped(&self) -> Result<u64, OrderError> {
        Ok(self.state().counters.reason(Reason::EventDropped)?)
    }

    /// Names the requests that were counted by number.
    fn count_requests(&self, state: &mut State) {
        let policy = |epoch, rule| {
            let generation = self.reporter.generation(epoch)?;
            generation.rules.policy_name(rule)
        };
        let requests = self.reporter.requests.take(policy);
        state.counters.add_requests(requests);
    }

    fn keep_requests(&self, state: &mut State) {
        self.count_requests(state);
        if state.counters.sums() != state.kept.hits {
            state.keep();
        }
    }

    /// Ends the pods' side of connections that the table has ceased to allow, once for each table.
    fn end_denied(&self, state: &mut State) {
        let active = self.active.load();
        let Some(active) = active.as_ref().filter(|a| a.epoch != state.ended_epoch) else {
            return;
        };
        // Nobody is to be told.
        if self.settings.audit || self.settings.refuse_drop {
            return;
        }
        let slots = Before::of(&state.tables).slots(&state.inventory);
        let (mut ended, mut later) = (0, false);
        for owner in owners(&state.inventory, &slots) {
            if state.tables.is_unhindered(owner.slot) {
                later = true;
                continue;
            }
            let denied = |key: &FlowKey| {
                let flow = Flow {
                    pod: SocketAddr::new(address_of(&key.pod), key.pod_port),
                    remote: SocketAddr::new(address_of(&key.remote), key.remote_port),
                };
                active.rules.surely_denies(flow) && !state.out.has(key) && !state.exempt.has(key)
            };
            match denied::end(&owner, denied) {
                Ok(count) => ended += count,
                Err(error) => tracing::warn!(
                    error = crate::chain(&error),
                    slot = owner.slot,
                    "the pod's side of connections that are denied by now stays open"
                ),
            }
        }
        if !later {
            state.ended_epoch = active.epoch;
        }
        if ended != 0 {
            tracing::info!(ended, "connections that are denied by now");
        }
    }

    /// Everything that can fail comes first; then the reporter and the proxy learn of the new table
    /// in the order in which its verdicts reach them.
    fn publish(
        &self,
        state: &mut State,
        mut loaded: apply::Loaded,
        mut prepared: apply::Prepared,
    ) -> Result<Arc<Generation>, OrderError> {
        prepared.trust_uplinks(&state.uplinks);
        state
            .tables
            .check(&prepared.linked.words)
            .map_err(ApplyError::from)?;
        let records = prepared.linked.words.as_slice().at(header::RECORDS_COUNT);
        state.counters.check(records)?;
        let began = Instant::now();
        // Their names are those of generations that are about to be forgotten.
        self.count_requests(state);
        let idle = state.tables.idle_slot();
        state.make_room(idle)?;
        let staged = state.tables.stage_in(idle, &prepared.linked.words);
        let staged = staged.map_err(ApplyError::from)?;
        let bytes = std::mem::take(&mut loaded.bytes);
        let (number, hash) = (loaded.bundle.generation, &loaded.bundle.hash);
        let remembered = self.trust.remember(number, hash);
        remembered.map_err(|source| ApplyError::Untrusted {
            path: loaded.path.clone(),
            source,
        })?;
        let generation = apply::generation(loaded, prepared, &staged, began.elapsed());
        let generation = Arc::new(generation);
        let names = Names::of(generation.epoch, &generation.attributions);
        state.assign(idle, names);
        self.reporter.activate(generation.clone());
        state.tables.switch(&staged);
        self.activated(state, &generation, &bytes);
        let about = described(&generation);
        self.reporter.notice(Kind::Active, about, None);
        Ok(generation)
    }

    /// Everybody learns of the table that has just become active.
    fn activated(&self, state: &mut State, generation: &Arc<Generation>, bytes: &[u8]) {
        self.active.store(Some(generation.clone()));
        self.changes.send_replace(u64::from(generation.epoch));
        self.pauses_changed(state, generation);
        state.remember(generation, bytes);
        tracing::info!(
            epoch = generation.epoch,
            generation = generation.generation,
            hash = generation.hash.short(),
            words = generation.words,
            link_us = generation.times.link_us,
            publish_us = generation.times.publish_us,
            "active"
        );
    }

    /// What the active table hands on, and which slots its pods have.
    fn before(&self, state: &State) -> Before {
        let before = Before::of(&state.tables);
        match &*self.active.load() {
            Some(active) => before.named(&active.pods),
            None => before,
        }
    }

    fn paths(&self) -> MutexGuard<'_, BTreeMap<PodName, HookPath>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pods that should be policed and are not: `namespace/name`.
    pub fn lost(&self) -> Vec<String> {
        let state = self.state();
        let cluster = &state.inventory.cluster;
        let lost = state.inventory.lost.iter();
        // On the node's own network nothing can be enforced: that is no fault of this node.
        let lost = lost.filter(|(_, reason)| *reason != Lost::HostNetwork);
        let lost = lost.filter(|(name, _)| unwanted(name, cluster, &self.settings).is_none());
        lost.map(|(name, _)| format!("{}/{}", name.0, name.1))
            .collect()
    }

    /// The key sets that are fetched.
    pub fn key_sets(&self) -> Vec<KeySetStatus> {
        self.fetcher.status()
    }

    /// Lines that the access log lacks.
    pub fn access_lines_lost(&self) -> u64 {
        self.access.as_ref().map_or(0, AccessLog::lost)
    }

    /// Fetches key sets for as long as the agent lives.
    pub async fn fetch_keys(&self) {
        self.fetcher.run(self.changes.subscribe()).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held leaves whole values: every step of an activation is one store.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Empties a slot that is to be written: waits until nobody reads it, and takes over what was
    /// counted there.
    fn make_room(&mut self, slot: u32) -> Result<(), OrderError> {
        self.tables.await_readers(slot).map_err(ApplyError::from)?;
        let records = self.tables.records(slot);
        self.counters.retire(slot)?;
        self.keep();
        Ok(self.counters.clear(slot, records)?)
    }

    /// What the records of a slot stand for is kept before they can be counted.
    fn assign(&mut self, slot: u32, names: Names) {
        self.keeper.keep_names(slot, &names);
        self.counters.assign(slot, names);
        self.keep();
    }

    /// A bundle that has become active can be gone back to.
    fn remember(&mut self, generation: &Generation, bytes: &[u8]) {
        self.kept.newest = self.kept.newest.max(generation.generation);
        if bytes.is_empty() {
            return self.keep();
        }
        let history = &mut self.kept.history;
        if history
            .last()
            .is_none_or(|past| past.hash != generation.hash.get())
        {
            history.push(Past {
                generation: generation.generation,
                hash: generation.hash.to_string(),
                bundle: generation.bundle.clone(),
                since: line::now(),
            });
            let over = history.len().saturating_sub(HISTORY_MAX);
            history.drain(..over);
        }
        self.keeper.keep_bundle(generation.hash.get(), bytes);
        let hashes = self.kept.history.iter().map(|past| past.hash.as_str());
        self.keeper.forget_bundles_but(&hashes.collect());
        self.keep();
    }

    fn keep(&mut self) {
        self.kept.hits = self.counters.sums();
        self.kept.slots = self.counters.assigned();
        self.keeper.keep(&self.kept);
    }
}

/// A generation in words, for notices.
fn described(generation: &Generation) -> String {
    format!(
        "{}: generation {}, epoch {}, sha256 {}",
        generation.bundle.display(),
        generation.generation,
        generation.epoch,
        generation.hash.short()
    )
}

/// Who may own outbound connections.
fn owners<'a>(inventory: &'a Inventory, slots: &BTreeMap<PodName, u32>) -> Vec<Owner<'a>> {
    let owner = |pod: &'a LocalPod| {
        slots.get(&pod.name).map(|slot| Owner {
            slot: *slot,
            addresses: &pod.addresses,
            netns: pod.netns.as_deref(),
        })
    };
    inventory.pods.iter().filter_map(owner).collect()
}
