//! Interfaces that look like a pod's, of which no pod is known: a pod is there before the API server tells
//! of its address.
//!
//! One end of a pair whose other end is in another namespace looks so where the pods' ranges say that it is:
//! the node routes one of their addresses to it, it is a port of a bridge with an address of theirs, or
//! somebody behind it holds one. A node's own uplink may be such a pair as well, and is none of these.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use policyc::cluster::Cluster;
use rtnetlink::Handle;

use super::{Interface, Inventory, InventoryError, Wanted, find::Finder, node::addresses};
use crate::{
    netlink::{self, Link, NetlinkError, request},
    netns::Netns,
    proxy_netns::{L7, REJ},
};

/// An interface that looks like a pod's, of which no pod is known.
#[derive(Clone, Debug)]
pub struct Unknown {
    pub interface: Interface,
    pub netns: Option<Arc<Netns>>,
}

/// What was found.
#[derive(Default, Debug)]
pub struct Found {
    pub unknown: Vec<Unknown>,
    /// There are interfaces that may yet turn out to be a pod's.
    pub undecided: bool,
}

/// The ranges that this node's pods have their addresses from.
pub fn ranges(cluster: &Cluster, wanted: &Wanted, given: &[IpNet]) -> Vec<IpNet> {
    let nodes = cluster.nodes.iter();
    let here = nodes.filter(|node| wanted.node.as_ref().is_none_or(|name| node.name == *name));
    let mut ranges: Vec<IpNet> = here.flat_map(|node| &node.pod_cidrs).copied().collect();
    ranges.extend(given);
    ranges
}

/// Looks at the interfaces that are no known pod's. Must be called within a tokio runtime.
pub async fn look(known: &Inventory, ranges: &[IpNet]) -> Result<Found, InventoryError> {
    let handle = netlink::connect(&Netns::current()?)?;
    let links = netlink::links(&handle).await?;
    let owned: BTreeSet<u32> = known.interfaces().map(|i| i.link.index).collect();
    let nobodys = |link: &&Link| {
        let ours = [L7.outside, REJ.outside].contains(&link.name.as_str());
        link.is_pair() && link.peer_netns_id.is_some() && !ours && !owned.contains(&link.index)
    };
    let nobodys: Vec<&Link> = links.iter().filter(nobodys).collect();
    let mut found = Found::default();
    if nobodys.is_empty() || ranges.is_empty() {
        return Ok(found);
    }
    let mut leading = routed(&handle, ranges).await?;
    leading.extend(bridges(&handle, ranges).await?);
    let mut finder = Finder::new(&handle, &links);
    for link in nobodys {
        let mut looks_so = leading.contains(&link.index) || leading.contains(&link.master);
        // It may be gone by now, or nobody's that we can find.
        let netns = finder.namespace_behind(link).await.ok().flatten();
        let mut inside = Vec::new();
        if let Some(netns) = &netns {
            let behind = netlink::connect(netns)?;
            inside = netlink::links(&behind).await?;
            looks_so |= addresses(&behind).await?.iter().any(|a| within(ranges, *a));
        }
        match looks_so {
            true => found.unknown.push(Unknown {
                interface: finder.interface(link, link.peer_netns_id, &inside),
                netns: netns.map(Arc::new),
            }),
            false => found.undecided = true,
        }
    }
    Ok(found)
}

fn within(ranges: &[IpNet], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

/// Numbers of the interfaces to which the node routes a single address of the ranges, without a router
/// on the way: to an uplink it routes whole ranges, of other nodes.
async fn routed(handle: &Handle, ranges: &[IpNet]) -> Result<BTreeSet<u32>, NetlinkError> {
    let mut found = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut asked = RouteMessage::default();
        asked.header.address_family = family;
        let routes: Vec<RouteMessage> = handle
            .route()
            .get(asked)
            .execute()
            .try_collect()
            .await
            .map_err(request("list", "routes"))?;
        found.extend(routes.iter().filter_map(|route| leads_to(route, ranges)));
    }
    Ok(found)
}

/// The interface behind which a route has a single address of the ranges.
fn leads_to(route: &RouteMessage, ranges: &[IpNet]) -> Option<u32> {
    let (mut to, mut interface) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => to = Some(IpAddr::V4(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => to = Some(IpAddr::V6(*v6)),
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    let to = to?;
    let single = route.header.destination_prefix_length == if to.is_ipv4() { 32 } else { 128 };
    let unicast = route.header.kind == RouteType::Unicast;
    (single && unicast && within(ranges, to)).then_some(interface?)
}

/// Numbers of the devices that have an address of the ranges: a bridge of pods is one of them.
async fn bridges(handle: &Handle, ranges: &[IpNet]) -> Result<BTreeSet<u32>, NetlinkError> {
    let messages: Vec<AddressMessage> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(request("list", "addresses"))?;
    let of_pods = |message: &&AddressMessage| {
        message.attributes.iter().any(|attribute| match attribute {
            AddressAttribute::Address(address) => within(ranges, *address),
            _ => false,
        })
    };
    let of_pods = messages.iter().filter(of_pods);
    Ok(of_pods.map(|message| message.header.index).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: IpAddr, length: u8, more: &[RouteAttribute]) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.destination_prefix_length = length;
        route.header.kind = RouteType::Unicast;
        let to = match to {
            IpAddr::V4(v4) => RouteAddress::Inet(v4),
            IpAddr::V6(v6) => RouteAddress::Inet6(v6),
        };
        route.attributes = vec![RouteAttribute::Destination(to), RouteAttribute::Oif(7)];
        route.attributes.extend(more.iter().cloned());
        route
    }

    #[test]
    fn a_route_to_one_address_of_the_pods_leads_to_a_pod_and_no_other_does() {
        let ranges: Vec<IpNet> = ["10.0.0.0/16", "fd00::/64"]
            .map(|range| range.parse().expect("a range"))
            .into();
        let at = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let router = [RouteAttribute::Gateway(RouteAddress::Inet(
            [10, 9, 9, 9].into(),
        ))];
        for (route, expected) in [
            (route(at("10.0.3.4"), 32, &[]), Some(7)),
            (route(at("fd00::5"), 128, &[]), Some(7)),
            (route(at("10.1.3.4"), 32, &[]), None),
            (route(at("10.0.3.0"), 24, &[]), None),
            (route(at("10.0.3.4"), 32, &router), None),
        ] {
            assert_eq!(leads_to(&route, &ranges), expected, "{route:?}");
        }
    }
}
