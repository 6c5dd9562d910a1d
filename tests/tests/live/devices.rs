//! Remote pods behind the devices that networks between nodes are made of. Many a kernel lacks some
//! of them; the virtual machines' have them all.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use socket2::{Domain, Socket, Type};
use tests::{http::Server, netns::Netns, ready::has_device, topology::UPLINK};

use super::*;

/// A device between the node and the remote node, over the uplink.
struct Uplink {
    kind: &'static str,
    /// What makes it on the node, and on the remote node.
    ends: [&'static str; 2],
    /// It carries IPv6, too.
    v6: bool,
}

const UPLINKS: [Uplink; 5] = [
    Uplink {
        kind: "vlan",
        ends: [
            "link add ov0 link up0 type vlan id 7",
            "link add ov0 link eth0 type vlan id 7",
        ],
        v6: true,
    },
    Uplink {
        kind: "vxlan",
        ends: [
            "link add ov0 type vxlan id 7 local 192.168.77.1 remote 192.168.77.2 dstport 4789",
            "link add ov0 type vxlan id 7 local 192.168.77.2 remote 192.168.77.1 dstport 4789",
        ],
        v6: true,
    },
    Uplink {
        kind: "geneve",
        ends: [
            "link add ov0 type geneve id 7 remote 192.168.77.2 dstport 6081",
            "link add ov0 type geneve id 7 remote 192.168.77.1 dstport 6081",
        ],
        v6: true,
    },
    Uplink {
        kind: "ipip",
        ends: [
            "link add ov0 type ipip local 192.168.77.1 remote 192.168.77.2",
            "link add ov0 type ipip local 192.168.77.2 remote 192.168.77.1",
        ],
        v6: false,
    },
    Uplink {
        kind: "wireguard",
        ends: ["link add ov0 type wireguard", "link add ov0 type wireguard"],
        v6: true,
    },
];

/// Pods of another node: `faraway` and `stranger`.
const REMOTE_PODS: [(&str, &str, &str); 2] = [
    ("faraway", "10.88.1.2", "fd88:1::2"),
    ("stranger", "10.88.1.3", "fd88:1::3"),
];
const HTTP: u16 = 8081;

/// Only `faraway` may reach `backend`, and by HTTP it may only GET.
const ONLY_FARAWAY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-faraway, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/faraway]}}]
    to: [{operation: {ports: [\"8080\"]}}]
  - from: [{source: {principals: [cluster.local/ns/default/sa/faraway]}}]
    to: [{operation: {ports: [\"8081\"], methods: [GET]}}]
";

#[test]
fn remote_pods_are_judged_behind_every_kind_of_uplink() {
    if !possible() {
        return;
    }
    for uplink in UPLINKS {
        if !has_device(uplink.kind) {
            continue;
        }
        let world = world(&uplink);
        let _agent = world.start(ONLY_FARAWAY, &[]);
        let kind = uplink.kind;
        for family in 0..1 + usize::from(uplink.v6) {
            let to = world.backend()[family];
            let of = |n: usize| [REMOTE_PODS[n].1, REMOTE_PODS[n].2][family];
            let carried = received(&world);
            let met = try_from(&world, of(0), to);
            assert_eq!(met, Met::Answer, "{kind}: its principal is allowed");
            let met = try_from(&world, of(1), to);
            assert_eq!(met, Met::Refusal, "{kind}: no rule allows its principal");
            assert_eq!(ask(&world, of(0), to, "GET"), "200", "{kind}: by the proxy");
            assert_eq!(
                ask(&world, of(0), to, "POST"),
                "403",
                "{kind}: by the proxy"
            );
            assert!(received(&world) > carried + 5, "{kind} carried it all");
        }
        assert!(world.counted("steered") > 0, "{kind}");
        assert_eq!(world.counted("unknown_identity"), 0, "{kind}");
        println!("uplink {kind}: remote pods are judged");
    }
}

/// One device authenticates the nodes; by every other one anybody may claim to be a remote pod.
#[test]
fn a_remote_pods_address_counts_by_wireguard_alone_where_that_is_trusted() {
    if !possible() || !has_device("wireguard") {
        return;
    }
    let (trusted, others) = UPLINKS.split_last().expect("WireGuard is the last");
    let world = world(trusted);
    let (node, remote) = (&world.net.node, remote(&world));
    // The plain uplink, and whatever this kernel can put on it.
    let mut by = vec![("eth0".to_owned(), true)];
    for (n, uplink) in others.iter().enumerate() {
        if !has_device(uplink.kind) {
            continue;
        }
        let name = format!("by-{}", uplink.kind);
        for (netns, end, own) in [(node, uplink.ends[0], 1), (remote, uplink.ends[1], 2)] {
            let device = end.replace("ov0", &name);
            let v4 = format!("addr add 10.98.{n}.{own}/24 dev {name}\nlink set {name} up");
            netns
                .ip(&format!("{device}\n{v4}"))
                .expect("its own device");
            if uplink.v6 {
                let v6 = format!("addr add fd98:{n}::{own}/64 dev {name} nodad");
                netns.ip(&v6).expect("its own device");
            }
        }
        // Taken only by who asks for this device.
        let metric = 4_000 + n;
        let v4 = format!("route add 10.88.0.0/24 via 10.98.{n}.1 dev {name} metric {metric}");
        remote.ip(&v4).expect("a way to the node");
        if uplink.v6 {
            let v6 = format!("route add fd88::/64 via fd98:{n}::1 dev {name} metric {metric}");
            remote.ip(&v6).expect("a way to the node");
        }
        by.push((name, uplink.v6));
    }
    // The node's own check must not be the one that refuses.
    for (name, _) in &by {
        let name = name.replace("eth0", UPLINK);
        for device in ["all", &name] {
            let setting = format!("net/ipv4/conf/{device}/rp_filter");
            node.sysctl(&setting, "0").expect("a setting");
        }
    }
    let _agent = world.start(ONLY_FARAWAY, &["--trusted-uplink", "ov0"]);
    for family in 0..2 {
        let to = SocketAddr::new(world.backend()[family], PORT);
        let faraway = [REMOTE_PODS[0].1, REMOTE_PODS[0].2][family];
        let met = try_from(&world, faraway, to.ip());
        assert_eq!(met, Met::Answer, "by WireGuard, to {to}");
        for (name, v6) in &by {
            if to.is_ipv6() && !v6 {
                continue;
            }
            let before = world.counted("untrusted_path");
            let met = call_by(&world, faraway, to, Some(name), SILENCE).map(drop);
            let met = met.map_err(|error| error.kind());
            assert_eq!(met, Err(std::io::ErrorKind::TimedOut), "by {name}, to {to}");
            let counted = world.counted("untrusted_path");
            assert!(
                counted > before,
                "by {name}, to {to}: it was another's doing"
            );
            println!("uplink {name}: a forged source is refused at {to}");
        }
    }
}

/// A node whose remote pods are behind that device.
fn world(uplink: &Uplink) -> World {
    let mut world = World::new(&format!("lv-{}", uplink.kind));
    world.net.with_remote().expect("a remote node");
    for (name, v4, v6) in REMOTE_PODS {
        world.manifests += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default}}\nspec: \
             {{nodeName: n2, serviceAccountName: {name}, containers: [{{name: main, image: none}}]}}\n\
             status: {{phase: Running, podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]}}\n"
        );
    }
    let file = world.home.file("inventory.yaml");
    fs::write(file, &world.manifests).expect("a file of its own");
    let remote = remote(&world);
    let [near, far] = uplink.ends;
    world.net.node.ip(near).expect("the kernel has the device");
    remote.ip(far).expect("the kernel has the device");
    if uplink.kind == "wireguard" {
        exchange_keys(&world);
    }
    for (netns, own, other, pods) in [
        (&world.net.node, 1, 2, ["10.88.1.0/24", "fd88:1::/64"]),
        (remote, 2, 1, ["10.88.0.0/24", "fd88::/64"]),
    ] {
        let v4 = format!("addr add 10.99.0.{own}/24 dev ov0\nlink set ov0 up\n");
        let v4 = format!("{v4}route add {} via 10.99.0.{other} dev ov0\n", pods[0]);
        let v6 = format!("addr add fd99::{own}/64 dev ov0 nodad\n");
        let v6 = format!("{v6}route add {} via fd99::{other} dev ov0", pods[1]);
        netns.ip(&v4).expect("its own device");
        if uplink.v6 {
            netns.ip(&v6).expect("its own device");
        }
    }
    for (_, v4, v6) in REMOTE_PODS {
        let both = format!("addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad");
        remote.ip(&both).expect("its own device");
    }
    world
}

fn remote(world: &World) -> &Netns {
    world.net.remote.as_ref().expect("it was made")
}

/// Gives each end a key, and tells the other one of it.
fn exchange_keys(world: &World) {
    let wg = |netns: &Netns, script: &str| {
        let mut shell = Command::new("sh");
        shell
            .args(["-euc", script])
            .current_dir(world.home.file(""));
        netns.output(&mut shell).expect("wireguard-tools are there")
    };
    let (node, remote) = (&world.net.node, remote(world));
    wg(
        node,
        "umask 077; wg genkey > node.key; wg pubkey < node.key > node.pub",
    );
    wg(
        node,
        "umask 077; wg genkey > remote.key; wg pubkey < remote.key > remote.pub",
    );
    for (netns, own, other, address) in [
        (node, "node", "remote", "192.168.77.2"),
        (remote, "remote", "node", "192.168.77.1"),
    ] {
        wg(
            netns,
            &format!(
                "wg set ov0 private-key {own}.key listen-port 51820 peer $(cat {other}.pub) \
                 allowed-ips 0.0.0.0/0,::/0 endpoint {address}:51820"
            ),
        );
    }
}

/// Packets that the node has received by the device.
fn received(world: &World) -> u64 {
    let path = "/sys/class/net/ov0/statistics/rx_packets";
    let shown = world
        .net
        .node
        .output(Command::new("ip").args(["-s", "-j", "link", "show", "ov0"]));
    let shown: serde_json::Value = serde_json::from_str(&shown.expect(path)).expect("it is JSON");
    shown[0]["stats64"]["rx"]["packets"]
        .as_u64()
        .expect("it counts")
}

/// A connection from one of the remote node's addresses.
fn call(world: &World, from: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    call_by(world, from, to, None, PATIENCE)
}

/// The same, by a device of one's choice.
fn call_by(
    world: &World,
    from: &str,
    to: SocketAddr,
    device: Option<&str>,
    wait: Duration,
) -> std::io::Result<TcpStream> {
    let from: IpAddr = from.parse().expect("an address");
    let stream = remote(world).enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind_device(device.map(str::as_bytes))?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect_timeout(&to.into(), wait)?;
        std::io::Result::Ok(TcpStream::from(socket))
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn try_from(world: &World, from: &str, to: IpAddr) -> Met {
    match call(world, from, SocketAddr::new(to, PORT)) {
        Ok(mut stream) => exchange(&mut stream, PATIENCE),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Met::Refusal,
        Err(error) => panic!("{from} to {to}: {error}"),
    }
}

/// The status of the answer to a request.
fn ask(world: &World, from: &str, to: IpAddr, method: &str) -> String {
    let _server =
        Server::start(&world.pod("backend").netns, "backend", HTTP).expect("the port is free");
    let mut stream = call(world, from, SocketAddr::new(to, HTTP)).expect("the proxy accepts");
    let request =
        format!("{method} / HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is answered");
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}
