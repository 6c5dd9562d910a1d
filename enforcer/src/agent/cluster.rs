//! Policies of the cluster, compiled by the agent, together with the cluster that they were compiled
//! from.

use std::sync::Arc;

use policyc::{
    bundle::Bundle,
    cluster::{Cluster, Mesh},
};

use super::{Agent, OrderError, State};
use crate::{
    apply::{Generation, Loaded},
    world::Changes,
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

    /// Makes policies the active ones that were compiled for this cluster. Blocks for a grace period.
    /// After an error everything is as it was.
    pub fn load_compiled(&self, bundle: Bundle, name: &str) -> Result<Arc<Generation>, OrderError> {
        self.activate(Loaded::compiled(bundle, name))
    }
}

fn make(state: &mut State, changes: Changes) {
    let inventory = Arc::make_mut(&mut state.inventory);
    changes.apply(Arc::make_mut(&mut inventory.cluster));
}
