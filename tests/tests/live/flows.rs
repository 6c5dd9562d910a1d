//! What is remembered about the connections that pods opened, when something about it is wrong.

use std::net::TcpStream;

use aya::maps::{Array, Map, MapData};
use enforcer::{
    flows::{OutFlows, Owner},
    netns::Netns,
};

use super::*;

/// A map that an agent has pinned.
#[track_caller]
fn pinned(world: &World, name: &str) -> MapData {
    let path = world.home.pins().join("v1/maps").join(name);
    MapData::from_pin(path).expect("it is pinned")
}

#[test]
fn a_count_that_a_crash_left_below_nothing_is_set_right() {
    if !possible() {
        return;
    }
    let world = World::new("lv-count");
    let _other_server = Echo::start(world.pod("other"), 9090).expect("the port is free");
    let v4 = world.pod("other").v4.into();
    let agent = world.start(NOBODY, &[]);
    agent.kill().expect("our own process");
    let counts = Map::from_map_data(pinned(&world, "OUT_COUNT")).expect("it is an array");
    let mut counts: Array<_, u64> = counts.try_into().expect("of 64-bit counts");
    for slot in 0..3 {
        counts.set(slot, u64::MAX, 0).expect("it is one of ours");
    }
    let met = try_once(world.pod("backend"), v4, 9090, PATIENCE);
    assert_eq!(met, Met::Refusal, "a full quota, as the kernel reads it");
    let _agent = world.start(NOBODY, &[]);
    assert!(
        until(PATIENCE, || {
            try_once(world.pod("backend"), v4, 9090, PATIENCE) == Met::Answer
        }),
        "the entries themselves are counted"
    );
}

#[test]
fn a_pod_that_cannot_be_asked_does_not_keep_others_from_being_cleaned() {
    if !possible() {
        return;
    }
    let world = World::new("lv-clean");
    let agent = world.start(ONLY_FRONTEND, &[]);
    let backend = world.pod("backend").v4.into();
    let _server = Echo::start(world.pod("frontend"), PORT).expect("the port is free");
    let frontend = world.pod("frontend").v4.into();
    // Both connections are over at once; what is remembered of them is not.
    let call = |from, to| connect(world.pod(from), to, PORT, PATIENCE).map(|_: TcpStream| ());
    call("backend", frontend).expect("a pod may call others");
    call("frontend", backend).expect("frontend is allowed");
    agent.kill().expect("our own process");

    let map = Map::from_map_data(pinned(&world, "OUT")).expect("it is a hash");
    let mut flows = OutFlows::new(map, &pinned(&world, "OUT_COUNT")).expect("as the agent does");
    // Slots go by names.
    let counts = |flows: &OutFlows| [flows.count(0), flows.count(1)];
    assert_eq!(counts(&flows), [1, 1], "of backend and of frontend");
    let open = |path: &Path| Netns::open(path).expect("a file of namespaces");
    let not_one = open(Path::new("/proc/self/ns/mnt"));
    let frontends = open(&world.pod("frontend").netns_path());
    let addresses = [world.pod("backend"), world.pod("frontend")].map(Pod::addresses);
    let owners = [(0, &not_one), (1, &frontends)].map(|(slot, netns)| Owner {
        slot,
        addresses: &addresses[slot as usize],
        netns: Some(netns),
    });
    // Young entries are kept: their sockets may not be in the tables yet.
    let forgotten = until(Duration::from_secs(30), || {
        flows.clean(&owners).expect("one pod is no reason to stop") == 1
    });
    assert!(forgotten, "frontend's connection is over");
    assert_eq!(counts(&flows), [1, 0], "backend's may not be");
}
