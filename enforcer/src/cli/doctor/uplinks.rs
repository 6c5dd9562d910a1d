//! Which devices carry packets of other nodes' pods, for `--trusted-uplink`: what the routes say, and
//! whether the device itself knows who sends.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use futures_util::TryStreamExt;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::RouteMessageBuilder;

use super::{Finding, note, ok};
use crate::{
    chain,
    netlink::{self, Link, NetlinkError, request},
    netns::Netns,
};

/// The kernel's number of the table of the node's own addresses.
const LOCAL_TABLE: u8 = 255;

pub(super) async fn examine() -> Vec<Finding> {
    match look().await {
        Ok(uplinks) if uplinks.is_empty() => vec![ok("uplinks", "no route leads off this node")],
        Ok(uplinks) => uplinks.iter().map(of_uplink).collect(),
        Err(error) => vec![note(
            "uplinks",
            format!("not looked at: {}", chain(&error)),
            "CAP_NET_ADMIN is needed",
        )],
    }
}

async fn look() -> Result<Vec<Link>, NetlinkError> {
    let handle = netlink::connect(&Netns::current()?)?;
    let mut ways = Vec::new();
    let mut questions = vec![RouteMessageBuilder::<Ipv4Addr>::new().build()];
    // A kernel without IPv6 would answer with everything else.
    if Path::new("/proc/sys/net/ipv6").exists() {
        questions.push(RouteMessageBuilder::<Ipv6Addr>::new().build());
    }
    for question in questions {
        let routes: Vec<RouteMessage> = handle
            .route()
            .get(question)
            .execute()
            .try_collect()
            .await
            .map_err(request("list", "routes"))?;
        ways.extend(routes.iter().filter_map(way));
    }
    let links = netlink::links(&handle).await?;
    Ok(uplinks(links, &ways))
}

/// Where a route leads.
#[derive(Clone, Copy)]
struct Way {
    device: u32,
    /// To another router, and not to what is on the link itself.
    by_gateway: bool,
}

fn way(route: &RouteMessage) -> Option<Way> {
    if route.header.kind != RouteType::Unicast || route.header.table == LOCAL_TABLE {
        return None;
    }
    let device = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(device) => Some(*device),
            _ => None,
        })?;
    let by_gateway = route.attributes.iter().any(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_)
        )
    });
    Some(Way { device, by_gateway })
}

/// A pair without a router behind it is a pod's, a bridge the pods' of this node.
fn uplinks(links: Vec<Link>, ways: &[Way]) -> Vec<Link> {
    let to = |by_gateway: bool| -> BTreeSet<u32> {
        let these = ways.iter().filter(|way| way.by_gateway || !by_gateway);
        these.map(|way| way.device).collect()
    };
    let (any, routed) = (to(false), to(true));
    links
        .into_iter()
        .filter(|link| {
            let pods = link.is_pair() || link.is_bridge;
            link.name != "lo"
                && any.contains(&link.index)
                && (!pods || routed.contains(&link.index))
        })
        .collect()
}

fn of_uplink(link: &Link) -> Finding {
    let what = format!("uplink {}", link.name);
    let kind = match link.kind.as_str() {
        "" => "a device of its own",
        kind => kind,
    };
    match kind {
        "wireguard" => ok(
            &what,
            format!(
                "{kind}, which authenticates its peers: --trusted-uplink={} believes other nodes' pods by it alone",
                link.name
            ),
        ),
        "xfrm" | "vti" | "vti6" => ok(
            &what,
            format!(
                "{kind}, which authenticates its peers as far as IPsec's policies demand: --trusted-uplink={}",
                link.name
            ),
        ),
        _ => note(
            &what,
            format!(
                "{kind}, which does not authenticate who sends: what it brings from a pod's address is believed"
            ),
            "where the network between the nodes is not trusted, carry pods' packets by WireGuard or IPsec \
             and name that device with --trusted-uplink",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::State;

    fn link(index: u32, name: &str, kind: &str) -> Link {
        Link {
            index,
            name: name.into(),
            peer: 0,
            peer_netns_id: None,
            master: 0,
            mtu: 1500,
            address: Vec::new(),
            is_veth: kind == "veth",
            is_bridge: kind == "bridge",
            kind: kind.into(),
        }
    }

    #[test]
    fn what_leads_off_the_node_is_an_uplink_and_pods_are_not() {
        let links = vec![
            link(1, "lo", ""),
            link(2, "eth0", ""),
            link(3, "wg0", "wireguard"),
            link(4, "vpod", "veth"),
            link(5, "up0", "veth"),
            link(6, "cni0", "bridge"),
            link(7, "eth1", ""),
        ];
        let direct = |device| Way {
            device,
            by_gateway: false,
        };
        let routed = |device| Way {
            device,
            by_gateway: true,
        };
        let ways = [
            direct(1),
            routed(2),
            direct(3),
            direct(4),
            routed(5),
            direct(6),
        ];
        let found = uplinks(links, &ways);
        let names: Vec<&str> = found.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(names, ["eth0", "wg0", "up0"]);
    }

    #[test]
    fn only_what_authenticates_its_peers_is_proposed() {
        for (kind, proposed) in [
            ("wireguard", true),
            ("xfrm", true),
            ("vxlan", false),
            ("ipip", false),
            ("veth", false),
            ("", false),
        ] {
            let finding = of_uplink(&link(2, "dev0", kind));
            assert_eq!(finding.state == State::Ok, proposed, "{kind}");
            let named = finding.found.contains("--trusted-uplink=dev0");
            assert_eq!(named, proposed, "{kind}: {}", finding.found);
        }
    }
}
