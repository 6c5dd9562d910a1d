//! Which pods live on this node, behind which interfaces: the inventory's word, checked against
//! what the kernel has.

mod again;
pub mod enrolment;
pub mod file;
mod find;
mod node;
pub mod unknown;

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, sync::Arc};

use policyc::cluster::{Cluster, Pod};

pub use again::again;
pub use find::{Wanted, find, find_live};
pub use node::node_addresses;
pub use unknown::Unknown;

use crate::{
    attach::HookAt,
    netlink::{Link, NetlinkError},
    netns::{Netns, NetnsError},
};

/// `namespace`, `name`
pub type PodName = (String, String);

/// Everything that linking and attaching must know.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pub cluster: Arc<Cluster>,
    pub pods: Vec<LocalPod>,
    /// Pods of this node that cannot be guarded, with the reason.
    pub lost: Vec<(PodName, Lost)>,
    /// Interfaces that look like a pod's, of which no pod is known: see [`unknown`].
    pub unknown: Vec<Unknown>,
    /// Addresses of the node itself.
    pub node_addresses: Vec<IpAddr>,
}

/// A pod of this node.
#[derive(Clone, Debug)]
pub struct LocalPod {
    pub name: PodName,
    pub addresses: Vec<IpAddr>,
    /// Node's ends of its links. Empty only while all of them are gone, see [`LocalPod::away`].
    pub interfaces: Vec<Interface>,
    /// `None` when no process and no name leads to it.
    pub netns: Option<Arc<Netns>>,
    pub enrolment: Enrolment,
    /// It forwards for others: annotation `enforcer/gateway`.
    pub gateway: bool,
    /// Its namespace may have others behind it, whose sockets it does not know.
    pub hides_sockets: bool,
    /// Why there is no interface any more. What claims the pod's addresses is refused.
    pub away: Option<Lost>,
}

/// Whether a pod that was found is to be policed, or only guarded against spoofing: other pods'
/// verdicts rest on the source addresses of every pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enrolment {
    Wanted,
    /// It is behind none of the interfaces that were asked for.
    NotNamed,
}

/// Why a pod of this node cannot be guarded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Lost {
    #[error("it is on the node's own network, and has no interface of its own")]
    HostNetwork,
    #[error("the inventory knows no address of it yet")]
    NoAddress,
    #[error(
        "no network namespace on this node has its address: give it the annotation \
         enforcer/interface or enforcer/netns"
    )]
    NotFound,
    #[error(
        "several network namespaces on this node have its address: give it the annotation \
         enforcer/interface or enforcer/netns"
    )]
    Ambiguous,
    #[error("its interface is gone: {0}")]
    Gone(String),
}

impl Lost {
    /// Nothing that happens on the node will change it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::HostNetwork | Self::NoAddress)
    }
}

/// The node's end of a pod's link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    pub link: Link,
    /// Index of the bridge that it is a port of, or 0.
    pub bridge: u32,
    /// The bridge switches frames past the node's connection tracking.
    pub switched: bool,
    /// The pod's namespace as the node numbers it.
    pub netns_id: Option<i32>,
    /// The pod's end, in the pod's namespace, where that is known.
    pub inside: Option<Link>,
    /// Where packets to the pod are judged.
    pub hook: HookAt,
}

/// What can go wrong while the pods are looked for.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    #[error("the inventory has errors:\n{0}")]
    Manifests(String),
    #[error("cannot read the inventory `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "pod `{pod}`: this node has no interface `{interface}` (annotation enforcer/interface); it has {have}"
    )]
    NoSuchInterface {
        pod: String,
        interface: String,
        have: String,
    },
    #[error(
        "pod `{pod}`: no interface of this node leads to its namespace `{netns}` (annotation enforcer/netns)"
    )]
    NotConnected { pod: String, netns: PathBuf },
    #[error(
        "pod `{pod}`: annotation enforcer/gateway is `{value}`, and can be \"true\" or \"false\""
    )]
    Gateway { pod: String, value: String },
    #[error("--interface {0}: this node has no such interface; it has {1}")]
    UnknownInterface(String, String),
    #[error(
        "--interface {0}: no pod of the inventory is behind it: name it in the pod's annotation enforcer/interface"
    )]
    NobodyBehind(String),
    #[error("pods `{0}` and `{1}` are both behind interface `{2}`")]
    SharedInterface(String, String, String),
    #[error(
        "no pod of the inventory is on this node: give pods the annotation enforcer/interface or enforcer/netns, or say which node this is with --node-name"
    )]
    Empty,
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

impl Inventory {
    /// Least MTU among the pods' links; that of Ethernet when there is none. Below the least of IPv6
    /// the kernel would take IPv6 off the proxy's links, for every pod.
    pub fn mtu(&self) -> u32 {
        const ETHERNET: u32 = 1500;
        const LEAST_OF_IPV6: u32 = 1280;
        self.interfaces()
            .map(|interface| interface.link.mtu)
            .min()
            .unwrap_or(ETHERNET)
            .max(LEAST_OF_IPV6)
    }

    /// Every interface of a pod that is known.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.pods.iter().flat_map(|pod| &pod.interfaces)
    }

    /// Every interface to be guarded, with the namespace behind it where that is known.
    pub fn guarded(&self) -> impl Iterator<Item = (&Interface, Option<&Arc<Netns>>)> {
        let pods = self.pods.iter().flat_map(|pod| {
            let interfaces = pod.interfaces.iter();
            interfaces.map(|interface| (interface, pod.netns.as_ref()))
        });
        let unknown = self.unknown.iter();
        pods.chain(unknown.map(|unknown| (&unknown.interface, unknown.netns.as_ref())))
    }

    /// The same interfaces, to be changed.
    pub fn guarded_mut(&mut self) -> impl Iterator<Item = &mut Interface> {
        let pods = self.pods.iter_mut().flat_map(|pod| &mut pod.interfaces);
        pods.chain(
            self.unknown
                .iter_mut()
                .map(|unknown| &mut unknown.interface),
        )
    }

    /// The pods of this node, with the rest of the cluster left out where the node's name tells: what
    /// it takes to look for them again.
    #[must_use]
    pub fn here(&self, wanted: &Wanted) -> Self {
        let cluster = match &wanted.node {
            None => Arc::clone(&self.cluster),
            Some(_) => {
                let pods = self.cluster.pods.iter();
                Arc::new(Cluster {
                    pods: pods
                        .filter(|pod| wanted.may_be_here(pod))
                        .cloned()
                        .collect(),
                    ..Cluster::default()
                })
            }
        };
        Self {
            cluster,
            ..self.clone()
        }
    }

    /// Takes over what the cluster says of the local pods. One that it does not know any more stays
    /// until its interfaces have been let go.
    pub fn follow_cluster(&mut self) {
        for local in &mut self.pods {
            if let Some(pod) = pod(&self.cluster, &local.name) {
                local.addresses.clone_from(&pod.ips);
            }
        }
    }

    /// Leaves out the local pods that are over. With `keep` their interfaces are those of unknown pods
    /// from now on.
    pub fn drop_gone(&mut self, keep: bool) {
        let cluster = Arc::clone(&self.cluster);
        let there = |name: &PodName| pod(&cluster, name).is_some_and(|pod| !pod.finished);
        let gone = self.pods.extract_if(.., |local| !there(&local.name));
        let left = gone.flat_map(|local| {
            let netns = local.netns;
            let interfaces = local.interfaces.into_iter();
            interfaces.map(move |interface| Unknown {
                interface,
                netns: netns.clone(),
            })
        });
        match keep {
            true => self.unknown.extend(left),
            false => drop(left.count()),
        }
        self.lost.retain(|(name, _)| there(name));
    }

    /// The names of the local pods.
    pub fn names(&self) -> BTreeSet<PodName> {
        self.pods.iter().map(|pod| pod.name.clone()).collect()
    }
}

/// A pod of a cluster, whose pods are sorted.
pub fn pod<'a>(cluster: &'a Cluster, name: &PodName) -> Option<&'a Arc<Pod>> {
    let key = |pod: &Arc<Pod>| (&pod.namespace, &pod.name).cmp(&(&name.0, &name.1));
    let at = cluster.pods.binary_search_by(key).ok()?;
    cluster.pods.get(at)
}
