//! Which workload a pod is of.

use std::collections::HashMap;

use crate::cluster::{Pod, Workload};

/// Finds the workload that made a pod: the one whose template's labels the pod carries, the most of
/// them, under the same service account. A pod does not say it itself where it was not read from a
/// cluster.
pub(super) struct Owners<'a> {
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<&'a Workload>>,
}

impl<'a> Owners<'a> {
    pub fn new(workloads: &'a [Workload]) -> Self {
        let mut by_label: HashMap<_, Vec<&Workload>> = HashMap::new();
        for workload in workloads {
            // A template without labels makes no pod that its workload would find.
            if let Some((key, value)) = workload.template.labels.first_key_value() {
                let key = (workload.namespace.as_str(), key.as_str(), value.as_str());
                by_label.entry(key).or_default().push(workload);
            }
        }
        Self { by_label }
    }

    pub fn of(&self, pod: &Pod) -> Option<&'a Workload> {
        let labels = &pod.template.labels;
        let candidates = labels
            .iter()
            .filter_map(|(k, v)| self.by_label.get(&(pod.namespace.as_str(), k, v)))
            .flatten();
        candidates
            .copied()
            .filter(|w| w.template.service_account == pod.template.service_account)
            .filter(|w| w.template.host_network == pod.template.host_network)
            .filter(|w| {
                w.template
                    .labels
                    .iter()
                    .all(|(k, v)| labels.get(k) == Some(v))
            })
            // A ReplicaSet's name begins with its Deployment's: the shorter one is the owner's owner.
            .min_by_key(|w| {
                let labels = w.template.labels.len();
                (std::cmp::Reverse(labels), w.name.len(), &w.name, &w.kind)
            })
    }
}
