//! A table linked from the one in force, where only policies and what is not about addresses differ:
//! the words of addresses are taken over, and those stored anew whose source has come into another
//! class. Everything behind the addresses is written as ever.
//!
//! A whole link visits every pod of the cluster; this one visits the identities, and the pods of those
//! that the policies tell apart otherwise than before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use enforcer_ebpf::words::{Address, CAPACITY_MAX, Words, header};

use super::{
    LinkError, Linked, Local, NodeView, PodName, Slotted, Sources, Table,
    addresses::{count, identity, is_source, own_addresses, pod_cidrs},
    classes::{Classes, Identity},
    incremental::{Ground, get, is_held, set},
    lower,
    renumber::renumber,
    scopes, write,
};
use crate::{
    cluster::{Cluster, Pod},
    ir::Program,
};

/// As much of a table may be unused: a share of it.
const UNUSED_SHARE: usize = 4;

/// Links a table from the one in force, as [`super::link_sources`] does from nothing. `before` are
/// the sources of the table in force, followed to where `cluster` is now, and `words` what lies
/// there. `None`: that takes a whole link.
///
/// # Errors
/// As [`super::link`].
pub fn link_again(
    before: &Sources,
    mut words: Vec<u32>,
    program: &Program,
    cluster: &Cluster,
    node: &NodeView,
) -> Result<Option<(Linked, Sources)>, LinkError> {
    let Some(pods) = known_pods(before, cluster, node) else {
        return Ok(None);
    };
    if before.ground != Ground::new(cluster, node, &pods) {
        return Ok(None);
    }
    let keys = scopes::keys_of(program, cluster, &pods)?;
    let asked = scopes::asked(program, &keys);
    let Some(renumbered) = renumber(program, asked, &before.partition)? else {
        return Ok(None);
    };
    let mut unused = before.unused;
    if words.len() == before.scopes.end {
        words.truncate(before.scopes.start);
    } else {
        // Blocks of addresses lie behind what is written anew.
        unused += before.scopes.len();
        if unused > words.len() / UNUSED_SHARE {
            return Ok(None);
        }
    }
    let mut table = Grown::of_addresses(words);
    let mut classes = renumbered.classes;
    classes.expect_named(&cluster.mesh.trust_domain)?;
    for pod in holders(cluster, &renumbered.moved) {
        if !store(cluster, pod, &mut classes, &mut table)? {
            return Ok(None);
        }
    }
    let (classes, partition) = classes.finish();
    let mut sources = before.with(partition);
    let words = table.0;
    let start = words.len();
    let (graph, scopes) = lower(program, &classes, keys);
    let linked = write::write(write::Parts {
        node,
        pods,
        scopes,
        words,
        addresses: before.count,
        disputed: before.disputed.clone(),
        graph,
        classes,
        extra_classes: Vec::new(),
    })?;
    sources.scopes = start..linked.words.len();
    sources.unused = unused;
    Ok(Some((linked, sources)))
}

impl Ground {
    pub(super) fn new(cluster: &Cluster, node: &NodeView, pods: &[Slotted<'_>]) -> Self {
        let name = |pod: &Pod| (pod.namespace.clone(), pod.name.clone());
        Self {
            trust_domain: cluster.mesh.trust_domain.clone(),
            pod_cidrs: pod_cidrs(cluster, node),
            own: own_addresses(cluster, node),
            disputes: node.disputes,
            locals: pods
                .iter()
                .map(|slotted| (name(slotted.pod), slotted.slot))
                .collect(),
        }
    }
}

/// The node's own pods, where they are those of before, in the slots that they have.
fn known_pods<'a>(
    before: &Sources,
    cluster: &'a Cluster,
    node: &NodeView,
) -> Option<Vec<Slotted<'a>>> {
    let Local::Only(names) = &node.local else {
        return None;
    };
    if !before.sorted || before.local_names() != Some(names) {
        return None;
    }
    let known = |(name, slot): &(PodName, u32)| {
        let (namespace, name_) = (name.0.as_str(), name.1.as_str());
        let of =
            |pod: &Arc<Pod>| (pod.namespace.as_str(), pod.name.as_str()).cmp(&(namespace, name_));
        let pod = cluster.pods.get(cluster.pods.binary_search_by(of).ok()?)?;
        let stays = !pod.finished && node.slots.get(name) == Some(slot);
        stays.then_some(Slotted { pod, slot: *slot })
    };
    before.ground.locals.iter().map(known).collect()
}

/// The pods of identities, in a sorted cluster.
fn holders<'a>(cluster: &'a Cluster, identities: &[Identity]) -> impl Iterator<Item = &'a Pod> {
    let mut accounts: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for identity in identities {
        let of = accounts.entry(&identity.namespace).or_default();
        of.insert(&identity.service_account);
    }
    let mut found = Vec::new();
    for (namespace, accounts) in accounts {
        let first = cluster
            .pods
            .partition_point(|pod| pod.namespace.as_str() < namespace);
        let pods = cluster.pods.get(first..).unwrap_or_default();
        let pods = pods.iter().take_while(|pod| pod.namespace == namespace);
        found.extend(pods.filter(|pod| {
            is_source(pod) && accounts.contains(pod.template.service_account.as_str())
        }));
    }
    found.into_iter().map(AsRef::as_ref)
}

/// Stores the words of a pod's addresses. Whether there is room.
fn store(
    cluster: &Cluster,
    pod: &Pod,
    classes: &mut Classes<'_>,
    table: &mut Grown,
) -> Result<bool, LinkError> {
    let identity = classes.identity(&identity(cluster, pod));
    for &address in &pod.ips {
        let word = get(table, address);
        // What several pods claim is nobody's.
        if is_held(word) {
            let class = classes.at(identity, Some(address))?;
            if set(table, address, Address::new(word.holder(), class)).is_none() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Words that grow as they are stored.
struct Grown(Vec<u32>);

impl Grown {
    /// Words of which only addresses are left.
    fn of_addresses(mut words: Vec<u32>) -> Self {
        let addresses = header::V6_HOSTS..=header::V6_RANGES_COUNT;
        for (index, word) in (0u32..).zip(words.iter_mut().take(header::WORDS as usize)) {
            if !addresses.contains(&index) {
                *word = 0;
            }
        }
        let length = count(words.len());
        let mut grown = Self(words);
        grown.store(header::LENGTH, length);
        grown
    }
}

impl Words for Grown {
    fn at(&self, index: u32) -> u32 {
        self.0.as_slice().at(index)
    }
}

impl Table for Grown {
    fn store(&mut self, index: u32, word: u32) {
        let index = index as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, 0);
        }
        if let Some(place) = self.0.get_mut(index) {
            *place = word;
        }
    }

    fn room(&self) -> u32 {
        CAPACITY_MAX
    }
}
