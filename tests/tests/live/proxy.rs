//! What goes through the proxy, from the first segment to the last.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    thread,
};

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use enforcer::{
    flows::{live_connections, tcp_sockets},
    pins::Pins,
};
use enforcer_ebpf::{
    flow::{FlowKey, ProxyValue},
    maps::{PROXY, UPSTREAM},
};
use socket2::{Domain, Protocol, Socket, Type};
use tests::{
    bpf::Plain,
    frame::{Frame, flag},
    netns::Netns,
    topology::REMOTE_V4,
};

use super::*;

const HTTP: u16 = PORT + 1;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Only GET requests may reach `backend`, whoever sends them.
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

/// Of the node's own address, only GET requests may reach `backend`.
const ONLY_THE_NODES_GET: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-the-nodes-get, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: ALLOW
  rules:
  - from: [{source: {ipBlocks: [192.0.2.1]}}]
    to: [{operation: {methods: [GET]}}]
";

/// Whatever is no TLS for one name may reach `backend`: the proxy carries it as bytes.
const NOT_ONE_NAME: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-one-name, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: DENY
  rules:
  - when: [{key: connection.sni, values: [bad.example]}]
";

/// Answers every request on a connection until the client ends it.
fn serve(pod: &Pod) {
    let any = (IpAddr::from([0u16; 8]), HTTP);
    let listener = pod.netns.enter(|| std::net::TcpListener::bind(any));
    let listener = listener.expect("the port is free");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut lines = BufReader::new(&stream).lines();
                while let Some(Ok(line)) = lines.next() {
                    if line.is_empty() && (&stream).write_all(ANSWER).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Sends a request on a connection; the status of the answer, or what happened instead.
fn ask(mut stream: &TcpStream, method: &str) -> String {
    let head = format!("{method} / HTTP/1.1\r\nHost: backend\r\n\r\n");
    let sent = stream.write_all(head.as_bytes());
    match sent.and_then(|()| answer(stream)) {
        Ok(status) => status,
        Err(error) => error.kind().to_string(),
    }
}

/// Reads one answer to its end; its status.
fn answer(mut stream: &TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)])?;
    Ok(head.split(' ').nth(1).unwrap_or_default().to_owned())
}

#[track_caller]
fn from_pod(world: &World, from: &str, to: IpAddr) -> TcpStream {
    connect(world.pod(from), to, HTTP, PATIENCE).expect("the proxy accepts")
}

/// A connection from a port of the client's choice.
fn from_port(netns: &Netns, to: SocketAddr, port: u16) -> std::io::Result<TcpStream> {
    let stream = netns.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        std::io::Result::Ok(TcpStream::from(socket))
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Connections that the pod has.
fn connections_of(world: &World) -> usize {
    let sockets = world.pod("backend").netns.enter(live_connections);
    sockets.expect("the kernel tells").len()
}

/// Entries of one of the proxy's maps.
fn entries(world: &World, map: &str) -> usize {
    let pins = world.home.pins();
    let pins = Pins::below(pins.parent().expect("the file system's root"));
    let map = MapData::from_pin(pins.map(map)).expect("it is pinned");
    let map = BpfHashMap::<_, Plain<FlowKey>, Plain<ProxyValue>>::try_from(Map::HashMap(map));
    map.expect("a hash of these types").keys().count()
}

fn proxy(world: &World, what: &str) -> u64 {
    let status = world.home.status().expect("the agent answers");
    status["proxy"][what].as_u64().expect("a number")
}

/// Every segment of the proxy's connections, the last ones too, was known to be theirs.
#[track_caller]
fn assert_nothing_was_foreign(world: &World) {
    for reason in ["reply_refused", "foreign_proxy_packet", "denied"] {
        assert_eq!(
            world.counted(reason),
            0,
            "`{reason}`: no segment is foreign"
        );
    }
}

#[test]
fn a_connection_that_the_client_ends_first_ends_everywhere() {
    if !possible() {
        return;
    }
    let world = World::new("lv-end");
    serve(world.pod("backend"));
    let _agent = world.start(ANYBODYS_GET, &[]);
    let connections = 40;
    for round in 0..connections {
        let to = world.backend()[round % 2];
        let stream = from_pod(&world, "frontend", to);
        assert_eq!(ask(&stream, "GET"), "200", "round {round}");
        assert_eq!(ask(&stream, "POST"), "403", "on the same connection");
    }
    assert!(
        until(Duration::from_secs(2), || connections_of(&world) == 0),
        "the pod's connections are not ended: {:?}",
        world.pod("backend").netns.enter(tcp_sockets)
    );
    assert_nothing_was_foreign(&world);
    assert_eq!(proxy(&world, "accepted"), connections as u64);
    assert_eq!(proxy(&world, "over_limit"), 0);
    assert!(
        until(PATIENCE, || proxy(&world, "open") == 0),
        "seats are given back"
    );
    for map in [PROXY, UPSTREAM] {
        let none = until(PATIENCE, || entries(&world, map) == 0);
        assert!(none, "{map} keeps what has ended");
    }
}

#[test]
fn bytes_are_carried_to_the_end_however_it_comes() {
    if !possible() {
        return;
    }
    let world = World::new("lv-bytes");
    serve_http(world.pod("backend"), HTTP);
    let _agent = world.start(NOT_ONE_NAME, &[]);
    for round in 0..20 {
        let to = world.backend()[round % 2];
        let mut stream = connect(world.pod("frontend"), to, PORT, PATIENCE).expect("it accepts");
        assert_eq!(exchange(&mut stream, PATIENCE), Met::Answer, "an echo");
        if round % 4 < 2 {
            let linger = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            linger.expect("a socket of ours");
        }
        drop(stream);
        // Here the pod ends the connection first.
        let stream = from_pod(&world, "frontend", to);
        let mut all = String::new();
        (&stream)
            .write_all(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n")
            .expect("sent");
        (&stream)
            .read_to_string(&mut all)
            .expect("an answer to its end");
        assert!(all.contains(" 200 "), "{all}");
    }
    assert!(
        until(Duration::from_secs(2), || connections_of(&world) == 0),
        "the pod's connections are not ended: {:?}",
        world.pod("backend").netns.enter(tcp_sockets)
    );
    assert_nothing_was_foreign(&world);
}

#[test]
fn what_a_killed_agent_has_left_ends_as_well() {
    if !possible() {
        return;
    }
    let world = World::new("lv-widow");
    let backend = world.pod("backend");
    let listener = backend.netns.enter(|| {
        let any = (IpAddr::from([0u16; 8]), HTTP);
        std::net::TcpListener::bind(any)
    });
    let listener = listener.expect("the port is free");
    let (end, ended) = std::sync::mpsc::channel::<()>();
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client comes");
        // All of the request: what is not read would make a reset of the end.
        let lines = BufReader::new(&stream).lines().map_while(Result::ok);
        let _head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        (&stream).write_all(ANSWER).expect("the proxy reads");
        // The pod takes its time to end what the proxy has ended.
        let _told = ended.recv();
    });
    let agent = world.start(ANYBODYS_GET, &[]);
    let stream = from_pod(&world, "frontend", world.backend()[0]);
    assert_eq!(ask(&stream, "GET"), "200");
    agent.kill().expect("our own process");
    let _agent = world.start(ANYBODYS_GET, &[]);
    // It has looked at the sockets by now, more than once.
    thread::sleep(Duration::from_secs(2));
    drop(end);
    assert!(
        until(Duration::from_secs(2), || connections_of(&world) == 0),
        "the pod's connection is not ended: {:?}",
        backend.netns.enter(tcp_sockets)
    );
    assert_nothing_was_foreign(&world);
}

#[test]
fn a_client_that_comes_back_from_the_same_port_is_served() {
    if !possible() {
        return;
    }
    let world = World::new("lv-again");
    serve(world.pod("backend"));
    let _agent = world.start(ANYBODYS_GET, &[]);
    let to = SocketAddr::new(world.backend()[0], HTTP);
    for round in 0..20 {
        let mut stream = None;
        let mut connect = || {
            stream = from_port(&world.pod("frontend").netns, to, 41_000).ok();
            stream.is_some()
        };
        // A process that another test is starting may hold the old connection for a moment.
        assert!(until(PATIENCE, &mut connect), "the client's port is free");
        let stream = stream.expect("it has just been made");
        assert_eq!(ask(&stream, "GET"), "200", "round {round}");
        // A reset: nothing of it lingers on the client's side, and the leg to the pod still stands.
        let linger = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        linger.expect("a socket of ours");
    }
    assert_eq!(world.counted("reply_refused"), 0);
    assert_eq!(world.counted("foreign_proxy_packet"), 0);
}

#[test]
fn a_flood_of_opening_segments_locks_nobody_out() {
    if !possible() {
        return;
    }
    // More than wait for an accept: the kernel answers the later ones with cookies.
    const SEGMENTS: u32 = 6_000;
    let mut world = World::new("lv-flood");
    world.net.with_remote().expect("a remote node");
    serve(world.pod("backend"));
    let _agent = world.start(ANYBODYS_GET, &[]);
    let backend = world.pod("backend").v4;
    let remote = world.net.remote.as_ref().expect("just made");
    let get = |why: &str| {
        let to = SocketAddr::new(backend.into(), HTTP);
        let stream = remote.enter(|| TcpStream::connect_timeout(&to, PATIENCE));
        let stream = stream.unwrap_or_else(|error| {
            let counters = world.home.status().map(|s| s["counters"].clone());
            panic!("{why}: {error}; {counters:?}")
        });
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        assert_eq!(ask(&stream, "GET"), "200", "{why}");
    };
    get("before the flood");
    let socket = remote.enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)));
    let socket = socket.expect("root may");
    socket.set_header_included_v4(true).expect("root may");
    for number in 0..SEGMENTS {
        // Nobody answers for these addresses: each request waits for its time-out.
        let last = u8::try_from(3 + number % 200).expect("small");
        let port = u16::try_from(1_024 + number / 200).expect("small");
        let segment = opening((Ipv4Addr::new(192, 168, 77, last), port), (backend, HTTP));
        let to = SocketAddr::from((backend, 0)).into();
        // A full queue is a flood that is large enough.
        let _sent = socket.send_to(&segment, &to);
        if number % 1_000 == 999 {
            get("in the flood");
        }
    }
    get("after the flood");
    assert!(
        entries(&world, PROXY) < 100,
        "who only opens takes no room: {}",
        entries(&world, PROXY)
    );
    assert_ne!(
        REMOTE_V4,
        Ipv4Addr::new(192, 168, 77, 3),
        "the client's own"
    );
    assert!(
        world.counted("steered") > u64::from(SEGMENTS) * 9 / 10,
        "the flood came through"
    );
    assert_eq!(world.counted("redirect_unavailable"), 0);
}

/// An IPv4 packet with an opening segment.
fn opening(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    const ETHERNET: usize = 14;
    let mut frame = Frame::tcp((from.0.into(), from.1), (to.0.into(), to.1), flag::SYN);
    frame.seal();
    frame.build().split_off(ETHERNET)
}

#[test]
fn a_proxied_flow_stays_proxied_until_its_end_and_then_nothing_is_left_of_it() {
    if !possible() {
        return;
    }
    let world = World::new("lv-left");
    serve(world.pod("backend"));
    let _agent = world.start(ANYBODYS_GET, &[]);
    let proxied = || {
        let status = world.home.status().expect("the agent answers");
        let pods = status["pods"].as_array().cloned().unwrap_or_default();
        let pod = pods.into_iter().find(|p| p["name"] == "default/backend");
        pod.expect("it is guarded")["proxied"] == true
    };
    let streams = world.backend().map(|to| from_pod(&world, "frontend", to));
    for stream in &streams {
        assert_eq!(ask(stream, "GET"), "200");
    }
    let allow = world.bundle("allow.bin", ONLY_FRONTEND);
    world.home.load(&allow).expect("a good bundle");
    for _ in 0..15 {
        for stream in &streams {
            assert_eq!(
                ask(stream, "POST"),
                "200",
                "allowed by now, and still proxied"
            );
        }
        thread::sleep(Duration::from_secs(1));
    }
    assert!(proxied(), "two flows are open");
    drop(streams);
    assert!(
        until(Duration::from_secs(30), || !proxied()),
        "nothing asks the proxy, and no flow is left"
    );
    for to in world.backend() {
        assert_eq!(
            ask(&from_pod(&world, "frontend", to), "POST"),
            "200",
            "directly"
        );
    }
    assert_eq!(world.counted("reply_refused"), 0);
    assert_eq!(world.counted("foreign_proxy_packet"), 0);
}

#[test]
fn what_the_node_itself_asks_is_judged_as_the_nodes() {
    if !possible() {
        return;
    }
    let world = World::new("lv-node");
    serve(world.pod("backend"));
    let _agent = world.start(ONLY_THE_NODES_GET, &[]);
    let to = SocketAddr::new(world.backend()[0], HTTP);
    let stream = world
        .net
        .node
        .enter(|| TcpStream::connect_timeout(&to, PATIENCE));
    let stream = stream.expect("the proxy accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert_eq!(ask(&stream, "GET"), "200", "from {:?}", stream.local_addr());
    assert_eq!(ask(&stream, "POST"), "403");
}
