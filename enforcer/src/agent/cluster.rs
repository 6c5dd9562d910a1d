//! What the agent's tasks must know of the cluster as it is in force.

use policyc::cluster::Mesh;

use super::Agent;

impl Agent {
    /// The mesh that identities are of.
    pub fn mesh(&self) -> Mesh {
        self.state().inventory.cluster.mesh.clone()
    }
}
