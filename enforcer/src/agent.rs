//! The running agent: what it holds, and what can be asked of it.
//!
//! [`start`](start::start) brings it up. Every order goes through one lock, so that activations
//! follow one another; packets never wait for it.

pub mod start;
mod status;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwapOption;
use enforcer_ebpf::words::SLOTS;
use tokio::sync::watch;

pub use start::{Options, Running, StartError};
pub use status::{PodStatus, Status};

use crate::{
    apply::{self, ApplyError, Generation, Settings},
    attach::Hook,
    flows::{FlowsError, OutFlows, Owner},
    inventory::Inventory,
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
        let active = self.active.load();
        apply::check_order(&loaded, active.as_ref().map_or(0, |g| g.generation))?;
        let mut state = self.state();
        let prepared = apply::link(
            &loaded,
            &state.inventory,
            &self.settings,
            Some(&state.tables),
        )?;
        self.publish(&mut state, loaded, prepared)
    }

    /// Forgets outbound connections that are over. Blocks while the kernel is asked for sockets.
    pub fn clean(&self) -> Result<usize, OrderError> {
        let state = &mut *self.state();
        let owners = owners_of(&state.tables, &state.inventory);
        Ok(state.out.clean(&owners)?)
    }

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
        let idle = state.tables.idle_slot();
        let old = state.slots[idle as usize].take();
        state.counters.retire(idle, old.as_deref())?;
        let generation = Arc::new(apply::publish(&mut state.tables, loaded, prepared)?);
        self.reporter.activate(generation.clone());
        state.slots[generation.slot as usize] = Some(generation.clone());
        self.active.store(Some(generation.clone()));
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

/// Who may own outbound connections, by the slots of the active table.
fn owners_of<'a>(tables: &Tables, inventory: &'a Inventory) -> Vec<Owner<'a>> {
    let slots = apply::slots(tables, inventory);
    inventory
        .pods
        .iter()
        .flat_map(|pod| {
            slots.get(&pod.name).map(|slot| Owner {
                slot: *slot,
                addresses: &pod.addresses,
                netns: pod.netns.as_ref(),
            })
        })
        .collect()
}
