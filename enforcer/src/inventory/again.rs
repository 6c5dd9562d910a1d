//! Where the pods are now, of which it is known where they were: links come, go and change their
//! names while the agent runs.
//!
//! A link that was a pod's stays the pod's whatever its name, for as long as it leads to the same
//! namespace; nobody else's name for it counts. A pod whose links are all gone stays a pod of this
//! node, so that nobody can send from its addresses.

use std::{collections::BTreeMap, sync::Arc};

use policyc::cluster::Pod;

use super::{
    Enrolment, Interface, Inventory, InventoryError, LocalPod, Lost, PodName, Wanted,
    find::{Finder, Place, named_interfaces},
};
use crate::{netlink, netns::Netns};

/// Looks again. Must be called within a tokio runtime.
pub async fn again(before: &Inventory, wanted: &Wanted) -> Result<Inventory, InventoryError> {
    let handle = netlink::connect(&Netns::current()?)?;
    let links = netlink::links(&handle).await?;
    let there = Wanted {
        node: wanted.node.clone(),
        interfaces: wanted
            .interfaces
            .iter()
            .filter(|name| links.iter().any(|link| link.name == **name))
            .cloned()
            .collect(),
    };
    let named = named_interfaces(&handle, &links, &before.cluster, &there).await?;
    let mut finder = Finder::new(&handle, &links);
    let mut owners = Owners::of(before, &finder);
    let (mut pods, mut lost) = (Vec::new(), Vec::new());
    for pod in &before.cluster.pods {
        let name = (pod.namespace.clone(), pod.name.clone());
        if owners
            .known
            .get(&name)
            .is_some_and(|known| known.is_whole(pod, &finder))
        {
            pods.extend(owners.known.remove(&name).map(Known::into_pod));
            continue;
        }
        let place = match finder.place(pod, wanted, &named).await {
            Ok(place) => place,
            // What kept the agent from starting must not end it.
            Err(
                error @ (InventoryError::NoSuchInterface { .. }
                | InventoryError::NotConnected { .. }
                | InventoryError::Netns(_)),
            ) => Place::Lost(Lost::Gone(crate::chain(&error))),
            Err(error) => return Err(error),
        };
        match (owners.known.remove(&name), place) {
            (Some(known), place) => pods.push(owners.merged(known, place)),
            (None, Place::Here(mut found)) => {
                found.interfaces.retain(|i| owners.take(i, &name));
                match found.interfaces.is_empty() {
                    true => lost.push((name, Lost::Ambiguous)),
                    false => pods.push(*found),
                }
            }
            (None, Place::Lost(reason)) => lost.push((name, reason)),
            (None, Place::Elsewhere) => {}
        }
    }
    Ok(Inventory {
        node_addresses: before.node_addresses.clone(),
        cluster: Arc::clone(&before.cluster),
        pods,
        lost,
        unknown: Vec::new(),
    })
}

/// The pods that were known, and whose each link is.
struct Owners<'a> {
    known: BTreeMap<PodName, Known<'a>>,
    by_index: BTreeMap<u32, PodName>,
}

struct Known<'a> {
    pod: &'a LocalPod,
    /// What is left of its links, as they are now.
    left: Vec<Interface>,
}

impl Known<'_> {
    /// Every link is there still, and no other one is the pod's: the common case, for which no
    /// namespace need be opened.
    fn is_whole(&self, pod: &Pod, finder: &Finder<'_>) -> bool {
        let mine = |index| self.left.iter().any(|i| i.link.index == index);
        let named = |name: &String| finder.index_of(name).is_none_or(mine);
        let id = self.left.first().and_then(|interface| interface.netns_id);
        self.left.len() == self.pod.interfaces.len()
            && pod.interface.as_ref().is_none_or(named)
            && id.is_some_and(|id| finder.leading_into(id).all(mine))
    }

    /// The pod, with its links as they are now.
    fn into_pod(self) -> LocalPod {
        LocalPod {
            name: self.pod.name.clone(),
            addresses: self.pod.addresses.clone(),
            interfaces: self.left,
            netns: self.pod.netns.clone(),
            enrolment: self.pod.enrolment,
            gateway: self.pod.gateway,
            hides_sockets: self.pod.hides_sockets,
            away: None,
        }
    }
}

impl<'a> Owners<'a> {
    fn of(before: &'a Inventory, finder: &Finder<'_>) -> Self {
        let mut owners = Self {
            known: BTreeMap::new(),
            by_index: BTreeMap::new(),
        };
        for pod in &before.pods {
            let left: Vec<Interface> = pod
                .interfaces
                .iter()
                .filter_map(|interface| finder.still(interface))
                .collect();
            for interface in &left {
                owners
                    .by_index
                    .insert(interface.link.index, pod.name.clone());
            }
            owners.known.insert(pod.name.clone(), Known { pod, left });
        }
        owners
    }

    /// Makes a link the pod's, unless it is another's already.
    fn take(&mut self, interface: &Interface, name: &PodName) -> bool {
        let owner = self
            .by_index
            .entry(interface.link.index)
            .or_insert_with(|| name.clone());
        owner == name
    }

    /// A pod with what is left of its links and what was found anew.
    fn merged(&mut self, known: Known<'_>, place: Place) -> LocalPod {
        let mut now = known.into_pod();
        match place {
            Place::Here(found) => {
                if found.netns.is_some() {
                    now.netns = found.netns;
                    now.hides_sockets = found.hides_sockets;
                }
                if found.enrolment == Enrolment::Wanted {
                    now.enrolment = Enrolment::Wanted;
                }
                for interface in found.interfaces {
                    let new = now
                        .interfaces
                        .iter()
                        .all(|i| i.link.index != interface.link.index);
                    if self.take(&interface, &now.name) && new {
                        now.interfaces.push(interface);
                    }
                }
                if now.interfaces.is_empty() {
                    now.away = Some(Lost::Ambiguous);
                }
            }
            Place::Lost(reason) if now.interfaces.is_empty() => now.away = Some(reason),
            Place::Elsewhere if now.interfaces.is_empty() => now.away = Some(Lost::NotFound),
            _ => {}
        }
        now
    }
}
