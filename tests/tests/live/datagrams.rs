//! `--non-tcp=enforce`: real datagrams, both ways, in both families.

use std::net::{SocketAddr, UdpSocket};

use tests::topology::Pod as Peer;

use super::*;

const UDP: u16 = 5353;

/// A socket of a pod, on all its addresses.
fn socket(pod: &Peer, port: u16) -> UdpSocket {
    let any = SocketAddr::new(IpAddr::from([0u16; 8]), port);
    let socket = pod.netns.enter(|| UdpSocket::bind(any));
    socket.expect("the port is free")
}

/// Sends back what comes, until the test ends.
fn echo(socket: &UdpSocket) {
    let socket = socket.try_clone().expect("a descriptor");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // A refused answer is what some of these tests are about.
            let _sent = socket.send_to(&buffer[..length], from);
        }
    });
}

/// As a socket of both families names an address.
fn mapped(address: IpAddr, port: u16) -> SocketAddr {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    SocketAddr::new(v6.into(), port)
}

/// Whether a datagram is answered.
fn answered(socket: &UdpSocket, to: SocketAddr, wait: Duration) -> bool {
    socket.set_read_timeout(Some(wait)).expect("a time");
    socket.send_to(b"hello", to).expect("it leaves");
    let mut buffer = [0; 64];
    matches!(socket.recv_from(&mut buffer), Ok((5, from)) if from == to)
}

#[test]
fn datagrams_are_judged_as_connections_are() {
    if !possible() {
        return;
    }
    let world = World::new("lv-udp");
    let _agent = world.start(ONLY_FRONTEND, &["--non-tcp", "enforce"]);
    echo(&socket(world.pod("backend"), UDP));
    echo(&socket(world.pod("other"), UDP));
    for address in world.backend() {
        let to = mapped(address, UDP);
        let frontend = socket(world.pod("frontend"), 0);
        assert!(answered(&frontend, to, PATIENCE), "allowed: {to}");
        let other = socket(world.pod("other"), 0);
        assert!(!answered(&other, to, SILENCE), "denied: {to}");
    }
    assert!(world.counted("denied") >= 2);
    // What the pod begins is answered, although nobody but frontend may reach it.
    for address in world.pod("other").addresses() {
        let backend = socket(world.pod("backend"), 0);
        let to = mapped(address, UDP);
        assert!(answered(&backend, to, PATIENCE), "the pod asks: {to}");
        assert!(answered(&backend, to, PATIENCE), "and asks again: {to}");
    }
    world.expect("frontend", Met::Answer, "TCP is judged as ever");
    world.expect("other", Met::Refusal, "TCP is judged as ever");
}

/// H4.
#[test]
fn a_late_datagram_of_the_pod_does_not_reopen_a_denied_flow() {
    if !possible() {
        return;
    }
    let world = World::new("lv-late");
    let _agent = world.start(ONLY_FRONTEND, &["--non-tcp", "enforce"]);
    let backend = socket(world.pod("backend"), UDP);
    echo(&backend);
    let clients = world.backend().map(|address| {
        let client = socket(world.pod("frontend"), 0);
        let to = mapped(address, UDP);
        assert!(answered(&client, to, PATIENCE), "before: {to}");
        (client, to)
    });
    let none = world.bundle("none.bin", NOBODY);
    world.home.load(&none).expect("a good bundle");
    for ((client, to), from) in clients.iter().zip(world.pod("frontend").addresses()) {
        assert!(!answered(client, *to, SILENCE), "after: {to}");
        let port = client.local_addr().expect("its own").port();
        let late = backend.send_to(b"late", mapped(from, port));
        late.expect("it leaves the pod");
        assert!(!answered(client, *to, SILENCE), "and after that: {to}");
    }
    assert!(world.counted("reply_refused") >= 2);
}

#[test]
fn datagrams_pass_where_nobody_asks_for_them() {
    if !possible() {
        return;
    }
    let world = World::new("lv-udppass");
    let _agent = world.start(NOBODY, &[]);
    echo(&socket(world.pod("backend"), UDP));
    for address in world.backend() {
        let other = socket(world.pod("other"), 0);
        assert!(answered(&other, mapped(address, UDP), PATIENCE));
    }
    assert!(world.counted("non_tcp") >= 4, "both ways");
}
