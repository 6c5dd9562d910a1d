//! What a pod itself sends is refused before the node's stack has seen it. The pod must hear of that
//! on every kind of node, also where the stack drops what its connection tracking does not know.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener},
    path::Path,
    thread,
};

use aya::maps::{Array, Map, MapData};
use enforcer_ebpf::packet::parse;
use tests::{live::three_pods_on, netns::run, ready::skipped, topology::Layout, wire::Wire};

use super::{
    paths::{DROP_INVALID, nft},
    *,
};

/// Where backend sends without being asked.
const NEWS: u16 = PORT + 1;

/// How long whom policy has cut off may go on waiting.
const SOON: Duration = Duration::from_secs(1);

const LAYOUTS: [(&str, Layout); 3] = [
    ("lv-rstrouted", Layout::Routed),
    (
        "lv-rstbridge",
        Layout::Bridge {
            calls_netfilter: false,
        },
    ),
    (
        "lv-rstcalls",
        Layout::Bridge {
            calls_netfilter: true,
        },
    ),
];

/// A node of that layout that drops what is invalid, or none.
fn strict(what: &str, layout: Layout) -> Option<World> {
    if run(Command::new("nft").arg("--version")).is_err() {
        skipped("no nft on this machine");
        return None;
    }
    let world = World::on(three_pods_on(what, layout).expect("a node with three pods"));
    nft(&world, DROP_INVALID);
    Some(world)
}

/// Takes one connection on backend, and sends to it without a pause until it is over.
fn tell_news(world: &World) -> thread::JoinHandle<()> {
    let any = (IpAddr::from([0u16; 8]), NEWS);
    let listener = world.pod("backend").netns.enter(|| TcpListener::bind(any));
    let listener = listener.expect("the port is free");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client comes");
        // What was not acknowledged must not hold back what follows.
        stream.set_nodelay(true).expect("a socket");
        while stream.write_all(b"news").is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    })
}

#[test]
fn a_pod_that_goes_on_sending_after_a_deny_is_told() {
    if !possible() {
        return;
    }
    for (what, layout) in LAYOUTS {
        let Some(world) = strict(what, layout) else {
            return;
        };
        let _agent = world.start(ONLY_FRONTEND, &[]);
        let nobody = world.bundle("nobody.bin", NOBODY);
        let all = world.bundle("first.bin", ONLY_FRONTEND);
        for to in world.backend() {
            let news = tell_news(&world);
            let stream = connect(world.pod("frontend"), to, NEWS, PATIENCE);
            let mut stream = stream.expect("frontend is allowed");
            stream.read_exact(&mut [0; 16]).expect("there are news");
            let from = stream.local_addr().expect("it is connected").port();
            let wire = Wire::open(&world.pod("backend").netns, "eth0").expect("its device");
            let mut reader = stream.try_clone().expect("a socket");
            let reading = thread::spawn(move || reader.read_to_end(&mut Vec::new()));
            world.home.load(&nobody).expect("a good bundle");
            // The agent ends the pod's socket as well, some time; that sends resets the other way.
            let told = wire.receive(PATIENCE, |bytes| {
                let packet = parse(bytes);
                let ports = (packet.source_port, packet.destination_port);
                packet.reject.is_none() && packet.bare_reset() && ports == (from, NEWS)
            });
            assert!(told.is_some(), "{layout:?}, {to}: the pod is told nothing");
            news.join().expect("no panic");
            // A client that only listens has sent nothing that could have been refused.
            let _gone_already = stream.shutdown(Shutdown::Both);
            let _read = reading.join().expect("no panic");
            world.home.load(&all).expect("a good bundle");
        }
    }
}

/// What a connection of frontend's that only listens to backend's news meets after policy has ceased to
/// allow it, and backend, which may not know of that.
fn only_listens(
    world: &World,
    to: IpAddr,
    nobody: &Path,
) -> (Result<usize, ErrorKind>, thread::JoinHandle<()>) {
    let news = tell_news(world);
    let stream = connect(world.pod("frontend"), to, NEWS, PATIENCE);
    let mut stream = stream.expect("frontend is allowed");
    stream.read_exact(&mut [0; 16]).expect("there are news");
    world.home.load(nobody).expect("a good bundle");
    let limit = Some(SOON);
    stream.set_read_timeout(limit).expect("a socket");
    let until = Instant::now() + SOON;
    let met = loop {
        match stream.read(&mut [0; 1024]) {
            // Sent before.
            Ok(read) if read > 0 && Instant::now() < until => {}
            met => break met,
        }
    };
    (met.map_err(|error| error.kind()), news)
}

#[test]
fn a_client_that_only_listens_is_told() {
    if !possible() {
        return;
    }
    for (what, layout) in LAYOUTS {
        let what = what.replace("rst", "lst");
        let Some(world) = strict(&what, layout) else {
            return;
        };
        let _agent = world.start(ONLY_FRONTEND, &[]);
        let nobody = world.bundle("nobody.bin", NOBODY);
        let all = world.bundle("first.bin", ONLY_FRONTEND);
        for to in world.backend() {
            let (met, news) = only_listens(&world, to, &nobody);
            assert_eq!(met, Err(ErrorKind::ConnectionReset), "{layout:?}, {to}");
            news.join().expect("backend is told as well");
            world.home.load(&all).expect("a good bundle");
        }
    }
}

#[test]
fn a_client_that_only_listens_is_told_nothing_where_refusals_are_silent() {
    if !possible() {
        return;
    }
    let world = World::on(three_pods_on("lv-lstdrop", Layout::Routed).expect("a node"));
    let _agent = world.start(ONLY_FRONTEND, &["--refuse=drop"]);
    let nobody = world.bundle("nobody.bin", NOBODY);
    let to = world.backend()[0];
    let (met, _goes_on) = only_listens(&world, to, &nobody);
    assert_eq!(met, Err(ErrorKind::WouldBlock), "nothing comes");
}

#[test]
fn a_pod_that_opens_too_many_connections_is_told() {
    if !possible() {
        return;
    }
    for (what, layout) in LAYOUTS {
        let Some(world) = strict(what, layout) else {
            return;
        };
        let _server = Echo::start(world.pod("other"), 9090).expect("the port is free");
        let agent = world.start(NOBODY, &[]);
        let call = |to| try_once(world.pod("backend"), to, 9090, PATIENCE);
        let other = world.pod("other").addresses();
        assert_eq!(other.map(call), [Met::Answer; 2], "{layout:?}");
        // An agent would count anew.
        agent.kill().expect("our own process");
        let pin = world.home.pins().join("v1/maps/OUT_COUNT");
        let counts = Map::from_map_data(MapData::from_pin(pin).expect("it is pinned"));
        let counts = Array::<_, u64>::try_from(counts.expect("it is an array"));
        let mut counts = counts.expect("of 64-bit counts");
        for slot in 0..3 {
            counts.set(slot, u64::MAX, 0).expect("it is one of ours");
        }
        assert_eq!(
            other.map(call),
            [Met::Refusal; 2],
            "{layout:?}: a full quota"
        );
    }
}
