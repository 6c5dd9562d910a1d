//! `--trusted-uplink`: another node's pod is believed to be who it says only where its packets come
//! in by a device that was named.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};
use tests::{
    netns::{Netns, unique_prefix},
    topology::{REMOTE_V4, REMOTE_V6, UPLINK},
};

use super::*;

/// A pod of another node, in both families.
const FAR_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 5);
const FAR_V6: &str = "fd99::5";
/// The node's other device, behind which somebody claims to be that pod.
const OTHER: &str = "up1";

/// Only `far` may reach `backend`.
const ONLY_FAR: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-far, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/far]}}]
";

const FAR: &str = "---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: default, labels: {app: far}}
spec:
  serviceAccountName: far
  nodeName: another
  containers: [{name: main, image: none}]
status:
  phase: Running
  podIPs: [{ip: 10.99.0.5}, {ip: 'fd99::5'}]
";

/// A world with two ways out of the node: by the uplink, to the node of `far`, and by another device,
/// to somebody who has given himself its addresses.
struct Ways {
    forger: Netns,
    world: World,
}

impl Ways {
    fn new(what: &str) -> Self {
        let mut net = three_pods(what).expect("a node with three pods");
        net.with_remote().expect("an uplink");
        let forger = Netns::create(&unique_prefix("lv-forger")).expect("a namespace");
        net.node
            .ip(&format!(
                "link add {OTHER} type veth peer name eth0 netns {}
                 addr add 192.168.78.1/24 dev {OTHER}
                 addr add fd78::1/64 dev {OTHER} nodad
                 link set {OTHER} up",
                forger.name()
            ))
            .expect("another device");
        forger
            .ip("addr add 192.168.78.2/24 dev eth0
                 addr add fd78::2/64 dev eth0 nodad
                 link set eth0 up
                 route add default via 192.168.78.1
                 route add ::/0 via fd78::1")
            .expect("a way to the node");
        let manifests = manifests(&net) + FAR;
        let server = Echo::start(net.get("backend"), PORT).expect("the port is free");
        let home = Home::new(ENFORCER, &net.node, &manifests).expect("places of its own");
        let world = World {
            home,
            manifests,
            server,
            net,
        };
        let ways = Self { forger, world };
        ways.far_is_behind_the_uplink();
        for netns in [ways.remote(), &ways.forger] {
            netns
                .ip(&format!(
                    "addr add {FAR_V4}/32 dev lo
                     addr add {FAR_V6}/128 dev lo nodad"
                ))
                .expect("anybody can give himself an address");
        }
        ways
    }

    fn remote(&self) -> &Netns {
        self.world.net.remote.as_ref().expect("made above")
    }

    fn far_is_behind_the_uplink(&self) {
        self.world
            .net
            .node
            .ip(&format!(
                "route replace {FAR_V4}/32 via {REMOTE_V4}
                 route replace {FAR_V6}/128 via {REMOTE_V6}"
            ))
            .expect("a route to the other node's pod");
    }

    /// What `far` meets at `backend`, by both families.
    fn far(&self, wait: Duration) -> [Met; 2] {
        self.world
            .backend()
            .map(|address| as_far(self.remote(), address, wait))
    }

    fn forged(&self) {
        for address in self.world.backend() {
            // The answers, if there were any, would go to the real one.
            assert_eq!(as_far(&self.forger, address, SILENCE), Met::Silence);
        }
    }
}

/// A connection from the addresses of `far`.
fn as_far(netns: &Netns, to: IpAddr, wait: Duration) -> Met {
    let to = SocketAddr::new(to, PORT);
    let from = match to {
        SocketAddr::V4(_) => SocketAddr::new(FAR_V4.into(), 0),
        SocketAddr::V6(_) => SocketAddr::new(FAR_V6.parse().expect("an address"), 0),
    };
    let made = netns.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), wait)?;
        std::io::Result::Ok(TcpStream::from(socket))
    });
    match made {
        Ok(mut stream) => exchange(&mut stream, wait),
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Met::Silence,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Met::Refusal,
        Err(error) => panic!("a connection of far met something unforeseen: {error}"),
    }
}

#[test]
fn a_remote_pods_address_counts_only_by_a_trusted_uplink() {
    if !possible() {
        return;
    }
    let ways = Ways::new("lv-ways");
    let world = &ways.world;
    let agent = world.start(ONLY_FAR, &[]);
    assert_eq!(ways.far(PATIENCE), [Met::Answer; 2], "no uplink is named");
    ways.forged();
    assert_eq!(world.counted("untrusted_path"), 0, "and so any will do");
    assert!(
        world
            .server
            .accepted
            .load(std::sync::atomic::Ordering::Relaxed)
            >= 2,
        "far's own connections"
    );
    agent.kill().expect("our own process");

    let mut agent = world.start(ONLY_FAR, &["--trusted-uplink", UPLINK]);
    assert_eq!(ways.far(PATIENCE), [Met::Answer; 2], "by the uplink");
    assert_eq!(world.counted("untrusted_path"), 0, "by the uplink");
    ways.forged();
    assert!(
        world.counted("untrusted_path") >= 2,
        "the same address by another device: {:?}",
        world.home.status().map(|s| s["counters"].clone())
    );
    world.expect("other", Met::Refusal, "pods of this node are not concerned");
    agent.kill().expect("our own process");

    agent = world.start(ONLY_FAR, &["--trusted-uplink", OTHER]);
    assert_eq!(
        ways.far(SILENCE),
        [Met::Silence; 2],
        "only the other is trusted"
    );
    agent.kill().expect("our own process");
    let _agent = world.start(ONLY_FAR, &["--trusted-uplink", "wg0,up0"]);
    assert_eq!(ways.far(PATIENCE), [Met::Answer; 2], "one of those named");
}

#[test]
fn a_trusted_uplink_may_go_and_come_back_under_another_index() {
    if !possible() {
        return;
    }
    let ways = Ways::new("lv-again");
    let world = &ways.world;
    let node = &world.net.node;
    let rename = |from: &str, to: &str| {
        node.ip(&format!(
            "link set {from} down
             link set {from} name {to}
             link set {to} up"
        ))
        .expect("a device can be renamed");
        node.ip(&format!(
            "addr replace {}/64 dev {to} nodad
             route replace default via {REMOTE_V4}
             route replace ::/0 via {REMOTE_V6}",
            tests::topology::NODE_V6
        ))
        .expect("what went down with it");
        ways.far_is_behind_the_uplink();
    };
    let _agent = world.start(ONLY_FAR, &["--trusted-uplink", UPLINK]);
    assert_eq!(ways.far(PATIENCE), [Met::Answer; 2], "before");
    // The index stays, the name does not: it is not the device that was named.
    rename(UPLINK, "elsewhere");
    assert!(
        until(PATIENCE, || ways.far(SILENCE) == [Met::Silence; 2]),
        "no device of that name, no trust"
    );
    let refused = world.counted("untrusted_path");
    assert!(refused > 0, "and the reason is told");
    // A device of that name, but another one.
    node.ip(&format!("link add {UPLINK} type veth peer name nobody"))
        .expect("a veth");
    assert_eq!(ways.far(SILENCE), [Met::Silence; 2], "another's name");
    node.ip(&format!("link delete {UPLINK}")).expect("ours");
    rename("elsewhere", UPLINK);
    assert!(
        until(PATIENCE, || ways.far(PATIENCE) == [Met::Answer; 2]),
        "it is back: {:?}",
        world.home.status().map(|s| s["counters"].clone())
    );
    // Over an activation, too.
    let same = world.bundle("same.bin", ONLY_FAR);
    world.home.load(&same).expect("a good bundle");
    assert_eq!(ways.far(PATIENCE), [Met::Answer; 2], "a new table");
}
