//! The active bundle, linked anew for a node that has changed.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{Agent, OrderError, State};
use crate::apply::{self, Generation, Loaded};

impl Agent {
    /// Takes these for the node's own addresses from now on. `None` where they are the known ones.
    /// Blocks for a grace period. After an error the old ones are in force.
    pub fn readdress(&self, addresses: Vec<IpAddr>) -> Result<Option<Arc<Generation>>, OrderError> {
        let state = &mut *self.state();
        if state.inventory.node_addresses == addresses {
            return Ok(None);
        }
        let known = state.inventory.clone();
        Arc::make_mut(&mut state.inventory).node_addresses = addresses;
        let relinked = self.relink(state);
        match &relinked {
            Ok(_) => tracing::info!(
                before = ?known.node_addresses,
                now = ?state.inventory.node_addresses,
                "the node's addresses have changed"
            ),
            Err(_) => state.inventory = known,
        }
        relinked.map(Some)
    }

    pub(super) fn relink(&self, state: &mut State) -> Result<Arc<Generation>, OrderError> {
        let active = self.active.load_full().ok_or(OrderError::NoTable)?;
        self.link_and_publish(state, again(&active), Some(&active))
    }

    /// `active` is the generation in force, where its table knows all pods of the inventory.
    pub(super) fn link_and_publish(
        &self,
        state: &mut State,
        loaded: Loaded,
        active: Option<&Generation>,
    ) -> Result<Arc<Generation>, OrderError> {
        let prepared = apply::link(
            &loaded,
            &state.inventory,
            &self.settings,
            &self.before(state),
            state.tables.capacity(),
            active,
        )?;
        self.publish(state, loaded, prepared)
    }
}

/// The active bundle. It need not be kept once more.
pub(super) fn again(active: &Generation) -> Loaded {
    Loaded {
        bundle: Arc::clone(&active.content),
        hash: active.hash.clone(),
        path: active.bundle.clone(),
        bytes: Vec::new(),
        time: Duration::ZERO,
    }
}
