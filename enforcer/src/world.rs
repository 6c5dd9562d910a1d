//! What the agent is told of the cluster while it runs: changes of a [`Cluster`], gathered until
//! somebody takes them.
//!
//! Pods come and go all the time and each is told alone; everything else is rare, and comes as a
//! whole.

use std::{collections::BTreeMap, sync::Arc};

use policyc::cluster::{Cluster, Pod};

use crate::inventory::{PodName, pod};

/// Changes since they were last taken. Later ones stand for earlier ones of the same object.
#[derive(Clone, Default, Debug)]
pub struct Changes {
    /// Each pod as it is now; `None`: it is gone.
    pub pods: BTreeMap<PodName, Option<Arc<Pod>>>,
    /// Everything but the pods, as it is now; `None`: as it was. Its `pods` are empty.
    pub rest: Option<Box<Cluster>>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.rest.is_none()
    }

    pub fn pod(&mut self, name: PodName, now: Option<Pod>) {
        self.pods.insert(name, now.map(Arc::new));
    }

    /// Adds what happened after these.
    pub fn then(&mut self, later: Self) {
        self.pods.extend(later.pods);
        if later.rest.is_some() {
            self.rest = later.rest;
        }
    }

    /// What takes them back, in a cluster that they have not changed yet.
    pub fn undoing(&self, cluster: &Cluster) -> Self {
        let before = |name: &PodName| (name.clone(), pod(cluster, name).cloned());
        let rest = self.rest.as_ref();
        Self {
            pods: self.pods.keys().map(before).collect(),
            rest: rest.map(|_| Box::new(without_pods(cluster))),
        }
    }

    /// What makes one cluster another.
    pub fn between(before: &Cluster, mut now: Cluster) -> Self {
        let mut pods: BTreeMap<PodName, Option<Arc<Pod>>> = BTreeMap::new();
        for pod in std::mem::take(&mut now.pods) {
            pods.insert((pod.namespace.clone(), pod.name.clone()), Some(pod));
        }
        for was in &before.pods {
            let name = (was.namespace.clone(), was.name.clone());
            match pods.get(&name) {
                None => drop(pods.insert(name, None)),
                Some(is) if is.as_ref().is_some_and(|is| same(was, is)) => drop(pods.remove(&name)),
                Some(_) => {}
            }
        }
        let rest = (without_pods(before) != now).then(|| Box::new(now));
        Self { pods, rest }
    }

    /// Makes them come true. The pods of a cluster are sorted by namespace and name, and stay so.
    pub fn apply(self, cluster: &mut Cluster) {
        if let Some(rest) = self.rest {
            let pods = std::mem::take(&mut cluster.pods);
            *cluster = *rest;
            cluster.pods = pods;
        }
        for (name, now) in self.pods {
            let key = |pod: &Arc<Pod>| {
                (pod.namespace.as_str(), pod.name.as_str()).cmp(&(&name.0, &name.1))
            };
            match (cluster.pods.binary_search_by(key), now) {
                (Ok(at), Some(pod)) => cluster.pods[at] = pod,
                (Ok(at), None) => drop(cluster.pods.remove(at)),
                (Err(at), Some(pod)) => cluster.pods.insert(at, pod),
                (Err(_), None) => {}
            }
        }
    }
}

/// Whether a pod is as it was, wherever that is written.
fn same(was: &Pod, is: &Pod) -> bool {
    let written = Pod {
        document: was.document,
        object: was.object.clone(),
        ..is.clone()
    };
    *was == written
}

fn without_pods(cluster: &Cluster) -> Cluster {
    Cluster {
        mesh: cluster.mesh.clone(),
        namespaces: cluster.namespaces.clone(),
        service_accounts: cluster.service_accounts.clone(),
        pods: Vec::new(),
        workloads: cluster.workloads.clone(),
        services: cluster.services.clone(),
        nodes: cluster.nodes.clone(),
        policies: cluster.policies.clone(),
        request_authentications: cluster.request_authentications.clone(),
        peer_authentications: cluster.peer_authentications.clone(),
        skipped: cluster.skipped.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(namespace: &str, name: &str) -> (PodName, Pod) {
        let pod = Pod {
            namespace: namespace.into(),
            name: name.into(),
            ..Pod::default()
        };
        ((namespace.into(), name.into()), pod)
    }

    fn names(cluster: &Cluster) -> Vec<&str> {
        cluster.pods.iter().map(|pod| pod.name.as_str()).collect()
    }

    #[test]
    fn pods_stay_sorted_and_a_later_change_stands_for_an_earlier_one() {
        let mut cluster = Cluster::default();
        let mut changes = Changes::default();
        for name in ["c", "a", "b"] {
            let (name, pod) = named("shop", name);
            changes.pod(name, Some(pod));
        }
        let mut later = Changes::default();
        later.pod(named("shop", "b").0, None);
        later.pod(named("other", "z").0, Some(named("other", "z").1));
        later.pod(named("shop", "never").0, None);
        changes.then(later);
        let undo = changes.undoing(&cluster);
        let before = cluster.clone();
        changes.clone().apply(&mut cluster);
        assert_eq!(names(&cluster), ["z", "a", "c"]);
        undo.apply(&mut cluster);
        assert_eq!(cluster, before);
        changes.apply(&mut cluster);
        let mut gone = Changes::default();
        gone.pod(named("shop", "a").0, None);
        gone.apply(&mut cluster);
        assert_eq!(names(&cluster), ["z", "c"]);
    }

    #[test]
    fn what_lies_between_two_clusters_makes_one_the_other() {
        let of = |names: &[&str]| Cluster {
            pods: names
                .iter()
                .map(|name| Arc::new(named("shop", name).1))
                .collect(),
            ..Cluster::default()
        };
        let (mut before, mut now) = (of(&["a", "b", "c"]), of(&["b", "c", "d"]));
        Arc::make_mut(&mut now.pods[1]).finished = true;
        let changes = Changes::between(&before, now.clone());
        let told: Vec<&str> = changes.pods.keys().map(|(_, name)| name.as_str()).collect();
        assert_eq!((told, changes.rest.is_some()), (vec!["a", "c", "d"], false));
        changes.apply(&mut before);
        assert_eq!(before, now);
        assert!(Changes::between(&before, now.clone()).is_empty());
        now.namespaces.insert("new".into(), Default::default());
        let changes = Changes::between(&before, now.clone());
        assert!(changes.pods.is_empty());
        changes.apply(&mut before);
        assert_eq!(before, now);
    }

    #[test]
    fn what_is_not_a_pod_comes_as_a_whole_and_keeps_the_pods() {
        let mut cluster = Cluster {
            pods: vec![Arc::new(named("shop", "a").1)],
            ..Cluster::default()
        };
        cluster.namespaces.insert("old".into(), Default::default());
        let mut rest = Cluster::default();
        rest.namespaces.insert("new".into(), Default::default());
        let changes = Changes {
            rest: Some(Box::new(rest)),
            ..Changes::default()
        };
        assert!(!changes.is_empty());
        let undo = changes.undoing(&cluster);
        let before = cluster.clone();
        changes.clone().apply(&mut cluster);
        undo.apply(&mut cluster);
        assert_eq!(cluster, before);
        changes.apply(&mut cluster);
        assert_eq!(names(&cluster), ["a"]);
        assert_eq!(cluster.namespaces.keys().collect::<Vec<_>>(), ["new"]);
    }
}
