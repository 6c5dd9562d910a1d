//! The cluster changes: from what has happened to the table that knows it.
//!
//! Sources are everybody's pods, destinations this node's. Whether a local pod is here, and behind
//! which interfaces, is not the cluster's word alone: [`super::links`] looks, and is told to.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use policyc::cluster::Pod;

use super::{Agent, OrderError, State};
use crate::{inventory::PodName, world::Changes};

/// What a change has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changed {
    /// Activation whose table knows of it.
    pub epoch: u32,
    /// Pods that were told of.
    pub pods: usize,
    /// From the call to the table.
    pub took: Duration,
}

impl Agent {
    /// Makes changes of the cluster come true. Blocks for a grace period. After an error everything
    /// is as it was.
    pub fn change(&self, changes: Changes) -> Result<Changed, OrderError> {
        let began = Instant::now();
        let state = &mut *self.state();
        let names: Vec<PodName> = changes.pods.keys().cloned().collect();
        let undo = changes.undoing(&state.inventory.cluster);
        let look = names.iter().any(|name| self.is_here(state, name, &changes));
        let locals = state.inventory.pods.clone();
        follow(state, changes);
        let relinked = self.relink(state);
        let epoch = match relinked {
            Ok(generation) => generation.epoch,
            Err(error) => {
                follow(state, undo);
                Arc::make_mut(&mut state.inventory).pods = locals;
                return Err(error);
            }
        };
        let took = began.elapsed();
        self.reporter.name_pods(&state.inventory.cluster);
        self.places.know(&state.inventory.cluster);
        if look {
            self.look_again();
        }
        Ok(Changed {
            epoch,
            pods: names.len(),
            took,
        })
    }

    /// Has the node's interfaces looked at once more, and soon.
    pub fn look_again(&self) {
        self.look.notify_one();
    }

    /// Whether a pod that has changed is, was or may become one of this node's.
    fn is_here(&self, state: &State, name: &PodName, changes: &Changes) -> bool {
        let inventory = &state.inventory;
        let known = inventory.pods.iter().any(|local| local.name == *name)
            || inventory.lost.iter().any(|(lost, _)| lost == name);
        let may = |pod: &Pod| self.wanted.may_be_here(pod);
        let now = changes.pods.get(name).and_then(Option::as_ref);
        known || now.is_some_and(may)
    }
}

/// Brings the cluster up to date, and what is known of the local pods with it.
fn follow(state: &mut State, changes: Changes) {
    let inventory = Arc::make_mut(&mut state.inventory);
    changes.apply(Arc::make_mut(&mut inventory.cluster));
    inventory.follow_cluster();
}
