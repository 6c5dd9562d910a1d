//! The namespaces themselves, before any policy: what later tests take for granted.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use tests::{
    netns::Netns,
    ready::{is_root, until},
    topology::{NODE_V4, NODE_V6, REMOTE_V4, Topology},
};

const LIMIT: Duration = Duration::from_secs(5);

/// Sends a line from one namespace to a listener in another, and returns the client's address as
/// the server saw it.
#[track_caller]
fn talk(from: &Netns, to: &Netns, address: IpAddr) -> IpAddr {
    let at = SocketAddr::new(address, 8080);
    let listener = to.enter(|| TcpListener::bind(at));
    let listener = listener.expect("the address is the namespace's own");
    let server = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().expect("a client comes");
        let mut line = [0; 5];
        stream
            .read_exact(&mut line)
            .expect("the client sends five bytes");
        assert_eq!(&line, b"hello", "what was sent is what arrives");
        peer.ip()
    });
    let client = from.enter(|| TcpStream::connect_timeout(&at, LIMIT));
    let mut client = client.expect("nothing filters between these namespaces");
    client.write_all(b"hello").expect("the connection stands");
    server.join().expect("the server saw the line")
}

#[test]
fn every_path_between_pods_node_and_remote_carries_both_families() {
    if !is_root() {
        return;
    }
    let mut net = Topology::new("tnet").expect("a node");
    net.pod("a", [10, 88, 0, 2].into(), "fd88::2".parse().unwrap())
        .expect("pod a");
    net.pod("b", [10, 88, 0, 3].into(), "fd88::3".parse().unwrap())
        .expect("pod b");
    let (a, b) = (net.get("a"), net.get("b"));
    for (from, to) in a.addresses().into_iter().zip(b.addresses()) {
        let seen = talk(&a.netns, &b.netns, to);
        assert_eq!(seen, from, "the pod's own address reaches the other pod");
        talk(&net.node, &b.netns, to);
    }
    net.with_remote().expect("a remote node");
    let remote = net.remote.as_ref().expect("just made");
    let b = net.get("b");
    for address in b.addresses() {
        talk(remote, &b.netns, address);
    }
    let seen = talk(&b.netns, remote, REMOTE_V4.into());
    assert_eq!(
        seen,
        IpAddr::from(b.v4),
        "no address translation on the way out"
    );
    talk(&b.netns, &net.node, NODE_V4.into());
    talk(&b.netns, &net.node, NODE_V6.parse().unwrap());
}

#[test]
fn a_dropped_namespace_is_gone_with_its_processes() {
    if !is_root() {
        return;
    }
    let netns = Netns::create(&tests::netns::unique_prefix("tdrop")).expect("a namespace");
    let path = netns.path();
    let mut child = netns
        .enter(|| Command::new("sleep").arg("60").spawn())
        .expect("sleep starts");
    let inside = format!("/proc/{}/ns/net", child.id());
    let here = std::fs::read_link("/proc/self/ns/net").expect("procfs is mounted");
    assert_ne!(
        std::fs::read_link(&inside).expect("the process lives"),
        here,
        "the process runs in the namespace, not beside it"
    );
    drop(netns);
    assert!(!path.exists(), "the name is removed");
    assert!(
        until(LIMIT, || matches!(child.try_wait(), Ok(Some(_)))),
        "a process inside is killed with the namespace"
    );
}

#[test]
fn a_wrong_line_is_an_error_that_quotes_it() {
    if !is_root() {
        return;
    }
    let netns = Netns::create(&tests::netns::unique_prefix("terr")).expect("a namespace");
    let error = netns.ip("link set nothing up").expect_err("no such device");
    assert!(
        format!("{error:#}").contains("nothing"),
        "the message names the device: {error:#}"
    );
}
