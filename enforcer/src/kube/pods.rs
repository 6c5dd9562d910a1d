//! Every pod of the cluster, reduced to what other nodes' pods are to this one: an identity and its
//! addresses. What is told on is only what has changed in that; a pod's probes and heartbeats change
//! nothing.
//!
//! A pod that is over, has no address yet, or is on its node's own network is nobody to other nodes,
//! and is not kept. An address is one pod's. Where two claim it, the one that was made later has it,
//! since the network gives an address away only when it is free: the other's object is late to go.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
};

use policyc::{cluster::Pod, read::live};

use super::follow::Seen;
use crate::{inventory::PodName, world::Changes};

/// What is known of the pods.
#[derive(Debug)]
pub struct Pods {
    node: String,
    /// By namespace and name: a namespace's name is kept once.
    known: BTreeMap<Box<str>, BTreeMap<Box<str>, Known>>,
    count: usize,
    /// Who has each address.
    holders: HashMap<IpAddr, Claim>,
    next_number: u32,
    /// Number of the list that is being read.
    list: u32,
    /// Fingerprints are not to be foreseen by whoever makes pods.
    keys: RandomState,
    /// Namespaces whose pods others ask for by a Service.
    asked: BTreeSet<String>,
    changes: Changes,
    /// The pods of this node, as they were told of.
    local: BTreeMap<PodName, Pod>,
    local_changed: bool,
}

#[derive(Debug)]
struct Known {
    /// Of the pod, for as long as it is known.
    number: u32,
    /// Of what was told on.
    print: u64,
    list: u32,
    /// It was told on.
    told: bool,
    /// The addresses that it has.
    addresses: Box<[IpAddr]>,
}

/// Who has an address.
#[derive(Clone, Copy, Debug)]
struct Claim {
    number: u32,
    rank: Rank,
}

/// Of two pods the greater one has an address: the one that is to stay, then the later one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Rank {
    stays: bool,
    created: u64,
}

impl Pods {
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            known: BTreeMap::new(),
            count: 0,
            holders: HashMap::new(),
            next_number: 0,
            list: 0,
            keys: RandomState::new(),
            asked: BTreeSet::new(),
            changes: Changes::default(),
            local: BTreeMap::new(),
            local_changed: false,
        }
    }

    pub fn begin(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// A pod as it is now. What is wrong with it comes back: it stays as it was.
    pub fn now(&mut self, seen: &Seen) -> Vec<String> {
        let file = format!("kube:{}/{}", seen.name.0, seen.name.1);
        let object = live::Object::read(&file, &seen.json, (&seen.of.0, seen.of.1));
        let errors = object.errors();
        match object.into_pod() {
            Some(pod) => self.take(pod, seen),
            // It is not gone.
            None => self.mark(&seen.name),
        }
        errors
    }

    pub fn gone(&mut self, name: &PodName) {
        let Some(of) = self.known.get_mut(name.0.as_str()) else {
            return;
        };
        if let Some(known) = of.remove(name.1.as_str()) {
            self.count -= 1;
            if of.is_empty() {
                self.known.remove(name.0.as_str());
            }
            self.let_go(known.number, &known.addresses);
            if known.told {
                self.tell(name.clone(), None);
            }
        }
    }

    /// What the list has not named is gone.
    pub fn end(&mut self) {
        let mut gone = Vec::new();
        for (namespace, of) in &self.known {
            let unnamed = of.iter().filter(|(_, known)| known.list != self.list);
            gone.extend(unnamed.map(|(name, _)| (namespace.to_string(), name.to_string())));
        }
        for name in gone {
            self.gone(&name);
        }
    }

    /// What has changed since it was last taken.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The pods of this node.
    pub fn local(&self) -> impl Iterator<Item = &Pod> {
        self.local.values()
    }

    /// Whether one of them has changed since this was last asked.
    pub fn take_local_changed(&mut self) -> bool {
        std::mem::take(&mut self.local_changed)
    }

    /// From now on pods of these namespaces are known by their labels, too. Whether that needs them
    /// to be listed once more.
    pub fn ask(&mut self, namespaces: BTreeSet<String>) -> bool {
        let more = !namespaces.is_subset(&self.asked);
        self.asked = namespaces;
        more
    }

    fn mark(&mut self, name: &PodName) {
        let of = self.known.get_mut(name.0.as_str());
        if let Some(known) = of.and_then(|of| of.get_mut(name.1.as_str())) {
            known.list = self.list;
        }
    }

    fn take(&mut self, mut pod: Pod, seen: &Seen) {
        let name = seen.name.clone();
        let local = pod.node.as_deref() == Some(&self.node);
        self.slim(&mut pod, local);
        let print = self.print(&pod);
        let of = self.known.get_mut(name.0.as_str());
        let before = of.and_then(|of| of.remove(name.1.as_str()));
        let was_told = before.as_ref().is_some_and(|before| before.told);
        let same = before.as_ref().is_some_and(|before| before.print == print);
        let number = match before {
            Some(before) => {
                self.let_go(before.number, &before.addresses);
                before.number
            }
            None => {
                self.count += 1;
                self.next_number = self.next_number.wrapping_add(1);
                self.next_number
            }
        };
        let mut addresses = Box::default();
        let mut told = !pod.finished && (local || is_remote_somebody(&pod));
        if told && !pod.template.host_network {
            told = self.claim(&pod, number, seen);
            if told {
                addresses = pod.ips.clone().into_boxed_slice();
            }
        }
        let known = Known {
            number,
            print,
            list: self.list,
            told,
            addresses,
        };
        let of = self.known.entry(name.0.as_str().into()).or_default();
        of.insert(name.1.as_str().into(), known);
        match (told, was_told) {
            (true, true) if same => {}
            (true, _) => self.tell(name, Some(pod)),
            (false, true) => self.tell(name, None),
            (false, false) => {}
        }
    }

    /// Drops what nobody asks for: 100 000 pods are kept.
    fn slim(&self, pod: &mut Pod, local: bool) {
        pod.document = Default::default();
        pod.object = Default::default();
        let template = &mut pod.template;
        if local {
            let ours = |key: &str| key.starts_with("enforcer/") || key.contains("istio.io/");
            template.annotations.retain(|key, _| ours(key));
            return;
        }
        template.annotations.clear();
        template.containers = Vec::new();
        template.probe_ports.clear();
        (pod.interface, pod.netns, pod.node) = (None, None, None);
        pod.ips.shrink_to_fit();
        if !self.asked.contains(&pod.namespace) {
            template.labels.clear();
            template.ports = Vec::new();
        }
    }

    /// Gives the pod its addresses. Says whether it has them all.
    fn claim(&mut self, pod: &Pod, number: u32, seen: &Seen) -> bool {
        let rank = Rank {
            stays: !seen.leaving,
            created: time(&seen.created),
        };
        let others: Vec<(IpAddr, Claim)> = pod
            .ips
            .iter()
            .filter_map(|address| Some((*address, *self.holders.get(address)?)))
            .filter(|(_, other)| other.number != number)
            .collect();
        if let Some((address, _)) = others.iter().find(|(_, other)| other.rank > rank) {
            tracing::warn!(
                pod = format!("{}/{}", seen.name.0, seen.name.1),
                %address,
                "its address is a later pod's, and it is taken for gone"
            );
            return false;
        }
        for (address, other) in others {
            self.lose(other.number, address);
        }
        let claim = Claim { number, rank };
        self.holders
            .extend(pod.ips.iter().map(|address| (*address, claim)));
        true
    }

    /// A later pod has the address: whoever had it is nobody any more.
    fn lose(&mut self, number: u32, address: IpAddr) {
        // It happens seldom: nothing is kept for it.
        let pods = self.known.iter_mut().flat_map(|(namespace, of)| {
            let of = of.iter_mut();
            of.map(move |(name, known)| (namespace, name, known))
        });
        let mut pods = pods.filter(|(_, _, known)| known.number == number);
        let Some((namespace, name, known)) = pods.next() else {
            return;
        };
        let name = (namespace.to_string(), name.to_string());
        known.told = false;
        let addresses = std::mem::take(&mut known.addresses);
        tracing::info!(
            pod = format!("{}/{}", name.0, name.1),
            %address,
            "its address is a later pod's by now"
        );
        self.let_go(number, &addresses);
        self.tell(name, None);
    }

    /// Its addresses are free.
    fn let_go(&mut self, number: u32, addresses: &[IpAddr]) {
        for address in addresses {
            if self
                .holders
                .get(address)
                .is_some_and(|claim| claim.number == number)
            {
                self.holders.remove(address);
            }
        }
    }

    fn print(&self, pod: &Pod) -> u64 {
        self.keys.hash_one((
            &pod.template,
            &pod.ips,
            &pod.node,
            pod.finished,
            &pod.interface,
            &pod.netns,
        ))
    }

    fn tell(&mut self, name: PodName, now: Option<Pod>) {
        let local = now.as_ref().filter(|pod| pod.node.is_some());
        let before = match local {
            Some(pod) => self.local.insert(name.clone(), pod.clone()),
            None => self.local.remove(&name),
        };
        self.local_changed |= local.is_some() || before.is_some();
        self.changes.pod(name, now);
    }
}

/// The API server's seconds, as a number that grows with them. What is none is the oldest.
fn time(text: &str) -> u64 {
    let digits = text.bytes().filter(u8::is_ascii_digit).take(14);
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// Whether a pod of another node can be spoken of by its address.
fn is_remote_somebody(pod: &Pod) -> bool {
    !pod.ips.is_empty() && (!pod.template.host_network || !pod.template.labels.is_empty())
}

#[cfg(test)]
mod tests;
