//! From a program and an inventory to the words of one node: its own pods as destinations, every
//! pod and every IP block as sources. A pure function, the same in the compiler and in the agent.

pub mod addresses;
mod again;
pub mod blocks;
#[cfg(test)]
mod canonical;
pub mod classes;
mod host;
pub mod incremental;
mod index;
mod interner;
pub(crate) mod project;
mod renumber;
pub mod scopes;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use enforcer_ebpf::words;
use ipnet::IpNet;

pub use again::link_again;
pub use classes::{Identity, Source};
use incremental::Ground;
pub use incremental::{Sources, Table};

use crate::{
    cluster::{Cluster, Pod},
    ir::{Program, Residual, RuleRef},
    lower::{cell::Decided, graph::DecisionGraph, scope::ScopeKey},
    request::Cause,
};

/// `namespace`, `name`
pub type PodName = (String, String);

/// What a node is, beyond what the inventory says.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    pub local: Local,
    /// Slots that pods have already; the others get the lowest free ones, in the order of names.
    pub slots: BTreeMap<PodName, u32>,
    pub interfaces: BTreeMap<PodName, Vec<Interface>>,
    /// Addresses of the node itself, besides those of its Node object.
    pub addresses: Vec<IpAddr>,
    /// Ranges of pods, besides those of the Node objects.
    pub pod_cidrs: Vec<IpNet>,
    pub host: HostMode,
    /// Pods of these namespaces are guarded against spoofing, and not policed.
    pub excluded_namespaces: BTreeSet<String>,
    /// So are these pods.
    pub guarded_only: BTreeSet<PodName>,
    /// Bits of [`words::options`].
    pub options: u32,
    /// Bits of [`words::pod_flags`] to be set beyond those that linking finds.
    pub pod_flags: BTreeMap<PodName, u32>,
    pub epoch: u32,
    /// Words that a slot holds; 0 for [`words::CAPACITY_MAX`].
    pub capacity: u32,
    pub disputes: Disputes,
}

/// What an address is that several pods claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Disputes {
    /// An error: the inventory contradicts itself.
    #[default]
    Refused,
    /// Nobody's, until one pod is left: a running cluster may tell of the next pod first.
    Unknown,
}

/// Which pods are destinations.
#[derive(Clone, Debug, Default)]
pub enum Local {
    /// Every pod of the inventory.
    #[default]
    All,
    /// The pods of one node.
    Node(String),
    /// These pods.
    Only(BTreeSet<PodName>),
}

/// `--host`: what the node itself may reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HostMode {
    /// Ports that probes declare; judged by policy otherwise.
    #[default]
    Probes,
    /// Everything.
    All,
    /// Judged by policy.
    Enforce,
}

/// The host's end of a pod's link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interface {
    pub ifindex: u32,
    /// Index of the bridge that it is a port of, or 0.
    pub bridge: u32,
    /// The pod's network namespace as the node numbers it, plus one, or 0.
    pub netns_id: u32,
}

/// A linked table, with what attribution and userspace need.
#[derive(Clone, Debug)]
pub struct Linked {
    pub words: Vec<u32>,
    /// By the record number of a cell; record 0 is "no record".
    pub records: Vec<Record>,
    pub residuals: Vec<Residual>,
    pub pods: Vec<LinkedPod>,
    /// Source class of each extra source, in order.
    pub extra_classes: Vec<u16>,
    /// Addresses that several pods claim, and that are nobody's therefore.
    pub disputed: BTreeSet<IpAddr>,
    /// What tells the source classes apart, for reports.
    pub classes: classes::Closed,
    pub summary: Summary,
}

/// The cause behind a cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub verdict: Decided,
    pub cause: Cause,
    pub rule: Option<RuleRef>,
    pub audit: Vec<RuleRef>,
    pub dry_run: Vec<RuleRef>,
    /// Index into [`Linked::residuals`].
    pub residual: u32,
}

/// A pod of this node, as it was linked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkedPod {
    pub namespace: String,
    pub name: String,
    pub slot: u32,
    /// Offsets of its scopes in the words.
    pub scope_v4: u32,
    pub scope_v6: u32,
    pub enrolled: bool,
    /// Some cell of its scopes asks userspace.
    pub asks: bool,
}

/// Sizes, for reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Summary {
    pub scopes: usize,
    pub source_classes: usize,
    /// Widest scope.
    pub port_classes: usize,
    pub records: usize,
    pub words: usize,
    pub addresses: usize,
    /// Cells by verdict: decided in the kernel, or asked of userspace.
    pub cells_decided: usize,
    pub cells_asked: usize,
}

/// Why a table cannot be linked. The old table stays in force.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{count} {what} exceed the limit of {limit}: {fix}")]
    Capacity {
        what: &'static str,
        count: usize,
        limit: usize,
        fix: &'static str,
    },
    #[error("pods `{0}` and `{1}` both hold address {2}: one of them must be gone")]
    AddressTwice(String, String, IpAddr),
    #[error(
        "pod `{0}` holds several addresses of one family, and a policy asks for `destination.ip` there"
    )]
    SeveralDestinations(String),
    #[error("pods `{0}` and `{1}` both have slot {2}")]
    SlotTwice(String, String, u32),
}

impl LinkError {
    fn capacity(
        what: &'static str,
        count: usize,
        limit: u32,
        fix: &'static str,
    ) -> Result<(), Self> {
        let limit = limit as usize;
        if count > limit {
            Err(Self::Capacity {
                what,
                count,
                limit,
                fix,
            })
        } else {
            Ok(())
        }
    }
}

/// Links a table. `extra` are sources without an address in the table, whose classes are wanted.
///
/// # Errors
/// A limit that is exceeded, or an inventory that contradicts itself.
pub fn link(
    program: &Program,
    cluster: &Cluster,
    node: &NodeView,
    extra: &[Source],
) -> Result<Linked, LinkError> {
    link_sources(program, cluster, node, extra).map(|(linked, _)| linked)
}

/// Links a table, and keeps what it takes to follow its sources.
///
/// # Errors
/// As [`link`].
pub fn link_sources(
    program: &Program,
    cluster: &Cluster,
    node: &NodeView,
    extra: &[Source],
) -> Result<(Linked, Sources), LinkError> {
    let pods = local_pods(cluster, node)?;
    let keys = scopes::keys_of(program, cluster, &pods)?;
    let mut classes = classes::Classes::asking(program, scopes::asked(program, &keys))?;
    if matches!(node.local, Local::Only(_)) {
        classes.expect_named(&cluster.mesh.trust_domain)?;
    }
    let book = addresses::book(cluster, node, &pods, &mut classes)?;
    let extra_classes = extra
        .iter()
        .map(|source| classes.class(source))
        .collect::<Result<Vec<_>, _>>()?;
    let (classes, partition) = classes.finish();
    let ground = Ground::new(cluster, node, &pods);
    let mut sources = Sources::new(partition, &book, &node.local, ground);
    let words = book.write()?;
    let start = words.len();
    let (graph, scopes) = lower(program, &classes, keys);
    let linked = write::write(write::Parts {
        node,
        pods,
        scopes,
        words,
        addresses: book.len(),
        disputed: book.disputed,
        graph,
        classes,
        extra_classes,
    })?;
    sources.scopes = start..linked.words.len();
    let before = |a: &Arc<Pod>, b: &Arc<Pod>| (&a.namespace, &a.name) < (&b.namespace, &b.name);
    sources.sorted = cluster.pods.is_sorted_by(before);
    Ok((linked, sources))
}

/// The decisions of pods' scopes.
fn lower(
    program: &Program,
    classes: &classes::Closed,
    keys: Vec<[ScopeKey; 2]>,
) -> (DecisionGraph, Vec<scopes::PodScopes>) {
    let mut graph = DecisionGraph::default();
    let mut lowered = scopes::Lowered::new(program, classes, &mut graph);
    let of = |[v4, v6]: [ScopeKey; 2]| scopes::PodScopes {
        v4: lowered.scope(v4),
        v6: lowered.scope(v6),
    };
    let scopes = keys.into_iter().map(of).collect();
    (graph, scopes)
}

/// A pod with its slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slotted<'a> {
    pub pod: &'a Pod,
    pub slot: u32,
}

fn local_pods<'a>(cluster: &'a Cluster, node: &NodeView) -> Result<Vec<Slotted<'a>>, LinkError> {
    let mut here = Here::new(&node.local);
    let local: Vec<&Pod> = cluster
        .pods
        .iter()
        .map(AsRef::as_ref)
        .filter(|pod| !pod.finished)
        .filter(|pod| match &node.local {
            Local::All => true,
            Local::Node(name) => pod.node.as_deref() == Some(name),
            Local::Only(_) => here.has(pod),
        })
        // A pod on the host's network has no link of its own to be enforced at.
        .filter(|pod| !pod.template.host_network || matches!(node.local, Local::Only(_)))
        .collect();
    LinkError::capacity(
        "pods on one node",
        local.len(),
        words::LOCAL_PODS_MAX,
        "no node runs that many",
    )?;
    let mut taken: BTreeMap<u32, &Pod> = BTreeMap::new();
    for pod in &local {
        if let Some(&slot) = node.slots.get(&(pod.namespace.clone(), pod.name.clone()))
            && let Some(other) = taken.insert(slot, pod)
        {
            return Err(LinkError::SlotTwice(qualified(other), qualified(pod), slot));
        }
    }
    let mut free = (0u32..words::LOCAL_PODS_MAX).filter(|slot| !taken.contains_key(slot));
    let mut slotted = Vec::with_capacity(local.len());
    for pod in local {
        let slot = match node.slots.get(&(pod.namespace.clone(), pod.name.clone())) {
            Some(&slot) => slot,
            None => free.next().unwrap_or(words::LOCAL_PODS_MAX),
        };
        LinkError::capacity(
            "the slot number of a pod",
            slot as usize + 1,
            words::LOCAL_PODS_MAX,
            "slots must be given out from 0",
        )?;
        slotted.push(Slotted { pod, slot });
    }
    Ok(slotted)
}

/// Pods by name, asked in the order of namespaces: most of a cluster's have none of them.
struct Here<'a> {
    names: BTreeMap<&'a str, BTreeSet<&'a str>>,
    namespace: String,
    any: bool,
}

impl<'a> Here<'a> {
    fn new(local: &'a Local) -> Self {
        let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        if let Local::Only(pods) = local {
            for (namespace, name) in pods {
                names.entry(namespace).or_default().insert(name);
            }
        }
        Self {
            any: names.contains_key(""),
            names,
            namespace: String::new(),
        }
    }

    fn has(&mut self, pod: &Pod) -> bool {
        if pod.namespace != self.namespace {
            self.namespace.clone_from(&pod.namespace);
            self.any = self.names.contains_key(pod.namespace.as_str());
        }
        self.any
            && self
                .names
                .get(pod.namespace.as_str())
                .is_some_and(|names| names.contains(pod.name.as_str()))
    }
}

pub(crate) fn qualified(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}
