//! Holes that only real sockets can show.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
};

use enforcer::{flows::live_connections, netns::Netns as Place};
use tests::topology::UPLINK;

use super::*;

/// Whoever asks by GET may reach `backend`.
const ANYBODYS_GET: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: anybodys-get, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: ALLOW
  rules:
  - to: [{operation: {methods: [GET]}}]
";

const LARGE: usize = 300_000;

/// Answers a request on each connection with a large body.
fn serve_large(pod: &Pod, port: u16) {
    let any = (IpAddr::from([0u16; 8]), port);
    let listener = pod.netns.enter(|| TcpListener::bind(any));
    let listener = listener.expect("the port is free");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = [0; 1024];
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                if stream.read(&mut request).is_ok() {
                    // A client that has gone away is the test's to notice.
                    let _sent = stream.write_all(&[head.as_bytes(), &[b'x'; LARGE]].concat());
                }
            });
        }
    });
}

/// H11: the proxy hears that its segments are too large for the way to its client.
#[test]
fn h11_the_proxys_client_behind_a_smaller_link_gets_everything() {
    if !possible() {
        return;
    }
    const HTTP: u16 = PORT + 1;
    let mut net = three_pods("lv-mtu").expect("a node with three pods");
    net.with_remote().expect("an uplink");
    let manifests = manifests(&net);
    let server = Echo::start(net.get("backend"), PORT).expect("the port is free");
    let home = Home::new(ENFORCER, &net.node, &manifests).expect("places of its own");
    let world = World {
        home,
        manifests,
        server,
        net,
    };
    let _agent = world.start(ANYBODYS_GET, &[]);
    serve_large(world.pod("backend"), HTTP);
    // Without it the kernel finds out by itself, some time.
    let proxy = Place::named(world.home.netns()).expect("readable");
    let proxy = proxy.expect("the agent has made it");
    let off = proxy.enter(|| fs::write("/proc/sys/net/ipv4/tcp_mtu_probing", "0"));
    off.expect("entered").expect("written");
    world
        .net
        .node
        .ip(&format!("link set {UPLINK} mtu 1300"))
        .expect("a smaller link");
    let remote = world.net.remote.as_ref().expect("made above");
    for address in world.backend() {
        let to = SocketAddr::new(address, HTTP);
        let stream = remote.enter(|| std::net::TcpStream::connect_timeout(&to, PATIENCE));
        let mut stream = stream.expect("the proxy accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: backend\r\nConnection: close\r\n\r\n")
            .expect("a short request");
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        assert!(
            answer.starts_with(b"HTTP/1.1 200") && answer.len() > LARGE,
            "{to}: {} bytes, then {read:?}: {:?}",
            answer.len(),
            world.home.status().map(|s| s["counters"].clone())
        );
    }
}

/// H13: nobody says a word, and both sides learn that it is over.
#[test]
fn h13_a_deny_ends_idle_connections_on_both_sides() {
    if !possible() {
        return;
    }
    let world = World::new("lv-idle");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    let _other_server = Echo::start(world.pod("other"), 9090).expect("the port is free");
    let mut streams: Vec<_> = world
        .backend()
        .into_iter()
        .map(|address| connect(world.pod("frontend"), address, PORT, PATIENCE))
        .map(|stream| stream.expect("frontend is allowed"))
        .collect();
    let v4 = world.pod("other").v4.into();
    let mut own = connect(world.pod("backend"), v4, 9090, PATIENCE).expect("the pod's own");
    for stream in streams.iter_mut().chain([&mut own]) {
        assert_eq!(exchange(stream, PATIENCE), Met::Answer, "before any change");
    }
    let open = || {
        let live = world.pod("backend").netns.enter(live_connections);
        live.expect("the kernel tells").len()
    };
    assert_eq!(open(), 3);
    let none = world.bundle("none.bin", NOBODY);
    world.home.load(&none).expect("a good bundle");
    assert!(
        until(Duration::from_secs(30), || open() == 1),
        "the pod's side stays open: {}",
        open()
    );
    for stream in &mut streams {
        let read = stream.read(&mut [0; 16]);
        let error = read.expect_err("it is over").kind();
        assert_eq!(
            error,
            std::io::ErrorKind::ConnectionReset,
            "the client's side"
        );
    }
    assert_eq!(
        exchange(&mut own, PATIENCE),
        Met::Answer,
        "not the pod's own"
    );
}

/// H10: a pod that is annotated so receives packets for others, and sends in their name.
#[test]
fn h10_a_gateway_forwards_for_others_and_no_other_pod_does() {
    if !possible() {
        return;
    }
    for (annotation, met) in [("true", Met::Answer), ("false", Met::Silence)] {
        let net = three_pods("lv-gw").expect("a node with three pods");
        let manifests = manifests(&net).replace(
            "enforcer/interface: vbackend",
            &format!("enforcer/interface: vbackend\n    enforcer/gateway: \"{annotation}\""),
        );
        let server = Echo::start(net.get("backend"), PORT).expect("the port is free");
        let home = Home::new(ENFORCER, &net.node, &manifests).expect("places of its own");
        let world = World {
            home,
            manifests,
            server,
            net,
        };
        let _agent = world.start(ONLY_FRONTEND, &[]);
        // An address that is nobody's, behind backend.
        world
            .pod("backend")
            .netns
            .ip("addr add 10.77.0.1/32 dev lo")
            .expect("an address");
        let route = "route add 10.77.0.1/32 dev vbackend scope link";
        world.net.node.ip(route).expect("a route");
        let behind = IpAddr::from([10, 77, 0, 1]);
        let wait = if met == Met::Answer {
            PATIENCE
        } else {
            SILENCE
        };
        let found = try_once(world.pod("frontend"), behind, PORT, wait);
        assert_eq!(
            found,
            met,
            "gateway: {annotation}: {:?}",
            world.home.status().map(|s| s["counters"].clone())
        );
        if met == Met::Answer {
            let other = try_once(world.pod("other"), behind, PORT, PATIENCE);
            assert_eq!(other, Met::Refusal, "by its own policies");
        } else {
            assert!(world.counted("foreign_destination") > 0);
        }
        world.expect("frontend", Met::Answer, "its own address");
    }
}
