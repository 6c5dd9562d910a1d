//! From a program and an inventory to the words of one node: its own pods as destinations, every
//! pod and every IP block as sources. A pure function, the same in the compiler and in the agent.

pub mod addresses;
pub mod classes;
mod host;
mod index;
pub(crate) mod project;
pub mod scopes;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use enforcer_ebpf::words;
use ipnet::IpNet;

pub use classes::{Identity, Source};

use crate::{
    attach::Attachments,
    cluster::{Cluster, Pod},
    ir::{Program, Residual, RuleRef},
    lower::{cell::Decided, graph::DecisionGraph},
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
    let attachments = Attachments::new(program);
    let mut classes = classes::Classes::new(program)?;
    let pods = local_pods(cluster, node)?;
    let book = addresses::book(cluster, node, &pods, &mut classes)?;
    let extra_classes = extra
        .iter()
        .map(|source| classes.class(source))
        .collect::<Result<Vec<_>, _>>()?;
    let classes = classes.close();

    let mut graph = DecisionGraph::default();
    let mut lowered = scopes::Lowered::new(program, &classes, &mut graph);
    let mut scopes = Vec::with_capacity(pods.len());
    for pod in &pods {
        scopes.push(lowered.pod(cluster, &attachments, pod.pod)?);
    }
    write::write(write::Parts {
        node,
        pods,
        scopes,
        book,
        graph,
        classes,
        extra_classes,
    })
}

/// A pod with its slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slotted<'a> {
    pub pod: &'a Pod,
    pub slot: u32,
}

fn local_pods<'a>(cluster: &'a Cluster, node: &NodeView) -> Result<Vec<Slotted<'a>>, LinkError> {
    let local: Vec<&Pod> = cluster
        .pods
        .iter()
        .filter(|pod| !pod.finished)
        .filter(|pod| match &node.local {
            Local::All => true,
            Local::Node(name) => pod.node.as_deref() == Some(name),
            Local::Only(names) => names.contains(&(pod.namespace.clone(), pod.name.clone())),
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

pub(crate) fn qualified(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}
