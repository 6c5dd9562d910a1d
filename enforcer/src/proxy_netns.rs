//! The proxy's own network namespace, and the two links into it.
//!
//! ```text
//!   node                                    namespace
//!   enf-l7  (169.254.77.1) ───────────────── l7     what is to be judged meets the listener
//!   enf-rej (169.254.77.2) ───────────────── rej    what is to be refused meets no socket
//! ```
//! Two links, so that "judge this" and "refuse this" are told apart by the interface that a packet
//! comes in by, without any state. In the namespace every address is local for what comes in, so
//! the kernel's own TCP answers for the pods, with a socket or with a reset.
//!
//! The namespace has a name and so survives the agent; [`ensure`] takes it over as it is.

mod routes;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_route::{
    link::{InfoData, InfoVeth, LinkAttribute},
    neighbour::NeighbourState,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth};
use rustix::io::Errno;

use routes::ensure_routes;

use crate::{
    netlink::{self, Link, NetlinkError, request},
    netns::{self, Netns, NetnsError},
};

/// One link into the namespace: names, addresses, nothing that differs between nodes.
#[derive(Debug)]
pub struct Way {
    /// Name of the node's end.
    pub outside: &'static str,
    /// Name of the far end.
    pub inside: &'static str,
    outside_mac: [u8; 6],
    inside_mac: [u8; 6],
    outside_v4: Ipv4Addr,
    outside_v6: Ipv6Addr,
}

/// Of new links, until an agent knows that of the pods.
const USUAL_MTU: u32 = 1500;

/// The way of what is to be judged.
pub const L7: Way = Way {
    outside: "enf-l7",
    inside: "l7",
    outside_mac: [0x02, 0x45, 0x4e, 0x46, 0x77, 0x01],
    inside_mac: [0x02, 0x45, 0x4e, 0x46, 0x77, 0x02],
    outside_v4: Ipv4Addr::new(169, 254, 77, 1),
    outside_v6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, 1),
};

/// The way of what is to be refused.
pub const REJ: Way = Way {
    outside: "enf-rej",
    inside: "rej",
    outside_mac: [0x02, 0x45, 0x4e, 0x46, 0x77, 0x11],
    inside_mac: [0x02, 0x45, 0x4e, 0x46, 0x77, 0x12],
    outside_v4: Ipv4Addr::new(169, 254, 77, 2),
    outside_v6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, 2),
};

/// A link that is in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Port {
    /// Index of the node's end.
    pub outside: u32,
    /// Index of the far end, as the namespace numbers it.
    pub inside: u32,
    /// Link address of the far end.
    pub inside_mac: [u8; 6],
}

/// The namespace with its links.
#[derive(Debug)]
pub struct ProxyNetns {
    pub netns: Netns,
    pub l7: Port,
    pub rej: Port,
    /// Id of the namespace as the node sees it.
    pub id: i32,
}

/// What can go wrong with the proxy's namespace.
#[derive(Debug, thiserror::Error)]
pub enum ProxyNetnsError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(
        "cannot set `{name}` to {value}; where that can only be read, run `enforcer prepare` first"
    )]
    Sysctl {
        name: String,
        value: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("link `{0}` was made and is gone")]
    Vanished(&'static str),
    #[error(
        "`{link}` leads to another namespace than `{netns}`: another agent runs on this node, or has \
         run with another --netns; stop it and run `enforcer detach` with its options first"
    )]
    Taken { link: &'static str, netns: String },
}

/// Makes the namespace `name` with its links, or takes over the one that is there and mends what is
/// missing. `mtu` is the least of the pods' links.
pub async fn ensure(name: &str, mtu: u32) -> Result<ProxyNetns, ProxyNetnsError> {
    let node = Netns::current()?;
    let outside = netlink::connect(&node)?;
    let (netns, made) = match Netns::named(name)? {
        Some(netns) => (netns, false),
        None => (Netns::create(name)?, true),
    };
    let built = match check_free(&outside, &netns, name).await {
        Ok(()) => build(&outside, &node, &netns, mtu).await,
        Err(error) => Err(error),
    };
    if built.is_err() && made {
        // Nothing half-made stays behind; the links end with the namespace.
        remove(name).await?;
    }
    let (l7, rej, id) = built?;
    Ok(ProxyNetns { netns, l7, rej, id })
}

/// Gives another MTU to both ends of each link.
pub async fn resize(name: &str, mtu: u32) -> Result<(), ProxyNetnsError> {
    let Some(netns) = Netns::named(name)? else {
        return Ok(()); // everything is being taken away
    };
    let outside = netlink::connect(&Netns::current()?)?;
    let inside = netlink::connect(&netns)?;
    for way in [&L7, &REJ] {
        for (handle, end) in [(&outside, way.outside), (&inside, way.inside)] {
            let link = netlink::link(handle, end).await?;
            let link = link.ok_or(ProxyNetnsError::Vanished(end))?;
            bring_up(handle, &link, mtu).await?;
        }
    }
    Ok(())
}

/// As [`ensure`], before anything is known of pods: links that are there keep their MTU. Whether the
/// namespace had to be made.
pub async fn prepare(name: &str) -> Result<bool, ProxyNetnsError> {
    let before = there(name).await?;
    let least = before.links.iter().map(|link| link.mtu).min();
    ensure(name, least.unwrap_or(USUAL_MTU)).await?;
    Ok(!before.netns)
}

/// What of a namespace and its links is there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct There {
    netns: bool,
    links: Vec<Link>,
}

/// Looks for the namespace and its links. Links of the same names that lead elsewhere are another's.
pub async fn there(name: &str) -> Result<There, ProxyNetnsError> {
    let Some(netns) = Netns::named(name)? else {
        return Ok(There::default());
    };
    let outside = netlink::connect(&Netns::current()?)?;
    let id = netlink::known_netns_id(&outside, &netns).await?;
    let mut links = Vec::new();
    for way in [&L7, &REJ] {
        let link = netlink::link(&outside, way.outside).await?;
        links.extend(link.filter(|link| id.is_some() && link.peer_netns_id == id));
    }
    Ok(There { netns: true, links })
}

/// Removes the namespace and its links. Whether there was anything.
pub async fn remove(name: &str) -> Result<bool, ProxyNetnsError> {
    remove_since(name, &There::default()).await
}

/// Removes what was not there `before`. Whether there was anything.
pub async fn remove_since(name: &str, before: &There) -> Result<bool, ProxyNetnsError> {
    let outside = netlink::connect(&Netns::current()?)?;
    let mut found = false;
    for link in there(name).await?.links {
        if !before.links.iter().any(|old| old.index == link.index) {
            delete(&outside, &link).await?;
            found = true;
        }
    }
    Ok(!before.netns && netns::remove(name)? || found)
}

/// Two agents on one node would take the links from each other.
async fn check_free(outside: &Handle, netns: &Netns, name: &str) -> Result<(), ProxyNetnsError> {
    let id = netlink::known_netns_id(outside, netns).await?;
    for way in [&L7, &REJ] {
        let link = netlink::link(outside, way.outside).await?;
        let elsewhere = link.and_then(|link| link.peer_netns_id);
        if elsewhere.is_some() && elsewhere != id {
            return Err(ProxyNetnsError::Taken {
                link: way.outside,
                netns: name.into(),
            });
        }
    }
    Ok(())
}

/// Whether an address is that of one of our own links, which speak for nobody.
pub fn is_own(address: IpAddr) -> bool {
    [&L7, &REJ]
        .iter()
        .any(|way| address == IpAddr::V4(way.outside_v4))
}

/// The node's ends of the ways of what is to be judged and of what is to be refused, for attaching.
pub fn outside_links(proxy: &ProxyNetns) -> [Link; 2] {
    [(&proxy.l7, &L7), (&proxy.rej, &REJ)].map(|(port, ends)| Link {
        index: port.outside,
        name: ends.outside.into(),
        ..Link::default()
    })
}

async fn build(
    outside: &Handle,
    node: &Netns,
    netns: &Netns,
    mtu: u32,
) -> Result<(Port, Port, i32), ProxyNetnsError> {
    let inside = netlink::connect(netns)?;
    let l7 = ensure_link(outside, &inside, node, netns, &L7, mtu).await?;
    let rej = ensure_link(outside, &inside, node, netns, &REJ, mtu).await?;
    netns.enter(inside_sysctls)??;
    ensure_routes(&inside, &l7).await?;
    let id = netlink::netns_id(outside, netns).await?;
    Ok((l7, rej, id))
}

async fn ensure_link(
    outside: &Handle,
    inside: &Handle,
    node: &Netns,
    netns: &Netns,
    way: &'static Way,
    mtu: u32,
) -> Result<Port, ProxyNetnsError> {
    let there = netlink::link(outside, way.outside).await?;
    let far = netlink::link(inside, way.inside).await?;
    let whole = matches!((&there, &far), (Some(a), Some(b)) if a.is_veth && a.peer == b.index && b.peer == a.index);
    if !whole {
        for (handle, stale) in [(outside, &there), (inside, &far)] {
            if let Some(link) = stale {
                // The other end may have taken it along.
                if netlink::link(handle, &link.name).await?.is_some() {
                    delete(handle, link).await?;
                }
            }
        }
        add_link(outside, netns, way, mtu).await?;
    }
    let near = netlink::link(outside, way.outside)
        .await?
        .ok_or(ProxyNetnsError::Vanished(way.outside))?;
    let far = netlink::link(inside, way.inside)
        .await?
        .ok_or(ProxyNetnsError::Vanished(way.inside))?;
    node.enter(|| outside_sysctls(way.outside))??;
    bring_up(outside, &near, mtu).await?;
    bring_up(inside, &far, mtu).await?;
    // Loose reverse-path filtering refuses everything on a device without an IPv4 address.
    outside
        .address()
        .add(near.index, IpAddr::V4(way.outside_v4), 32)
        .replace()
        .execute()
        .await
        .map_err(request("give an address to", way.outside))?;
    let gateways = [IpAddr::V4(way.outside_v4), IpAddr::V6(way.outside_v6)];
    for gateway in gateways
        .into_iter()
        .filter(|g| g.is_ipv4() || netns::has_ipv6())
    {
        inside
            .neighbours()
            .add(far.index, gateway)
            .link_layer_address(&way.outside_mac)
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await
            .map_err(request("name the neighbour of", way.inside))?;
    }
    Ok(Port {
        outside: near.index,
        inside: far.index,
        inside_mac: way.inside_mac,
    })
}

async fn add_link(
    outside: &Handle,
    netns: &Netns,
    way: &Way,
    mtu: u32,
) -> Result<(), NetlinkError> {
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(way.inside)
        .address(way.inside_mac.to_vec())
        .mtu(mtu)
        .build();
    peer.attributes
        .push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
    let message = LinkMessageBuilder::<LinkVeth>::new(way.outside, way.inside)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .address(way.outside_mac.to_vec())
        .mtu(mtu)
        .build();
    outside
        .link()
        .add(message)
        .execute()
        .await
        .map_err(request("make link", way.outside))
}

async fn bring_up(handle: &Handle, link: &Link, mtu: u32) -> Result<(), NetlinkError> {
    let message = LinkUnspec::new_with_index(link.index).mtu(mtu).up().build();
    handle
        .link()
        .set(message)
        .execute()
        .await
        .map_err(request("bring up", &link.name))
}

async fn delete(handle: &Handle, link: &Link) -> Result<(), NetlinkError> {
    match handle.link().del(link.index).execute().await {
        // Somebody else has just done the same.
        Err(error) if is(&error, Errno::NODEV) => Ok(()),
        other => other.map_err(request("delete link", &link.name)),
    }
}

fn outside_sysctls(name: &str) -> Result<(), ProxyNetnsError> {
    // The effective rp_filter is the larger of this one and that of `all`: 2 is loose, whatever the
    // node has chosen for its other devices.
    write_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "2")?;
    write_sysctl(&format!("net/ipv4/conf/{name}/forwarding"), "1")?;
    if !netns::has_ipv6() {
        return Ok(());
    }
    write_sysctl(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
    write_sysctl(&format!("net/ipv6/conf/{name}/addr_gen_mode"), "1")
}

fn inside_sysctls() -> Result<(), ProxyNetnsError> {
    for name in ["all", "default", L7.inside, REJ.inside] {
        write_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
    }
    // What the proxy sends to a pod may meet a smaller link on the way.
    write_sysctl("net/ipv4/tcp_mtu_probing", "1")?;
    // A client that comes back on the same port must not wait for our leg's old connection.
    write_sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    write_sysctl("net/core/somaxconn", "4096")?;
    if !netns::has_ipv6() {
        return Ok(());
    }
    for name in [L7.inside, REJ.inside] {
        write_sysctl(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
        write_sysctl(&format!("net/ipv6/conf/{name}/accept_dad"), "0")?;
    }
    Ok(())
}

fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.raw_code() == -errno.raw_os_error())
}

/// What is so already is not written: an agent that is not privileged may only read here.
fn write_sysctl(name: &str, value: &'static str) -> Result<(), ProxyNetnsError> {
    let path = format!("/proc/sys/{name}");
    if std::fs::read_to_string(&path).is_ok_and(|there| there.trim() == value) {
        return Ok(());
    }
    std::fs::write(path, value).map_err(|source| ProxyNetnsError::Sysctl {
        name: name.into(),
        value,
        source,
    })
}
