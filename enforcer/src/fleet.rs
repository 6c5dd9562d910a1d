//! All agents of a cluster, asked one by one under the user's own rights: `enforcer` is run in each
//! agent's container through the API server, as `kubectl exec` would. No node opens a port for it, and
//! nobody can do more with it than with `kubectl`.
//!
//! [`agents`] finds them, [`ask`] runs a command in one, [`rows`] says of each node what its status
//! comes to. The commands' own words are in `cli/all_nodes`.

pub mod agents;
pub mod ask;
pub mod rows;

use std::{path::PathBuf, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Where the agents are, and how they are asked.
#[derive(Clone, Debug)]
pub struct Reach {
    /// `None`: as kubectl finds it.
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
    /// Namespace of the agents.
    pub namespace: String,
    /// Labels of the agents' pods.
    pub agents: String,
    pub container: String,
    /// Labels of the nodes that should have one.
    pub nodes: String,
    /// Only these nodes; empty: all.
    pub named: Vec<String>,
    /// How long one node may take.
    pub patience: Duration,
    /// How many are asked at the same time.
    pub at_once: usize,
}

/// A way to all agents.
#[derive(Clone)]
pub struct Fleet {
    client: Client,
    pub reach: Reach,
}

/// Why no agent at all can be asked.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("cannot read the kubeconfig")]
    Kubeconfig {
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    #[error("no cluster to ask: give --kubeconfig FILE, or set KUBECONFIG")]
    Infer {
        #[source]
        source: Box<kube::config::InferConfigError>,
    },
    #[error("cannot make a client of the API server")]
    Client {
        #[source]
        source: Box<kube::Error>,
    },
    #[error("not allowed to find the agents: you need the verb list on pods in namespace `{0}`")]
    Forbidden(String),
    #[error("cannot find the agents in namespace `{namespace}`")]
    List {
        namespace: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the API server did not say within {0} s which agents there are")]
    Silent(u64),
    #[error("no node is named `{0}`, and no agent runs on such a one")]
    NoSuchNode(String),
}

impl Fleet {
    /// Makes the client, with the user's own rights. Nothing is asked yet.
    pub async fn reach(reach: Reach) -> Result<Self, FleetError> {
        let wrong = |source| FleetError::Kubeconfig {
            source: Box::new(source),
        };
        let options = KubeConfigOptions {
            context: reach.context.clone(),
            ..KubeConfigOptions::default()
        };
        let mut config = match (&reach.kubeconfig, &reach.context) {
            (Some(path), _) => {
                let file = Kubeconfig::read_from(path).map_err(wrong)?;
                let config = Config::from_custom_kubeconfig(file, &options);
                config.await.map_err(wrong)?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await.map_err(wrong)?,
            (None, None) => Config::infer().await.map_err(|source| FleetError::Infer {
                source: Box::new(source),
            })?,
        };
        // A node's own time limit is what ends a question; a monitor may be silent for hours.
        config.read_timeout = None;
        config.write_timeout = None;
        config.connect_timeout = Some(reach.patience);
        let client = Client::try_from(config).map_err(|source| FleetError::Client {
            source: Box::new(source),
        })?;
        Ok(Self { client, reach })
    }
}
