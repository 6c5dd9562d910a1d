//! A node and its pods as a CNI lays them out: every pod on a veth of its own, and, where asked for,
//! a remote node behind an uplink. Between the pods is the node's routing, or its bridge.
//!
//! ```text
//!   pod frontend ── eth0 ~ vfrontend ─┐
//!                                     ├─ node (forwards) ── up0 ~ eth0 ── remote
//!   pod backend  ── eth0 ~ vbackend  ─┘
//! ```
//! Knows nothing of policies.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use crate::netns::{Netns, unique_prefix};

/// The pods' gateway: no device has it, the node answers for it (`proxy_arp`).
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pods' gateway for IPv6, on the node's end of every veth.
pub const GATEWAY_V6: &str = "fe80::1";
/// The node's own address on the uplink, and its IPv6 twin.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const NODE_V6: &str = "fd77::1";
/// The remote node's address on the uplink, and its IPv6 twin.
pub const REMOTE_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
pub const REMOTE_V6: &str = "fd77::2";
/// Device of the node towards the remote node.
pub const UPLINK: &str = "up0";
/// The node's bridge, and its addresses there: the pods' gateway.
pub const BRIDGE: &str = "br0";
pub const BRIDGE_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
pub const BRIDGE_V6: &str = "fd88::1";

/// What lies between the pods of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// The node's routing (Calico, kindnet, ptp).
    Routed,
    /// A bridge (flannel, the bridge plugin); frames that it switches pass the node's netfilter, or
    /// do not.
    Bridge { calls_netfilter: bool },
}

/// A node. Fields drop in order: pods before the node they hang on.
#[derive(Debug)]
pub struct Topology {
    prefix: String,
    layout: Layout,
    pub pods: Vec<Pod>,
    pub remote: Option<Netns>,
    pub node: Netns,
}

/// A pod: its namespace and the node's end of its veth.
#[derive(Debug)]
pub struct Pod {
    pub name: String,
    pub netns: Netns,
    /// Name of the node's end, as in the annotation `enforcer/interface`.
    pub interface: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Topology {
    /// An empty node whose namespace names no other test has.
    ///
    /// # Errors
    /// Without root or iproute2.
    pub fn new(what: &str) -> Result<Self> {
        Self::with_prefix(&unique_prefix(what))
    }

    /// As [`Topology::new`], with a layout. All pods of a bridge are within 10.88.0.0/24 and
    /// fd88::/64.
    ///
    /// # Errors
    /// As [`Topology::new`], or where the kernel has no bridges.
    pub fn laid_out(what: &str, layout: Layout) -> Result<Self> {
        let mut net = Self::new(what)?;
        net.layout = layout;
        let Layout::Bridge { calls_netfilter } = layout else {
            return Ok(net);
        };
        net.node.ip(&format!(
            "link add {BRIDGE} type bridge forward_delay 0
             addr add {BRIDGE_V4}/24 dev {BRIDGE}
             addr add {BRIDGE_V6}/64 dev {BRIDGE} nodad
             link set {BRIDGE} up"
        ))?;
        let calls = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
        if calls_netfilter || net.node.enter(|| calls.exists()) {
            let value = if calls_netfilter { "1" } else { "0" };
            for family in ["iptables", "ip6tables"] {
                let name = format!("net/bridge/bridge-nf-call-{family}");
                net.node.sysctl(&name, value)?;
            }
        }
        Ok(net)
    }

    /// An empty node; its namespaces are named `<prefix>-node`, `<prefix>-<pod>`.
    ///
    /// # Errors
    /// Without root or iproute2, or when a name is taken.
    pub fn with_prefix(prefix: &str) -> Result<Self> {
        let node = Netns::create(&format!("{prefix}-node"))?;
        node.sysctl("net/ipv4/ip_forward", "1")?;
        node.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        // proxy_arp answers for addresses that the node can route: without an uplink, a route that
        // leads nowhere stands for the default route of a real node.
        node.ip("link add void type veth peer name void-peer
                 addr add 192.0.2.1/32 dev void
                 link set void up
                 link set void-peer up
                 route add default dev void
                 route add ::/0 dev void")?;
        Ok(Self {
            prefix: prefix.into(),
            layout: Layout::Routed,
            pods: Vec::new(),
            remote: None,
            node,
        })
    }

    /// Adds a pod on a veth of its own, named `v<name>` on the node.
    ///
    /// # Errors
    /// When the name is too long for a device, or the kernel refuses.
    pub fn pod(&mut self, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<&Pod> {
        let interface = format!("v{name}");
        ensure!(
            interface.len() < 16,
            "`{interface}` is longer than the 15 bytes of a device name"
        );
        let netns = Netns::create(&format!("{}-{name}", self.prefix))?;
        let pod = Pod {
            name: name.into(),
            netns,
            interface,
            v4,
            v6,
        };
        self.connect(&pod)?;
        self.pods.push(pod);
        Ok(&self.pods[self.pods.len() - 1])
    }

    /// Connects a pod whose link is not there, or not any more, as a CNI does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn connect(&self, pod: &Pod) -> Result<()> {
        self.node.ip(&format!(
            "link add {} type veth peer name eth0 netns {}",
            pod.interface,
            pod.netns.name()
        ))?;
        match self.layout {
            Layout::Routed => self.route(pod),
            Layout::Bridge { .. } => self.plug_in(pod),
        }
    }

    fn route(&self, pod: &Pod) -> Result<()> {
        let Pod {
            interface, v4, v6, ..
        } = pod;
        self.node.ip(&format!(
            "addr add {GATEWAY_V6}/64 dev {interface} nodad
             link set {interface} up"
        ))?;
        pod.netns.ip(&format!(
            "addr add {v4}/32 dev eth0
             addr add {v6}/128 dev eth0 nodad
             link set eth0 up
             route add {GATEWAY_V4} dev eth0 scope link
             route add default via {GATEWAY_V4}
             route add ::/0 via {GATEWAY_V6} dev eth0"
        ))?;
        let of_device = format!("net/ipv4/conf/{interface}");
        self.node.sysctl(&format!("{of_device}/proxy_arp"), "1")?;
        self.node.sysctl(&format!("{of_device}/rp_filter"), "1")?;
        let delay = format!("net/ipv4/neigh/{interface}/proxy_delay");
        self.node.sysctl(&delay, "0")?;
        self.node.ip(&format!(
            "route add {v4}/32 dev {interface} scope link
             route add {v6}/128 dev {interface}"
        ))
    }

    fn plug_in(&self, pod: &Pod) -> Result<()> {
        let Pod {
            interface, v4, v6, ..
        } = pod;
        // Hairpin, as CNIs set it for Services that lead back to the pod.
        self.node.ip(&format!(
            "link set {interface} master {BRIDGE}
             link set {interface} type bridge_slave hairpin on
             link set {interface} up"
        ))?;
        pod.netns.ip(&format!(
            "addr add {v4}/24 dev eth0
             addr add {v6}/64 dev eth0 nodad
             link set eth0 up
             route add default via {BRIDGE_V4}
             route add ::/0 via {BRIDGE_V6} dev eth0"
        ))
    }

    /// Adds a remote node behind the uplink [`UPLINK`]; it routes everything through this node.
    ///
    /// # Errors
    /// When there is one already, or the kernel refuses.
    pub fn with_remote(&mut self) -> Result<&Netns> {
        ensure!(self.remote.is_none(), "there is one remote node only");
        let remote = Netns::create(&format!("{}-remote", self.prefix))?;
        self.node.ip(&format!(
            "link add {UPLINK} type veth peer name eth0 netns {}
             addr add {NODE_V4}/24 dev {UPLINK}
             addr add {NODE_V6}/64 dev {UPLINK} nodad
             link set {UPLINK} up",
            remote.name()
        ))?;
        remote.ip(&format!(
            "addr add {REMOTE_V4}/24 dev eth0
             addr add {REMOTE_V6}/64 dev eth0 nodad
             link set eth0 up
             route add default via {NODE_V4}
             route add ::/0 via {NODE_V6}"
        ))?;
        self.node.ip(&format!(
            "route replace default via {REMOTE_V4}
             route replace ::/0 via {REMOTE_V6}"
        ))?;
        Ok(self.remote.insert(remote))
    }

    /// The pod of that name. Panics where there is none: the test named one that it did not make.
    #[must_use]
    pub fn get(&self, name: &str) -> &Pod {
        match self.pods.iter().find(|pod| pod.name == name) {
            Some(pod) => pod,
            None => panic!("the test's node has no pod `{name}`"),
        }
    }
}

impl Pod {
    /// Both addresses, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// As in the annotation `enforcer/netns`.
    #[must_use]
    pub fn netns_path(&self) -> PathBuf {
        self.netns.path()
    }
}
