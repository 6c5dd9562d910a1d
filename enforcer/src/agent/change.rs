//! The cluster changes: from what has happened to the table that knows it.
//!
//! Sources are everybody's pods, destinations this node's. A source is followed in the table that is
//! in force, by stores that no reader sees half of; what that cannot express is linked anew, into the
//! idle slot. Words come first, and what only we ourselves read of the cluster after them.
//!
//! Whether a local pod is here, and behind which interfaces, is not the cluster's word alone:
//! [`super::links`] looks, and is told to.

use std::{sync::Arc, time::Instant};

use policyc::{
    cluster::Pod,
    link::incremental::{Followed, PodChange},
};
use serde::{Deserialize, Serialize};

use super::{Agent, OrderError, State, relink};
use crate::{
    apply::{Generation, Live},
    inventory::{PodName, pod},
    world::Changes,
};

/// What a change has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// Activation whose table knows of it.
    pub epoch: u32,
    /// Pods that were told of.
    pub pods: usize,
    /// Addresses whose words were stored in place; `None`: the table was linked anew.
    pub words: Option<usize>,
    /// From the call to the table.
    pub took_us: u64,
}

impl Agent {
    /// Makes changes of the cluster come true. May block for a grace period. After an error everything
    /// is as it was.
    pub fn change(&self, changes: Changes) -> Result<Changed, OrderError> {
        let began = Instant::now();
        let state = &mut *self.state();
        let active = self.active.load_full().ok_or(OrderError::NoTable)?;
        let names: Vec<PodName> = changes.pods.keys().cloned().collect();
        let look = names.iter().any(|name| self.is_here(state, name, &changes));
        let sources_only = changes.rest.is_none();
        let followed = match sources_only {
            true => follow(state, &active, &changes),
            false => None,
        };
        let undo = changes.undoing(&state.inventory.cluster);
        let all = changes.rest.is_some();
        let (epoch, took) = match followed {
            Some(_) => {
                let took = began.elapsed();
                self.follow_shadow(state, &changes);
                know(state, changes);
                (active.epoch, took)
            }
            None => {
                let locals = state.inventory.pods.clone();
                know(state, changes);
                // What the table in force knows of pods it knows by following them.
                let basis = names.is_empty().then_some(&*active);
                match self.link_and_publish(state, relink::again(&active), basis) {
                    Ok(generation) => {
                        let took = began.elapsed();
                        self.shadow_anew(state);
                        (generation.epoch, took)
                    }
                    Err(error) => {
                        know(state, undo);
                        Arc::make_mut(&mut state.inventory).pods = locals;
                        return Err(error);
                    }
                }
            }
        };
        self.tell(state, &undo, all);
        if look {
            self.look_again();
        }
        Ok(Changed {
            epoch,
            pods: names.len(),
            words: followed,
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        })
    }

    /// Waits until nobody reads the idle slot any more, so that whoever writes the next table need not.
    pub fn make_ready(&self) {
        let state = &mut *self.state();
        let idle = state.tables.idle_slot();
        if let Err(error) = state.make_room(idle) {
            tracing::warn!(
                error = crate::chain(&error),
                "the next change waits for a grace period"
            );
        }
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
        let now = changes.pods.get(name).and_then(Option::as_deref);
        known || now.is_some_and(may)
    }

    /// The table that is asked beside the active one follows, too. `changes` are not made yet.
    fn follow_shadow(&self, state: &mut State, changes: &Changes) {
        let Some(shadow) = &state.shadow else {
            return;
        };
        let generation = Arc::clone(&shadow.generation);
        if follow(state, &generation, changes).is_none() {
            let inventory = Arc::clone(&state.inventory);
            know(state, changes.clone());
            self.shadow_anew(state);
            // They are made once more by whoever has called.
            state.inventory = inventory;
        }
    }

    fn shadow_anew(&self, state: &mut State) {
        if let Err(error) = self.renew_shadow(state) {
            tracing::warn!(
                error = crate::chain(&error),
                "the shadow generation is dropped"
            );
        }
    }

    /// Those learn of it who only report or resolve names. `undo` has the pods as they were.
    fn tell(&self, state: &State, undo: &Changes, all: bool) {
        let cluster = &state.inventory.cluster;
        if all {
            self.reporter.name_pods(cluster);
            self.places.know(cluster);
            return;
        }
        let before = undo.pods.values().flatten();
        let before: Vec<&Arc<Pod>> = before.collect();
        let now = undo.pods.keys().filter_map(|name| pod(cluster, name));
        let now: Vec<&Arc<Pod>> = now.collect();
        self.reporter.rename_pods(&before, &now);
        self.places.change(&before, &now);
    }
}

/// Follows sources in the table of a generation. How many words it took; `None`: it must be linked
/// anew, and is as it was.
fn follow(state: &State, generation: &Generation, changes: &Changes) -> Option<usize> {
    let cluster = &state.inventory.cluster;
    let pods: Vec<PodChange<'_>> = changes
        .pods
        .iter()
        .map(|(name, now)| PodChange {
            name,
            before: pod(cluster, name).map(AsRef::as_ref),
            now: now.as_deref(),
        })
        .collect();
    let mut live = Live {
        kept: &generation.kept,
        memory: state.tables.memory(generation.slot)?,
    };
    let mut sources = generation.sources();
    let program = &generation.content.program;
    match sources.follow(program, cluster, &pods, &mut live) {
        Followed::Done(words) => Some(words),
        Followed::Whole(why) => {
            tracing::debug!(?why, "linking anew");
            None
        }
    }
}

/// Brings the cluster up to date, and what is known of the local pods with it.
fn know(state: &mut State, changes: Changes) {
    let inventory = Arc::make_mut(&mut state.inventory);
    changes.apply(Arc::make_mut(&mut inventory.cluster));
    inventory.follow_cluster();
}
