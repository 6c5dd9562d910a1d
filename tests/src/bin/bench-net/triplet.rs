//! One network: a client and a server, each in a namespace of its own, and a node that routes
//! between them.
//!
//! ```text
//!   client 10.0.0.2 ── c0 ~ vc ─ node ─ vs ~ s0 ── 10.0.1.2 server
//! ```
//! Neighbours are static and IPv6 is off, so that nothing but the traffic is measured. The server
//! answers requests on [`PORT`], and reads datagrams there; what comes from [`FLOOD`] it drops before
//! its own stack, in every network alike.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use socket2::SockRef;
use tests::netns::{Netns, unique_prefix};

use crate::pin;

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
/// Where requests go.
pub const PORT: u16 = 7_000;
/// The node's devices towards client and server.
pub const TO_CLIENT: &str = "vc";
pub const TO_SERVER: &str = "vs";
/// Where floods come from.
pub const FLOOD: &str = "11.0.0.0/8";

/// CPUs, counted among those that there are: who asks and who answers share one, so that a request
/// is processor time and no waking of another core.
pub const REQUESTS: usize = 1;
pub const FLOODS: usize = 0;
/// Of the server's socket for datagrams, in bytes.
const RECEIVE_BUFFER: usize = 1 << 22;

/// A network. Fields drop in order: the pods before the node.
pub struct Triplet {
    pub client: Netns,
    pub server: Netns,
    pub node: Netns,
    /// Datagrams that the server's socket has got.
    sunk: Arc<AtomicU64>,
}

impl Triplet {
    pub fn new() -> Result<Self> {
        let prefix = unique_prefix("bnet");
        let make = |role: &str| Netns::create(&format!("{prefix}{role}"));
        let triplet = Self {
            client: make("c")?,
            server: make("s")?,
            node: make("n")?,
            sunk: Arc::default(),
        };
        for netns in [&triplet.client, &triplet.server, &triplet.node] {
            for (name, value) in [
                ("ipv6/conf/all/disable_ipv6", "1"),
                ("ipv6/conf/default/disable_ipv6", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
            ] {
                netns.sysctl(&format!("net/{name}"), value)?;
            }
        }
        let (client, server) = (triplet.client.name(), triplet.server.name());
        triplet.node.ip(&format!(
            "link add vc address 02:00:00:00:00:01 type veth peer name c0 address 02:00:00:00:00:02 netns {client}
             link add vs address 02:00:00:00:01:01 type veth peer name s0 address 02:00:00:00:01:02 netns {server}
             addr add 10.0.0.1/24 dev vc
             addr add 10.0.1.1/24 dev vs
             link set vc up
             link set vs up
             neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev vc nud permanent
             neigh replace 10.0.1.2 lladdr 02:00:00:00:01:02 dev vs nud permanent"
        ))?;
        triplet.node.sysctl("net/ipv4/ip_forward", "1")?;
        for (netns, device, subnet, node) in [
            (&triplet.client, "c0", 0, "02:00:00:00:00:01"),
            (&triplet.server, "s0", 1, "02:00:00:00:01:01"),
        ] {
            netns.ip(&format!(
                "addr add 10.0.{subnet}.2/24 dev {device}
                 link set {device} up
                 neigh replace 10.0.{subnet}.1 lladdr {node} dev {device} nud permanent
                 route add default via 10.0.{subnet}.1"
            ))?;
        }
        // Thousands of connections a second, each reset at its end.
        triplet
            .client
            .sysctl("net/ipv4/ip_local_port_range", "10000 65000")?;
        triplet.serve()?;
        triplet.sink()?;
        triplet.take_datagrams()?;
        Ok(triplet)
    }

    /// Packets that the server's device has got so far.
    pub fn received(&self) -> Result<u64> {
        let text = self
            .server
            .enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        let line = text
            .lines()
            .find_map(|line| line.trim_start().strip_prefix("s0:"))
            .context("the server has its device")?;
        let packets = line.split_whitespace().nth(1);
        Ok(packets.context("a device counts packets")?.parse()?)
    }

    /// Answers one byte with one byte, one connection after the other. The thread ends with the
    /// process.
    fn serve(&self) -> Result<()> {
        let listener = self
            .server
            .enter(|| TcpListener::bind(SocketAddr::from((SERVER, PORT))))?;
        std::thread::spawn(move || {
            pin::to(REQUESTS).expect("a CPU");
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                stream.set_nodelay(true).expect("a socket option");
                let mut byte = [0; 1];
                // A client ends its connection by a reset.
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            }
        });
        Ok(())
    }

    /// Datagrams that the server's socket has got so far.
    pub fn sunk(&self) -> u64 {
        self.sunk.load(Ordering::Relaxed)
    }

    /// Reads datagrams. The thread ends with the process.
    fn take_datagrams(&self) -> Result<()> {
        let socket = self
            .server
            .enter(|| UdpSocket::bind(SocketAddr::from((SERVER, PORT))))?;
        SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
        let sunk = Arc::clone(&self.sunk);
        std::thread::spawn(move || {
            pin::to(REQUESTS).expect("a CPU");
            while socket.recv(&mut [0; 64]).is_ok() {
                sunk.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(())
    }

    fn sink(&self) -> Result<()> {
        let rules = format!(
            "table netdev sink {{\n chain in {{\n type filter hook ingress device s0 priority 0;\n ip saddr {FLOOD} drop\n }}\n}}"
        );
        self.server.output(Command::new("nft").arg(rules)).map(drop)
    }
}
