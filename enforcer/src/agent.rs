//! The running agent: what it holds, and what can be asked of it.
//!
//! [`start`](start::start) brings it up. Every order goes through one lock, so that activations
//! follow one another; packets never wait for it.

mod proxied;
pub mod start;
mod status;
mod takeover;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwapOption;
use enforcer_ebpf::words::SLOTS;
use tokio::sync::watch;

pub use start::{Options, Running, StartError};
pub use status::{PodStatus, Status};

use crate::{
    apply::{self, ApplyError, Before, Generation, Settings},
    attach::Hook,
    flows::{FlowsError, OutFlows, Owner},
    inventory::{Inventory, LocalPod, PodName},
    proxy_host::Watched,
    report::{
        Reporter,
        counters::{Counters, CountersError},
    },
    table::Tables,
};

/// The agent.
pub struct Agent {
    state: Mutex<State>,
    /// What judges now; read by the proxy for each connection.
    pub active: ArcSwapOption<Generation>,
    pub reporter: Arc<Reporter>,
    /// The proxy, once it runs.
    pub proxy: OnceLock<Watched>,
    /// Epoch of the last activation.
    pub(crate) changes: watch::Sender<u64>,
    settings: Settings,
    hook: Hook,
}

struct State {
    tables: Tables,
    counters: Counters,
    out: OutFlows,
    inventory: Inventory,
    /// What lies in each slot, as far as this agent has put it there.
    slots: [Option<Arc<Generation>>; SLOTS as usize],
    /// Highest generation of a bundle that was ever active: one without a number resets nothing.
    newest: u64,
}

/// Why an order was not carried out. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("no table is active yet")]
    NoTable,
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Counters(#[from] CountersError),
    #[error(transparent)]
    Flows(#[from] FlowsError),
}

impl Agent {
    /// Makes a bundle the active one. Blocks for a grace period.
    pub fn load(&self, path: &Path) -> Result<Arc<Generation>, OrderError> {
        let loaded = apply::read(path)?;
        let mut state = self.state();
        apply::check_order(&loaded, state.newest)?;
        let prepared = apply::link(
            &loaded,
            &state.inventory,
            &self.settings,
            &Before::of(&state.tables),
            state.tables.capacity(),
        )?;
        self.publish(&mut state, loaded, prepared)
    }

    /// Forgets outbound connections that are over, and which pods had connections through the proxy.
    /// Blocks while the kernel is asked for sockets.
    pub fn clean(&self) -> Result<usize, OrderError> {
        let state = &mut *self.state();
        if let Some(active) = &*self.active.load() {
            let busy = self.proxy.get().map(Watched::slots).unwrap_or_default();
            proxied::clear(&state.tables, active, &busy);
        }
        let slots = Before::of(&state.tables).slots(&state.inventory);
        let owners = owners(&state.inventory, &slots);
        Ok(state.out.clean(&owners)?)
    }

    /// Everything that can fail comes first; then the reporter and the proxy learn of the new table
    /// in the order in which its verdicts reach them.
    fn publish(
        &self,
        state: &mut State,
        loaded: apply::Loaded,
        prepared: apply::Prepared,
    ) -> Result<Arc<Generation>, OrderError> {
        state
            .tables
            .check(&prepared.linked.words)
            .map_err(ApplyError::from)?;
        let began = Instant::now();
        let idle = state.tables.await_readers().map_err(ApplyError::from)?;
        let old = state.slots[idle as usize].clone();
        let records = state.tables.records(idle);
        state.counters.retire(idle, old.as_deref(), records)?;
        state.slots[idle as usize] = None;
        let staged = state.tables.stage(&prepared.linked.words);
        let staged = staged.map_err(ApplyError::from)?;
        let generation = apply::generation(loaded, prepared, &staged, began.elapsed());
        let generation = Arc::new(generation);
        self.reporter.activate(generation.clone());
        state.tables.switch(&staged);
        self.active.store(Some(generation.clone()));
        state.slots[staged.slot as usize] = Some(generation.clone());
        state.newest = state.newest.max(generation.generation);
        self.changes.send_replace(u64::from(generation.epoch));
        tracing::info!(
            epoch = generation.epoch,
            generation = generation.generation,
            hash = generation.hash.get(..12).unwrap_or_default(),
            words = generation.words,
            link_us = generation.times.link_us,
            publish_us = generation.times.publish_us,
            "active"
        );
        Ok(generation)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held leaves whole values: every step of an activation is one store.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who may own outbound connections.
fn owners<'a>(inventory: &'a Inventory, slots: &BTreeMap<PodName, u32>) -> Vec<Owner<'a>> {
    let owner = |pod: &'a LocalPod| {
        slots.get(&pod.name).map(|slot| Owner {
            slot: *slot,
            addresses: &pod.addresses,
            netns: pod.netns.as_ref(),
        })
    };
    inventory.pods.iter().filter_map(owner).collect()
}
