//! Who can be asked, from the first moment: while an agent waits for what it begins with, it says so.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::{
    agent::Agent,
    kube::{ClusterStatus, Health},
};

/// The agent, once it is there, and what it waits for until then.
#[derive(Debug)]
pub struct Asked {
    began: Instant,
    agent: OnceLock<Arc<Agent>>,
    /// How well the API server is followed.
    cluster: OnceLock<Arc<Health>>,
    /// Where the first bundle is to come from.
    bundle: OnceLock<String>,
}

/// The state of an agent that has no table yet.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Waiting {
    pub version: String,
    /// How long it has waited so far.
    pub seconds: u64,
    /// What is awaited, and what stands in the way, a line each.
    pub awaited: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterStatus>,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            agent: OnceLock::new(),
            cluster: OnceLock::new(),
            bundle: OnceLock::new(),
        }
    }
}

impl Asked {
    /// From now on objects of the API server are awaited.
    pub fn follows(&self, cluster: &Arc<Health>) {
        self.cluster.get_or_init(|| cluster.clone());
    }

    /// From now on a bundle is awaited.
    pub fn fetches(&self, bundle: String) {
        self.bundle.get_or_init(|| bundle);
    }

    /// From now on there is an agent.
    pub fn runs(&self, agent: &Arc<Agent>) {
        self.agent.get_or_init(|| agent.clone());
    }

    pub fn agent(&self) -> Option<&Arc<Agent>> {
        self.agent.get()
    }

    pub fn cluster(&self) -> Option<&Arc<Health>> {
        self.cluster.get()
    }

    /// What an agent waits for that is not there yet.
    pub fn waiting(&self) -> Waiting {
        let cluster = self.cluster.get();
        let mut awaited = cluster.map(|health| health.troubles()).unwrap_or_default();
        if let Some(health) = cluster.filter(|health| health.is_complete()) {
            let errors = health.status().compiled.map(|compiled| compiled.errors);
            awaited.extend(errors.into_iter().flatten());
        }
        if awaited.is_empty() {
            awaited.push(match self.bundle.get() {
                Some(bundle) => format!("the first bundle, from {bundle}"),
                None => "the first table".into(),
            });
        }
        Waiting {
            version: env!("CARGO_PKG_VERSION").into(),
            seconds: self.began.elapsed().as_secs(),
            awaited,
            cluster: cluster.map(|health| health.status()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::Kind;

    #[test]
    fn what_is_awaited_is_named_with_what_stands_in_the_way() {
        let asked = Asked::default();
        assert_eq!(asked.waiting().awaited, ["the first table"]);
        let health = Arc::new(Health::new(false));
        asked.follows(&health);
        health.failing(Kind::Pods, "no route to host".into());
        health.complete(Kind::Nodes);
        let waiting = asked.waiting();
        let of = |kind: &str| {
            let mut lines = waiting.awaited.iter();
            lines.find(|line| line.starts_with(kind)).cloned()
        };
        let pods = of("pods are").expect("pods are awaited");
        assert!(
            pods.contains("not known yet") && pods.contains("no route to host"),
            "{pods}"
        );
        assert!(
            of("services are").is_some() && of("nodes are").is_none(),
            "{waiting:?}"
        );
        let cluster = waiting.cluster.expect("it is followed");
        assert!(cluster.kinds.iter().any(|kind| kind.state == "failing"));
        for kind in Kind::wanted(false) {
            health.complete(kind);
        }
        asked.fetches("oci:registry.example/policies:1".into());
        assert_eq!(
            asked.waiting().awaited,
            ["the first bundle, from oci:registry.example/policies:1"]
        );
    }
}
