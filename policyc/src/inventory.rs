//! Who was where when policies were compiled: what a bundle remembers of the cluster, so that it can
//! be inspected and compared by itself. A node never lets anybody through by it: it links with the
//! inventory that it sees now, because an address may have another holder by then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Mesh, Namespace, Node, Pod, Service, Workload};

/// A cluster without its policies.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Inventory {
    pub namespaces: BTreeMap<String, Namespace>,
    /// (namespace, name)
    pub service_accounts: BTreeSet<(String, String)>,
    pub pods: Vec<Arc<Pod>>,
    pub workloads: Vec<Workload>,
    pub services: Vec<Service>,
    pub nodes: Vec<Node>,
}

impl Inventory {
    /// What is remembered of a cluster.
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            namespaces: cluster.namespaces.clone(),
            service_accounts: cluster.service_accounts.clone(),
            pods: cluster.pods.clone(),
            workloads: cluster.workloads.clone(),
            services: cluster.services.clone(),
            nodes: cluster.nodes.clone(),
        }
    }

    /// Whether it holds anything that policies could apply to.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.workloads.is_empty()
    }

    /// As a cluster again. Policies and the mesh are the program's.
    pub fn into_cluster(self, mesh: Mesh) -> Cluster {
        Cluster {
            mesh,
            namespaces: self.namespaces,
            service_accounts: self.service_accounts,
            pods: self.pods,
            workloads: self.workloads,
            services: self.services,
            nodes: self.nodes,
            ..Cluster::default()
        }
    }
}
