//! Policies of the cluster, compiled by the agent, together with the cluster that they were compiled
//! from.

use std::sync::Arc;

use policyc::{
    ast::AuthorizationPolicy,
    bundle::Bundle,
    cluster::{Cluster, Mesh},
};

use super::{Agent, OrderError, State};
use crate::{
    apply::{Generation, Loaded},
    inventory::PodName,
    world::{Changes, put_policy},
};

impl Agent {
    /// The mesh that identities are of.
    pub fn mesh(&self) -> Mesh {
        self.state().inventory.cluster.mesh.clone()
    }

    /// Makes compiled policies the active ones, in a cluster that is this one but for its pods: the
    /// mesh that principals are of changes with the policies that name them. Blocks for a grace
    /// period. After an error everything is as it was.
    pub fn load_with(
        &self,
        bundle: Bundle,
        name: &str,
        cluster: Cluster,
    ) -> Result<Arc<Generation>, OrderError> {
        let state = &mut *self.state();
        let changes = Changes {
            rest: Some(Box::new(cluster)),
            ..Changes::default()
        };
        let undo = changes.undoing(&state.inventory.cluster);
        make(state, changes);
        let loaded = self.activate_in(state, Loaded::compiled(bundle, name));
        match &loaded {
            Ok(_) => {
                self.reporter.name_pods(&state.inventory.cluster);
                self.places.know(&state.inventory.cluster);
            }
            Err(_) => make(state, undo),
        }
        loaded
    }

    /// Makes compiled policies the active ones, which differ from those before in some: each as it is
    /// written now, or `None` where it is gone. Blocks for a grace period. After an error everything
    /// is as it was.
    pub fn load_amended(
        &self,
        bundle: Bundle,
        name: &str,
        changed: Vec<(PodName, Option<AuthorizationPolicy>)>,
    ) -> Result<Arc<Generation>, OrderError> {
        let state = &mut *self.state();
        let undo = write(state, changed);
        let loaded = self.activate_in(state, Loaded::compiled(bundle, name));
        if loaded.is_err() {
            write(state, undo);
        }
        loaded
    }
}

/// Writes policies down. Returns what stood there before.
fn write(
    state: &mut State,
    policies: Vec<(PodName, Option<AuthorizationPolicy>)>,
) -> Vec<(PodName, Option<AuthorizationPolicy>)> {
    let cluster = Arc::make_mut(&mut Arc::make_mut(&mut state.inventory).cluster);
    let put = |(name, now): (PodName, Option<AuthorizationPolicy>)| {
        let before = put_policy(&mut cluster.policies, &name, now);
        (name, before)
    };
    policies.into_iter().map(put).collect()
}

fn make(state: &mut State, changes: Changes) {
    let inventory = Arc::make_mut(&mut state.inventory);
    changes.apply(Arc::make_mut(&mut inventory.cluster));
}
