//! Finds the node's end of each pod's link, and the pod's namespace, from either one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use policyc::cluster::{Cluster, Pod};
use rtnetlink::Handle;

use super::{
    Enrolment, Interface, Inventory, InventoryError, LocalPod, Lost,
    node::{addresses, namespaces, node_addresses},
};
use crate::{
    attach::HookAt,
    flows::forwards,
    netlink::{self, Link},
    netns::Netns,
    proxy_netns::{L7, REJ},
};

/// What to look for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only pods with this `spec.nodeName`.
    pub node: Option<String>,
    /// Only pods behind these interfaces are policed; each must be a pod's. Empty: all pods.
    pub interfaces: Vec<String>,
}

impl Wanted {
    /// Nothing says which of the inventory's pods are here.
    fn says_nothing(&self) -> bool {
        self.node.is_none() && self.interfaces.is_empty()
    }

    /// Whether a pod may be this node's, as far as the inventory says.
    pub fn may_be_here(&self, pod: &Pod) -> bool {
        self.node.is_none() || self.node == pod.node
    }

    /// Whether a pod is among those to be policed.
    pub(super) fn names(&self, pod: &LocalPod) -> bool {
        let named = |i: &Interface| self.interfaces.contains(&i.link.name);
        self.interfaces.is_empty() || pod.interfaces.iter().any(named)
    }
}

/// Finds the pods of this node. Must be called within a tokio runtime.
pub async fn find(cluster: Cluster, wanted: &Wanted) -> Result<Inventory, InventoryError> {
    let node = Netns::current()?;
    let handle = netlink::connect(&node)?;
    let links = netlink::links(&handle).await?;
    let known = named_interfaces(&handle, &links, &cluster, wanted).await?;

    let mut finder = Finder::new(&handle, &links);
    let (mut pods, mut lost) = (Vec::new(), Vec::new());
    for pod in &cluster.pods {
        match finder.place(pod, wanted, &known).await? {
            Place::Here(found) => pods.push(*found),
            Place::Lost(reason) => lost.push(((pod.namespace.clone(), pod.name.clone()), reason)),
            Place::Elsewhere => {}
        }
    }
    check(&pods, wanted)?;
    let node_addresses = node_addresses(&handle).await?;
    Ok(Inventory {
        cluster: Arc::new(cluster),
        pods,
        lost,
        unknown: Vec::new(),
        node_addresses,
    })
}

/// As [`find`], among pods that come and go: what is wrong with one of them is that pod's alone, and a
/// node may have none.
pub async fn find_live(cluster: Cluster, wanted: &Wanted) -> Result<Inventory, InventoryError> {
    let handle = netlink::connect(&Netns::current()?)?;
    let nothing = Inventory {
        cluster: Arc::new(cluster),
        node_addresses: node_addresses(&handle).await?,
        ..Inventory::default()
    };
    let cluster = Arc::clone(&nothing.cluster);
    let found = super::again(&nothing.here(wanted), wanted).await?;
    Ok(Inventory { cluster, ..found })
}

fn check(pods: &[LocalPod], wanted: &Wanted) -> Result<(), InventoryError> {
    let mut behind: BTreeMap<&str, &LocalPod> = BTreeMap::new();
    for pod in pods {
        for interface in &pod.interfaces {
            if let Some(other) = behind.insert(&interface.link.name, pod) {
                return Err(InventoryError::SharedInterface(
                    qualified(&other.name),
                    qualified(&pod.name),
                    interface.link.name.clone(),
                ));
            }
        }
    }
    if let Some(name) = wanted
        .interfaces
        .iter()
        .find(|name| !behind.contains_key(name.as_str()))
    {
        return Err(InventoryError::NobodyBehind(name.clone()));
    }
    // A node may well have no pods; a machine whose name nobody has said is not known to be one.
    if pods.is_empty() && wanted.node.is_none() {
        return Err(InventoryError::Empty);
    }
    Ok(())
}

/// For interfaces that were asked for by name: the pod that has an address in the namespace behind.
pub(super) async fn named_interfaces(
    handle: &Handle,
    links: &[Link],
    cluster: &Cluster,
    wanted: &Wanted,
) -> Result<BTreeMap<super::PodName, String>, InventoryError> {
    let mut known = BTreeMap::new();
    let mut finder = Finder::new(handle, links);
    for name in &wanted.interfaces {
        let link = links
            .iter()
            .find(|link| link.name == *name)
            .ok_or_else(|| InventoryError::UnknownInterface(name.clone(), names(links)))?;
        if cluster
            .pods
            .iter()
            .any(|p| p.interface.as_ref() == Some(name))
        {
            continue;
        }
        let Some(netns) = finder.namespace_behind(link).await? else {
            continue;
        };
        let inside = addresses(&netlink::connect(&netns)?).await?;
        if let Some(pod) = cluster
            .pods
            .iter()
            .find(|pod| !pod.finished && pod.ips.iter().any(|ip| inside.contains(ip)))
        {
            known.insert((pod.namespace.clone(), pod.name.clone()), name.clone());
        }
    }
    Ok(known)
}

/// Where a pod of the inventory is.
pub(super) enum Place {
    Here(Box<LocalPod>),
    /// On this node, and not to be found.
    Lost(Lost),
    Elsewhere,
}

pub(super) struct Finder<'a> {
    handle: &'a Handle,
    links: &'a [Link],
    /// Where each namespace that the node has an id for can be opened.
    namespaces: Option<BTreeMap<i32, PathBuf>>,
    /// Which of them hold an address.
    holders: Option<BTreeMap<IpAddr, BTreeSet<PathBuf>>>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(handle: &'a Handle, links: &'a [Link]) -> Self {
        Self {
            handle,
            links,
            namespaces: None,
            holders: None,
        }
    }

    /// Looks for a pod. `known` are interfaces that were asked for by name, with the pod behind each.
    pub(super) async fn place(
        &mut self,
        pod: &Pod,
        wanted: &Wanted,
        known: &BTreeMap<super::PodName, String>,
    ) -> Result<Place, InventoryError> {
        if pod.finished || wanted.node.is_some() && wanted.node != pod.node {
            return Ok(Place::Elsewhere);
        }
        let name = (pod.namespace.clone(), pod.name.clone());
        let mut found = match (&pod.interface, &pod.netns, known.get(&name)) {
            (Some(interface), _, _) => self.by_interface(pod, interface).await?,
            (None, Some(path), _) => self.by_netns(pod, Path::new(path)).await?,
            (None, None, Some(interface)) => self.by_interface(pod, interface).await?,
            // Without the node's name, a pod that nothing leads to is another node's.
            (None, None, None) if wanted.says_nothing() => return Ok(Place::Elsewhere),
            (None, None, None) => match self.by_address(pod).await? {
                Ok(found) => found,
                Err(_) if wanted.node.is_none() => return Ok(Place::Elsewhere),
                Err(reason) => return Ok(Place::Lost(reason)),
            },
        };
        found.gateway = is_gateway(pod)?;
        found.hides_sockets = hides_sockets(found.netns.as_deref());
        if !wanted.names(&found) {
            found.enrolment = Enrolment::NotNamed;
        }
        Ok(Place::Here(Box::new(found)))
    }

    /// Number of the link of that name.
    pub(super) fn index_of(&self, name: &str) -> Option<u32> {
        let mut links = self.links.iter();
        links.find(|link| link.name == name).map(|link| link.index)
    }

    /// Numbers of the links into the namespace of that id.
    pub(super) fn leading_into(&self, id: i32) -> impl Iterator<Item = u32> {
        let into = move |link: &&Link| link.is_pair() && link.peer_netns_id == Some(id);
        self.links.iter().filter(into).map(|link| link.index)
    }

    /// The interface as it is now, if it is still the same link to the same namespace.
    pub(super) fn still(&self, interface: &Interface) -> Option<Interface> {
        let was = &interface.link;
        let link = self.links.iter().find(|link| link.index == was.index)?;
        let same = link.is_pair() == was.is_pair() && link.peer_netns_id == was.peer_netns_id;
        same.then(|| Interface {
            inside: interface.inside.clone(),
            hook: interface.hook,
            ..self.interface(link, interface.netns_id, &[])
        })
    }

    /// The pod whose namespace nobody has named: the one that has the pod's address.
    async fn by_address(&mut self, pod: &Pod) -> Result<Result<LocalPod, Lost>, InventoryError> {
        if pod.template.host_network {
            return Ok(Err(Lost::HostNetwork));
        }
        if pod.ips.is_empty() {
            return Ok(Err(Lost::NoAddress));
        }
        if self.holders.is_none() {
            self.holders = Some(self.find_holders().await?);
        }
        let holders = self.holders.iter();
        let paths: BTreeSet<PathBuf> = holders
            .flat_map(|holders| pod.ips.iter().filter_map(|ip| holders.get(ip)))
            .flatten()
            .cloned()
            .collect();
        let mut paths = paths.iter();
        match (paths.next(), paths.next()) {
            (Some(path), None) => match self.by_netns(pod, path).await {
                Ok(found) => Ok(Ok(found)),
                // It ended while we looked, or hangs on something other than a veth.
                Err(InventoryError::NotConnected { .. } | InventoryError::Netns(_)) => {
                    Ok(Err(Lost::NotFound))
                }
                Err(error) => Err(error),
            },
            (Some(_), Some(_)) => Ok(Err(Lost::Ambiguous)),
            (None, _) => Ok(Err(Lost::NotFound)),
        }
    }

    async fn find_holders(
        &mut self,
    ) -> Result<BTreeMap<IpAddr, BTreeSet<PathBuf>>, InventoryError> {
        let mut holders: BTreeMap<IpAddr, BTreeSet<PathBuf>> = BTreeMap::new();
        for path in self.namespaces().await?.values() {
            // Namespaces come and go; one that is gone holds nothing.
            let Ok(netns) = Netns::open(path) else {
                continue;
            };
            for address in addresses(&netlink::connect(&netns)?).await? {
                holders.entry(address).or_default().insert(path.clone());
            }
        }
        Ok(holders)
    }

    async fn namespaces(&mut self) -> Result<&BTreeMap<i32, PathBuf>, InventoryError> {
        if self.namespaces.is_none() {
            self.namespaces = Some(namespaces(self.handle).await?);
        }
        Ok(self.namespaces.get_or_insert_default())
    }

    async fn by_interface(&mut self, pod: &Pod, name: &str) -> Result<LocalPod, InventoryError> {
        let link = self
            .links
            .iter()
            .find(|link| link.name == name)
            .ok_or_else(|| InventoryError::NoSuchInterface {
                pod: format!("{}/{}", pod.namespace, pod.name),
                interface: name.into(),
                have: names(self.links),
            })?;
        let (netns, id) = match &pod.netns {
            Some(path) => {
                let netns = Netns::open(Path::new(path))?;
                let id = netlink::netns_id(self.handle, &netns).await?;
                (Some(netns), Some(id))
            }
            None => (self.namespace_behind(link).await?, link.peer_netns_id),
        };
        let mut interfaces = Vec::new();
        if let (Some(netns), Some(id)) = (&netns, id) {
            // The annotation says where the pod is. What else leads there is as good a way in.
            interfaces = self.leading_to(netns, id).await?;
        }
        match interfaces.iter().position(|i| i.link.index == link.index) {
            Some(place) => interfaces.swap(0, place),
            None => interfaces.insert(0, self.interface(link, id, &[])),
        }
        Ok(local(pod, interfaces, netns))
    }

    /// The links between the node and a namespace.
    async fn leading_to(&self, netns: &Netns, id: i32) -> Result<Vec<Interface>, InventoryError> {
        let inside = netlink::links(&netlink::connect(netns)?).await?;
        let ends = |link: &&Link| {
            let leads = link.is_pair() && link.peer_netns_id == Some(id);
            leads && inside.iter().any(|far| are_ends(link, far))
        };
        let links = self.links.iter().filter(ends);
        Ok(links
            .map(|link| self.interface(link, Some(id), &inside))
            .collect())
    }

    async fn by_netns(&mut self, pod: &Pod, path: &Path) -> Result<LocalPod, InventoryError> {
        let netns = Netns::open(path)?;
        let id = netlink::netns_id(self.handle, &netns).await?;
        let interfaces = self.leading_to(&netns, id).await?;
        if interfaces.is_empty() {
            return Err(InventoryError::NotConnected {
                pod: format!("{}/{}", pod.namespace, pod.name),
                netns: path.into(),
            });
        }
        Ok(local(pod, interfaces, Some(netns)))
    }

    /// `inside` are the links of the pod's namespace.
    pub(super) fn interface(
        &self,
        link: &Link,
        netns_id: Option<i32>,
        inside: &[Link],
    ) -> Interface {
        let bridge = self
            .links
            .iter()
            .find(|other| link.master != 0 && other.index == link.master && other.is_bridge)
            .map_or(0, |bridge| bridge.index);
        Interface {
            link: link.clone(),
            bridge,
            switched: bridge != 0 && !bridge_calls_netfilter(),
            netns_id,
            inside: inside.iter().find(|far| are_ends(link, far)).cloned(),
            hook: HookAt::Host,
        }
    }

    pub(super) async fn namespace_behind(
        &mut self,
        link: &Link,
    ) -> Result<Option<Netns>, InventoryError> {
        let Some(id) = link.peer_netns_id else {
            return Ok(None);
        };
        match self.namespaces().await?.get(&id) {
            Some(path) => Ok(Some(Netns::open(path)?)),
            None => Ok(None),
        }
    }
}

/// Both ends of one link, each as its own namespace numbers it.
fn are_ends(near: &Link, far: &Link) -> bool {
    far.index == near.peer && far.peer == near.index
}

/// What the annotation says; nothing is no.
fn is_gateway(pod: &Pod) -> Result<bool, InventoryError> {
    match pod.template.annotations.get("enforcer/gateway") {
        None => Ok(false),
        Some(value) if value == "true" => Ok(true),
        Some(value) if value == "false" => Ok(false),
        Some(value) => Err(InventoryError::Gateway {
            pod: format!("{}/{}", pod.namespace, pod.name),
            value: value.clone(),
        }),
    }
}

/// A namespace that forwards may have others behind it, whose sockets it does not know: whoever asks
/// it must not take their connections for dead.
fn hides_sockets(netns: Option<&Netns>) -> bool {
    netns.is_some_and(|netns| netns.enter(forwards).unwrap_or(true))
}

/// Whether bridged frames pass the node's netfilter, and so its connection tracking.
fn bridge_calls_netfilter() -> bool {
    fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables")
        .is_ok_and(|value| value.trim() != "0")
}

fn local(pod: &Pod, interfaces: Vec<Interface>, netns: Option<Netns>) -> LocalPod {
    LocalPod {
        name: (pod.namespace.clone(), pod.name.clone()),
        addresses: pod.ips.clone(),
        interfaces,
        netns: netns.map(Arc::new),
        enrolment: Enrolment::Wanted,
        gateway: false,
        hides_sockets: false,
        away: None,
    }
}

fn names(links: &[Link]) -> String {
    links
        .iter()
        .map(|link| link.name.as_str())
        .filter(|name| ![L7.outside, REJ.outside, "lo"].contains(name))
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn qualified(name: &super::PodName) -> String {
    format!("{}/{}", name.0, name.1)
}
