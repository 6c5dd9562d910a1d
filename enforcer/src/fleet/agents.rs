//! Which nodes there are, and which agent is on each.

use std::{cmp::Reverse, collections::BTreeMap};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Error,
    api::{ListParams, ObjectList},
};
use tokio::time::timeout;

use super::{Fleet, FleetError};

/// Objects that are listed at a time.
const PAGE: u32 = 500;

/// The nodes, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Nodes {
    pub agents: BTreeMap<String, Agent>,
    /// Why nobody can say which nodes have no agent.
    pub unlisted: Option<String>,
}

/// The agent of a node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Agent {
    /// In the pod of this name and identity.
    In {
        pod: String,
        uid: String,
    },
    /// There is a pod, and it does not run; with the reason.
    Down {
        pod: String,
        why: String,
    },
    Missing,
}

impl Fleet {
    /// Finds nodes and agents.
    pub async fn nodes(&self) -> Result<Nodes, FleetError> {
        let patience = self.reach.patience;
        let silent = || FleetError::Silent(patience.as_secs());
        let pods = timeout(patience, self.pods()).await;
        let pods = pods.map_err(|_| silent())??;
        let names = timeout(patience, self.node_names()).await;
        let names = names.map_err(|_| silent())?;
        let mut nodes = Nodes {
            agents: agents(&pods),
            unlisted: None,
        };
        match names {
            Ok(names) => {
                for name in names {
                    nodes.agents.entry(name).or_insert(Agent::Missing);
                }
            }
            Err(error) => {
                nodes.unlisted = Some(match &error {
                    Error::Api(status) if status.code == 403 => {
                        "nodes without an agent are not shown: you need the verb list on nodes"
                            .into()
                    }
                    error => format!(
                        "nodes without an agent are not shown: {}",
                        crate::chain(error)
                    ),
                });
            }
        }
        self.named(nodes)
    }

    /// Leaves the nodes that were asked for.
    fn named(&self, mut nodes: Nodes) -> Result<Nodes, FleetError> {
        let wanted = &self.reach.named;
        if wanted.is_empty() {
            return Ok(nodes);
        }
        if let Some(name) = wanted.iter().find(|name| !nodes.agents.contains_key(*name)) {
            return Err(FleetError::NoSuchNode(name.clone()));
        }
        nodes.agents.retain(|name, _| wanted.contains(name));
        nodes.unlisted = None;
        Ok(nodes)
    }

    async fn pods(&self) -> Result<Vec<Pod>, FleetError> {
        let namespace = &self.reach.namespace;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut params = ListParams::default().labels(&self.reach.agents).limit(PAGE);
        let mut pods = Vec::new();
        loop {
            let page: ObjectList<Pod> = match api.list(&params).await {
                Ok(page) => page,
                Err(Error::Api(status)) if status.code == 403 => {
                    return Err(FleetError::Forbidden(namespace.clone()));
                }
                Err(source) => {
                    return Err(FleetError::List {
                        namespace: namespace.clone(),
                        source: Box::new(source),
                    });
                }
            };
            pods.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(pods),
            }
        }
    }

    async fn node_names(&self) -> Result<Vec<String>, Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut params = ListParams::default().limit(PAGE);
        if !self.reach.nodes.is_empty() {
            params = params.labels(&self.reach.nodes);
        }
        let mut names = Vec::new();
        loop {
            // Their names are all that is wanted, and a node is a large object.
            let page = api.list_metadata(&params).await?;
            names.extend(page.items.into_iter().filter_map(|n| n.metadata.name));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(names),
            }
        }
    }
}

/// One agent a node. While one replaces another, it is the one that runs; of several, the youngest.
fn agents(pods: &[Pod]) -> BTreeMap<String, Agent> {
    let mut youngest_last: Vec<&Pod> = pods.iter().collect();
    youngest_last.sort_by_key(|pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (
            why_down(pod).is_none(),
            created,
            Reverse(&pod.metadata.name),
        )
    });
    let mut agents = BTreeMap::new();
    for pod in youngest_last {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        // A pod without a node is no node's agent yet: its node is one without.
        let (Some(node), Some(name)) = (node, pod.metadata.name.clone()) else {
            continue;
        };
        let agent = match why_down(pod) {
            Some(why) => Agent::Down { pod: name, why },
            None => Agent::In {
                pod: name,
                uid: pod.metadata.uid.clone().unwrap_or_default(),
            },
        };
        agents.insert(node, agent);
    }
    agents
}

/// Why nothing can be run in a pod.
fn why_down(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("its pod is being removed".into());
    }
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    if phase != Some("Running") {
        return Some(format!("its pod is {}", phase.unwrap_or("without status")));
    }
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let waiting = containers?
        .iter()
        .find_map(|container| container.state.as_ref()?.waiting.as_ref())?;
    let reason = waiting.reason.as_deref().unwrap_or("no reason given");
    Some(format!("its container waits: {reason}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, created: &str, rest: serde_json::Value) -> Pod {
        let mut pod = json!({
            "metadata": { "name": name, "uid": name, "creationTimestamp": created },
            "spec": { "nodeName": "one", "containers": [] },
            "status": { "phase": "Running" }
        });
        for (key, value) in rest.as_object().expect("an object") {
            pod[key] = value.clone();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-02T00:00:00Z";

    #[test]
    fn of_several_agents_on_a_node_the_youngest_that_runs_is_asked() {
        let going = json!({ "metadata": { "name": "going", "uid": "g", "creationTimestamp": LATE,
            "deletionTimestamp": LATE } });
        let pods = [
            pod("young", LATE, json!({})),
            pod("old", EARLY, json!({})),
            pod("pending", LATE, json!({ "status": { "phase": "Pending" } })),
            pod("going", LATE, going),
        ];
        let young = Agent::In {
            pod: "young".into(),
            uid: "young".into(),
        };
        assert_eq!(agents(&pods), [("one".into(), young)].into());
    }

    #[test]
    fn an_agent_that_cannot_start_is_down_and_says_why() {
        let waits = json!({ "status": { "phase": "Running", "containerStatuses": [{
            "name": "enforcer", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } } }] } });
        let found = agents(&[pod("a", EARLY, waits)]);
        let Some(Agent::Down { why, .. }) = found.get("one") else {
            panic!("{found:?}");
        };
        assert_eq!(why, "its container waits: CrashLoopBackOff");
        let unplaced = pod("b", EARLY, json!({ "spec": { "containers": [] } }));
        assert!(agents(&[unplaced]).is_empty(), "it is on no node");
    }
}
