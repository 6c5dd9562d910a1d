//! Who is who in the inventory, and flows by the workload that they go to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use super::{Access, Source};
use crate::cluster::{Cluster, PodTemplate, Protocol, Service, Workload};

/// Labels that controllers give to each pod they make: they select too little.
const GENERATED: [&str; 10] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "batch.kubernetes.io/job-completion-index",
    "controller-uid",
    "job-name",
];

/// Namespace, and the labels that select.
pub(super) type Key = (String, BTreeMap<String, String>);

/// What is admitted to the pods that a set of labels selects.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// Name of its policy.
    pub policy: String,
    /// Workloads or pods that were reached.
    pub names: BTreeSet<String>,
    pub access: BTreeMap<Source, BTreeMap<u16, Access>>,
}

/// The pods, workloads and accounts of a cluster.
pub(super) struct Inventory<'a> {
    pub cluster: &'a Cluster,
    accounts: BTreeSet<(&'a str, &'a str)>,
    /// Of pods that have an address of their own.
    addresses: HashSet<IpAddr>,
    pods: HashMap<(&'a str, &'a str), Named<'a>>,
    /// By namespace.
    workloads: HashMap<&'a str, Vec<&'a Workload>>,
}

/// Name, template, namespace.
type Named<'a> = (&'a str, &'a PodTemplate, &'a str);

/// Where a flow goes.
pub(super) struct Destination<'a> {
    pub key: Key,
    name: &'a str,
    template: &'a PodTemplate,
    namespace: &'a str,
    services: &'a [Service],
}

impl Group {
    pub fn add(&mut self, destination: &Destination<'_>) {
        self.names.insert(destination.name.to_owned());
    }

    pub fn access(&mut self, source: Source, port: u16) -> &mut Access {
        self.access
            .entry(source)
            .or_default()
            .entry(port)
            .or_default()
    }
}

impl Destination<'_> {
    /// What the port is declared to speak.
    pub fn protocol(&self, port: u16) -> Protocol {
        let services: Vec<&Service> = self.services.iter().collect();
        self.template.protocol(self.namespace, port, &services)
    }
}

impl<'a> Inventory<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        let given = cluster.service_accounts.iter();
        let given = given.map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let pods = cluster
            .pods
            .iter()
            .map(|pod| (&pod.namespace, &pod.template));
        let workloads = cluster.workloads.iter();
        let workloads = workloads.map(|workload| (&workload.namespace, &workload.template));
        let used = pods.chain(workloads);
        let used = used.map(|(namespace, t)| (namespace.as_str(), t.service_account.as_str()));
        let mut by_namespace: HashMap<&str, Vec<&Workload>> = HashMap::new();
        for workload in &cluster.workloads {
            by_namespace
                .entry(&workload.namespace)
                .or_default()
                .push(workload);
        }
        let own = cluster.pods.iter().filter(|pod| !pod.template.host_network);
        let named = |pod: &'a crate::cluster::Pod| {
            let (namespace, name) = (pod.namespace.as_str(), pod.name.as_str());
            ((namespace, name), (name, &pod.template, namespace))
        };
        Self {
            cluster,
            accounts: given.chain(used).collect(),
            addresses: own.flat_map(|pod| pod.ips.iter().copied()).collect(),
            pods: cluster.pods.iter().map(|pod| named(pod)).collect(),
            workloads: by_namespace,
        }
    }

    /// Namespace and name of the service account that a pod or workload runs as.
    pub fn account_of(&self, name: &str) -> Result<(String, String), String> {
        let (_, template, namespace) = self
            .find(name)
            .ok_or("from pods that are not in the inventory")?;
        if template.host_network {
            return Err("from pods on the host's network, which have no identity".into());
        }
        Ok((namespace.to_owned(), template.service_account.clone()))
    }

    /// Whether a pod holds the address, or may: it lies in a node's range of pods.
    pub fn is_pods(&self, address: IpAddr) -> bool {
        let mut ranges = self.cluster.nodes.iter().flat_map(|node| &node.pod_cidrs);
        self.addresses.contains(&address) || ranges.any(|range| range.contains(&address))
    }

    /// A service account, by `namespace/name`.
    pub fn account(&self, name: &str) -> Result<(String, String), String> {
        let known = name
            .split_once('/')
            .filter(|account| self.accounts.contains(account));
        let (namespace, name) =
            known.ok_or("from service accounts that are not in the inventory")?;
        Ok((namespace.to_owned(), name.to_owned()))
    }

    /// A pod or workload as a destination.
    pub fn destination(&self, name: &str) -> Result<Destination<'a>, String> {
        let (name, template, namespace) = self
            .find(name)
            .ok_or("to pods that are not in the inventory")?;
        if template.host_network {
            return Err("to pods on the host's network, where nothing is enforced".into());
        }
        let mut destination = Destination {
            key: (namespace.to_owned(), BTreeMap::new()),
            name,
            template,
            namespace,
            services: &self.cluster.services,
        };
        // The workload that makes the pod, if it is known: the one with most of the pod's labels.
        let workloads = self
            .workloads
            .get(namespace)
            .into_iter()
            .flatten()
            .filter(|workload| {
                let labels = &workload.template.labels;
                !labels.is_empty()
                    && workload.template.service_account == template.service_account
                    && labels
                        .iter()
                        .all(|(k, v)| template.labels.get(k) == Some(v))
            });
        let labels = match workloads.max_by_key(|workload| workload.template.labels.len()) {
            Some(workload) => {
                destination.name = &workload.name;
                workload.template.labels.clone()
            }
            None => {
                let own = |label: &(&String, &String)| !GENERATED.contains(&label.0.as_str());
                let labels = template.labels.iter().filter(own);
                labels.map(|(k, v)| (k.clone(), v.clone())).collect()
            }
        };
        destination.key.1 = match labels.is_empty() {
            true => template.labels.clone(),
            false => labels,
        };
        match destination.key.1.is_empty() {
            true => Err("to pods without labels, which no selector can name".into()),
            false => Ok(destination),
        }
    }

    /// Gives each group a name for its policy that no other policy has.
    pub fn name(&self, groups: &mut BTreeMap<Key, Group>) {
        let policies = self.cluster.policies.iter();
        let mut taken: BTreeSet<(String, String)> = policies
            .map(|policy| (policy.namespace.clone(), policy.name.clone()))
            .collect();
        for ((namespace, _), group) in groups.iter_mut() {
            let first = group.names.first().map_or("", String::as_str);
            let name = format!("suggested-{}", first.get(..200).unwrap_or(first));
            let numbered = (2u32..).map(|number| format!("{name}-{number}"));
            let free = std::iter::once(name.clone())
                .chain(numbered)
                .find(|name| taken.insert((namespace.clone(), name.clone())));
            group.policy = free.unwrap_or(name);
        }
    }

    /// Workloads and pods that a group's labels select besides those that were reached.
    pub fn also_selected(&self, key: &Key, group: &Group) -> Option<String> {
        let (namespace, labels) = key;
        let selects = |template: &PodTemplate| {
            labels
                .iter()
                .all(|(k, v)| template.labels.get(k) == Some(v))
        };
        let workloads = self.cluster.workloads.iter();
        let workloads = workloads.map(|w| (&w.namespace, &w.name, &w.template));
        let others: BTreeSet<&str> = workloads
            .filter(|(of, _, template)| *of == namespace && selects(template))
            .map(|(_, name, _)| name.as_str())
            .filter(|name| !group.names.contains(*name))
            .collect();
        (!others.is_empty()).then(|| {
            let others: Vec<&str> = others.into_iter().collect();
            format!(
                "{namespace}/{} also selects {}, which has all of its labels",
                group.policy,
                others.join(", ")
            )
        })
    }

    /// A pod of that name, else a workload.
    fn find(&self, name: &str) -> Option<Named<'a>> {
        let (namespace, name) = name.split_once('/')?;
        let mut workloads = self.workloads.get(namespace).into_iter().flatten();
        let workload = || {
            let found = workloads.find(|workload| workload.name == name)?;
            Some((&*found.name, &found.template, &*found.namespace))
        };
        self.pods.get(&(namespace, name)).copied().or_else(workload)
    }
}
