//! Packet hygiene where it takes a network to show it: real frames in, real frames out, through the
//! agent's programs and the node's own stack.

use std::{
    cell::Cell,
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    thread,
};

use enforcer_ebpf::event::Hook;
use tests::{
    frame::{Extension, Frame, flag, tcp_segment},
    hygiene::{Case, Port},
    live::three_pods_on,
    topology::{BRIDGE, Layout, REMOTE_V4, REMOTE_V6, UPLINK},
    wire::{Wire, mac_of},
};

use super::*;

/// Ports of `backend`: by rule, by what is said, and nobody's.
const DIRECT: u16 = PORT;
const ASKED: u16 = PORT + 1;
const DENIED: u16 = PORT + 2;
/// Where frames pretend to come from.
const FROM: u16 = 41_000;
const ETHERNET: usize = 14;
/// A frame that comes out of order is seen within this time.
const STRAY: Duration = Duration::from_millis(300);

/// `frontend` and another node may reach two of `backend`'s ports; on the second only the proxy sees
/// whether it is TLS for a name that is denied.
fn policy() -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: some, namespace: default}}
spec:
  selector: {{matchLabels: {{app: backend}}}}
  rules:
  - from:
    - source: {{principals: [cluster.local/ns/default/sa/frontend]}}
    - source: {{ipBlocks: [\"{REMOTE_V4}\", \"{REMOTE_V6}\"]}}
    to: [{{operation: {{ports: [\"{DIRECT}\", \"{ASKED}\"]}}}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: not-one-name, namespace: default}}
spec:
  selector: {{matchLabels: {{app: backend}}}}
  action: DENY
  rules:
  - to: [{{operation: {{ports: [\"{ASKED}\"]}}}}]
    when: [{{key: connection.sni, values: [bad.example]}}]
"
    )
}

/// Frames from one namespace to `backend`.
struct Line<'a> {
    sender: Wire,
    /// The node's end.
    gateway: [u8; 6],
    receiver: Wire,
    addresses: [[IpAddr; 2]; 2],
    marks: &'a Cell<u8>,
}

impl<'a> Line<'a> {
    fn new(world: &World, from: (&Netns, &str), own: [IpAddr; 2], marks: &'a Cell<u8>) -> Self {
        let backend = world.pod("backend");
        let sender = Wire::open(from.0, "eth0").expect("the pod's device");
        let gateway = mac_of(&world.net.node, from.1).expect("its other end");
        let receiver = Wire::open(&backend.netns, "eth0").expect("the pod's device");
        Self {
            sender,
            gateway,
            receiver,
            addresses: [own, backend.addresses()],
            marks,
        }
    }

    fn of_pod(world: &World, from: &str, marks: &'a Cell<u8>) -> Self {
        let pod = world.pod(from);
        let ends = (&pod.netns, pod.interface.as_str());
        Self::new(world, ends, pod.addresses(), marks)
    }

    /// A segment whose data no other one has.
    fn segment(&self, v6: bool, port: u16, length: usize) -> Frame {
        self.marks.set(self.marks.get() + 1);
        let [from, to] = self.addresses.map(|both| both[usize::from(v6)]);
        let mut frame = Frame::tcp((from, FROM), (to, port), flag::ACK);
        frame.body = tcp_segment(FROM, port, flag::ACK, length);
        frame.body[20..].fill(self.marks.get());
        frame.seal();
        frame
    }

    /// The frame as the link has it.
    fn addressed(&self, frame: &Frame) -> Vec<u8> {
        let mut bytes = frame.build();
        bytes[..6].copy_from_slice(&self.gateway);
        bytes[6..12].copy_from_slice(&self.sender.mac);
        bytes
    }

    fn send(&self, frame: &Frame) {
        self.sender
            .send(&self.addressed(frame))
            .expect("the link is up");
    }

    /// Sends frames, and says of each whether its bytes came to the pod as they were sent.
    fn arrive<const N: usize>(&self, frames: [&Frame; N]) -> [bool; N] {
        for frame in frames {
            self.send(frame);
        }
        self.seen(frames)
    }

    /// Which of these come. A plain segment goes after them; when that one has come, they have.
    fn seen<const N: usize>(&self, frames: [&Frame; N]) -> [bool; N] {
        let mark = self.segment(frames[0].source.is_ipv6(), DIRECT, 40);
        self.send(&mark);
        let mut seen = [false; N];
        let mut limit = PATIENCE;
        let wanted = |bytes: &[u8]| {
            let of = |frame: &Frame| same(bytes, frame);
            of(&mark) || frames.iter().any(|frame| of(frame))
        };
        while let Some(bytes) = self.receiver.receive(limit, wanted) {
            if same(&bytes, &mark) {
                limit = STRAY;
            }
            for (seen, frame) in seen.iter_mut().zip(frames) {
                *seen |= same(&bytes, frame);
            }
        }
        assert_eq!(limit, STRAY, "a plain segment must come");
        seen
    }
}

/// What came is what was sent, from the ports on: a router changes what goes before.
fn same(bytes: &[u8], frame: &Frame) -> bool {
    let sent = frame.build();
    let body = frame.body.as_slice();
    let from = sent.len() - body.len();
    bytes.len() == sent.len() && &bytes[from..] == body && bytes[12..ETHERNET] == sent[12..ETHERNET]
}

/// Fragments of a frame, by the bytes of its body.
fn parts<const N: usize>(frame: &Frame, id: u32, ranges: [(u16, u16); N]) -> [Frame; N] {
    let case = Case {
        hook: Hook::ToPod,
        v6: frame.source.is_ipv6(),
        port: Port::Allowed,
        id,
    };
    ranges.map(|(from, to)| case.part(frame, from, to))
}

#[test]
fn fragments_meet_what_their_first_one_met_and_cannot_change_it() {
    if !possible() {
        return;
    }
    let world = World::new("lv-frag");
    let _agent = world.start(&policy(), &[]);
    world.expect("frontend", Met::Answer, "neighbours know each other");
    let marks = Cell::new(0);
    let line = Line::of_pod(&world, "frontend", &marks);
    for (v6, base) in [(false, 100), (true, 200)] {
        let whole = line.segment(v6, DIRECT, 80);
        let [first, later] = parts(&whole, base, [(0, 24), (24, 100)]);
        assert_eq!(line.arrive([&first, &later]), [true; 2], "allowed, v6 {v6}");

        let whole = line.segment(v6, DENIED, 80);
        let [first, later] = parts(&whole, base + 1, [(0, 24), (24, 100)]);
        assert_eq!(line.arrive([&first, &later]), [false; 2], "denied, v6 {v6}");

        let whole = line.segment(v6, DIRECT, 80);
        let [first, later] = parts(&whole, base + 2, [(0, 24), (24, 100)]);
        let early = line.arrive([&later]);
        assert_eq!(early, [false], "before its first one, v6 {v6}");
        let again = line.arrive([&first, &later]);
        assert_eq!(again, [true; 2], "sent again in order, v6 {v6}");

        let whole = line.segment(v6, DIRECT, 80);
        let [tiny, rest] = parts(&whole, base + 3, [(0, 16), (16, 100)]);
        assert_eq!(line.arrive([&tiny, &rest]), [false; 2], "no flags, v6 {v6}");

        // The ports of another flow, over those that were judged.
        let whole = line.segment(v6, DIRECT, 80);
        let [first, over] = parts(&whole, base + 4, [(0, 40), (8, 100)]);
        let [_, beyond] = parts(
            &line.segment(v6, DIRECT, 80),
            base + 4,
            [(0, 40), (32, 100)],
        );
        let met = line.arrive([&first, &over, &beyond]);
        assert_eq!(met, [true, false, true], "overlaps, v6 {v6}");
    }
    assert!(world.counted("bad_fragment") >= 6, "tiny ones and overlaps");
    assert!(world.counted("unknown_fragment") >= 2, "early ones");
}

#[test]
fn datagrams_in_fragments_arrive_whole_where_the_node_tracks_them_and_where_not() {
    if !possible() {
        return;
    }
    for (what, tracks) in [("lv-udp", false), ("lv-udptrack", true)] {
        let world = World::new(what);
        if tracks {
            let rules = "table inet track {
                chain forward { type filter hook forward priority 0; ct state new accept; }
            }";
            paths::nft(&world, rules);
        }
        let _agent = world.start(&policy(), &[]);
        for to in world.backend() {
            let server = (to, DENIED);
            let server = world.pod("backend").netns.enter(|| UdpSocket::bind(server));
            let server = server.expect("the port is free");
            server.set_read_timeout(Some(PATIENCE)).expect("a socket");
            let sent: Vec<u8> = (0..=255u8).cycle().take(4_000).collect();
            let client = world.pod("frontend").netns.enter(|| {
                let client = UdpSocket::bind((IpAddr::from([0u16; 8]), 0))?;
                client.send_to(&sent, (to, DENIED)).map(|_| client)
            });
            let _client = client.expect("datagrams are not policed");
            let mut got = vec![0; 5_000];
            let length = server.recv(&mut got).expect("all fragments come");
            assert!(got[..length] == sent, "to {to}, tracked: {tracks}");
        }
        // Segments in fragments, which the node may have put together in between.
        let marks = Cell::new(0);
        world.expect("frontend", Met::Answer, "neighbours know each other");
        let line = Line::of_pod(&world, "frontend", &marks);
        for (v6, port, comes) in [
            (false, DIRECT, true),
            (true, DIRECT, true),
            (false, DENIED, false),
            (true, DENIED, false),
        ] {
            let whole = line.segment(v6, port, 80);
            for part in parts(&whole, 300 + u32::from(port), [(0, 24), (24, 100)]) {
                line.send(&part);
            }
            let tail = &whole.body[60..];
            let limit = if comes { PATIENCE } else { STRAY };
            let got = line.receiver.receive(limit, |bytes| bytes.ends_with(tail));
            assert_eq!(got.is_some(), comes, "v6 {v6} port {port} tracked {tracks}");
        }
    }
}

#[test]
fn batched_segments_arrive_byte_for_byte() {
    if !possible() {
        return;
    }
    const BYTES: usize = 3 << 20;
    let world = World::new("lv-gso");
    let backend = world.pod("backend");
    let _asked = Echo::start(backend, ASKED).expect("the port is free");
    let _agent = world.start(&policy(), &[]);
    let sent: Vec<u8> = (0..251u8).cycle().take(BYTES).collect();
    for to in world.backend() {
        for port in [DIRECT, ASKED] {
            let stream = connect(world.pod("frontend"), to, port, PATIENCE);
            let stream = stream.unwrap_or_else(|error| panic!("{to} {port}: {error}"));
            let wire = Wire::open(&backend.netns, "eth0").expect("the pod's device");
            let got = thread::scope(|scope| {
                let sender = scope.spawn(|| (&stream).write_all(&sent));
                let mut got = vec![0; BYTES];
                (&stream)
                    .read_exact(&mut got)
                    .expect("all of it comes back");
                sender.join().expect("no panic").expect("all of it goes");
                got
            });
            assert!(got == sent, "to {to}:{port}");
            let large = wire.receive(PATIENCE, |bytes| bytes.len() > 2 * 1_500);
            assert!(large.is_some(), "nothing was batched to {to}:{port}");
        }
    }
    for reason in ["malformed", "denied", "foreign_proxy_packet"] {
        assert_eq!(world.counted(reason), 0, "`{reason}`");
    }
}

#[test]
fn headers_outside_the_linear_part_are_read() {
    if !possible() {
        return;
    }
    const LONG: usize = 6_000;
    let net = three_pods_on("lv-frags", Layout::Routed).expect("a node with three pods");
    for pod in ["frontend", "backend"].map(|name| net.get(name)) {
        let device = format!("link set {} mtu 9000", pod.interface);
        net.node.ip(&device).expect("a veth takes it");
        pod.netns
            .ip("link set eth0 mtu 9000")
            .expect("a veth takes it");
    }
    let world = World::on(net);
    let _agent = world.start(&policy(), &[]);
    world.expect("frontend", Met::Answer, "neighbours know each other");
    let marks = Cell::new(0);
    let line = Line::of_pod(&world, "frontend", &marks);
    let scattered = Line::of_pod(&world, "frontend", &marks);
    for v6 in [false, true] {
        for wrapped in [false, true] {
            let [allowed, denied] = [DIRECT, DENIED].map(|port| {
                let mut frame = line.segment(v6, port, LONG);
                if wrapped && v6 {
                    frame.extensions = vec![Extension {
                        number: 60,
                        more: 2,
                    }];
                } else if wrapped {
                    frame.option_words = 5;
                }
                frame
            });
            for frame in [&denied, &allowed] {
                let bytes = line.addressed(frame);
                scattered.sender.send_scattered(&bytes).expect("it is sent");
            }
            let met = line.seen([&allowed, &denied]);
            assert_eq!(met, [true, false], "v6 {v6}, wrapped {wrapped}");
        }
    }
    assert_eq!(world.counted("malformed"), 0, "every header was found");
    assert!(world.counted("denied") >= 4, "and read");
}

#[test]
fn the_path_mtu_is_found_by_pods_that_nobody_may_reach() {
    if !possible() {
        return;
    }
    const BYTES: usize = 300_000;
    let mut world = World::new("lv-pmtu");
    world.net.with_remote().expect("a remote node");
    let narrow = format!("link set {UPLINK} mtu 1400");
    world.net.node.ip(&narrow).expect("a veth takes it");
    let _agent = world.start(&policy(), &[]);
    let remote = world.net.remote.as_ref().expect("just made");
    let backend = world.pod("backend");
    let far: [IpAddr; 2] = [REMOTE_V4.into(), REMOTE_V6.parse().expect("an address")];
    for to in far {
        let wire = Wire::open(&backend.netns, "eth0").expect("the pod's device");
        let listener = remote.enter(|| TcpListener::bind((to, 9_090)));
        let listener = listener.expect("the port is free");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the pod calls");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            let mut got = vec![0; BYTES];
            stream.read_exact(&mut got).map(|()| got)
        });
        let stream = connect(backend, to, 9_090, PATIENCE);
        let mut stream = stream.expect("a pod may call");
        stream.write_all(&vec![7; BYTES]).expect("it is taken");
        let got = server.join().expect("no panic").expect("all of it comes");
        assert!(got.iter().all(|byte| *byte == 7), "to {to}");
        let (number, kind) = if to.is_ipv6() { (58, 2) } else { (1, 3) };
        let at = if to.is_ipv6() { [20, 54] } else { [23, 34] };
        let told = wire.receive(PATIENCE, |bytes| {
            bytes.len() > 54 && bytes[at[0]] == number && bytes[at[1]] == kind
        });
        assert!(told.is_some(), "the pod was never told, to {to}");
    }
}

#[test]
fn neighbours_are_found_again() {
    if !possible() {
        return;
    }
    let bridge = Layout::Bridge {
        calls_netfilter: false,
    };
    let enforce: &[&str] = &["--non-tcp", "enforce"];
    for (what, layout, options) in [
        ("lv-nd", Layout::Routed, &[][..]),
        ("lv-ndall", Layout::Routed, enforce),
        ("lv-ndbr", bridge, &[]),
        ("lv-ndbrall", bridge, enforce),
    ] {
        let world = World::on(three_pods_on(what, layout).expect("a node with three pods"));
        let _agent = world.start(&policy(), options);
        for round in 0..3 {
            world.expect("frontend", Met::Answer, "allowed");
            world.expect("other", Met::Refusal, "not allowed");
            let pods = world.net.pods.iter().map(|pod| (&pod.netns, "eth0"));
            let node = world
                .net
                .pods
                .iter()
                .map(|pod| (&world.net.node, pod.interface.as_str()));
            let bridge = (layout == bridge).then_some((&world.net.node, BRIDGE));
            for (netns, device) in pods.chain(node).chain(bridge) {
                let flush = format!("neigh flush dev {device}");
                netns
                    .ip(&flush)
                    .unwrap_or_else(|error| panic!("{round}: {error:#}"));
            }
        }
        assert!(world.counted("link_control") > 0, "they were asked for");
    }
}

#[test]
fn nobody_reaches_a_pod_under_anothers_address() {
    if !possible() {
        return;
    }
    let mut world = World::new("lv-spoof");
    world.net.with_remote().expect("a remote node");
    // The node's own check, which IPv6 has not at all, must not be the one that refuses.
    for device in ["all", UPLINK, "vother"] {
        let name = format!("net/ipv4/conf/{device}/rp_filter");
        world.net.node.sysctl(&name, "0").expect("a setting");
    }
    let _agent = world.start(&policy(), &[]);
    world.expect("frontend", Met::Answer, "neighbours know each other");
    let marks = Cell::new(0);
    let honest = Line::of_pod(&world, "frontend", &marks);
    let neighbour = Line::of_pod(&world, "other", &marks);
    let remote = world.net.remote.as_ref().expect("just made");
    let outside = Line::new(&world, (remote, UPLINK), honest.addresses[0], &marks);
    for (line, reason) in [
        (&neighbour, "spoofed_pod_source"),
        (&outside, "spoofed_local_source"),
    ] {
        for v6 in [false, true] {
            let before = world.counted(reason);
            let frame = honest.segment(v6, DIRECT, 30);
            line.send(&frame);
            assert_eq!(honest.seen([&frame]), [false], "{reason}, v6 {v6}");
            assert!(world.counted(reason) > before, "`{reason}` tells, v6 {v6}");
        }
    }
    for v6 in [false, true] {
        let frame = honest.segment(v6, DIRECT, 30);
        assert_eq!(honest.arrive([&frame]), [true], "from its own place");
    }
}
