//! A pod is there before the API server tells of its address.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
};

use tests::{
    kube::double::Double,
    live::traffic::{connect, connect_from},
};

use super::{double::joined, *};

/// An address of the node that no pod has, see [`Topology`].
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NODE_PORT: u16 = 9090;

fn has(world: &World, interface: &str) -> bool {
    let status = world.home.status().expect("the agent answers");
    let unknown = status["unknown"].as_array().cloned().unwrap_or_default();
    unknown.iter().any(|name| name == interface)
}

fn counted(world: &World) -> u64 {
    world
        .home
        .counter("unknown_pod")
        .expect("the agent answers")
}

/// A world whose `backend` the API server does not tell of, and whoever else there is.
fn untold(what: &str) -> Option<(World, Double)> {
    let (world, double) = joined(what)?;
    assert!(double.remove("pods", "default", "backend"));
    Some((world, double))
}

#[test]
fn nobody_reaches_a_pod_before_it_is_known_and_policy_counts_when_it_is() {
    let Some((world, double)) = untold("kb-unknown") else {
        return;
    };
    double.set("authorizationpolicies", policy(NOT_OTHER));
    let agent = world.follow(&double.kubeconfig(), &[]);
    assert!(has(&world, "vbackend"), "{}", world.said());
    world.becomes("frontend", Met::Silence, "nobody can tell who it is");
    assert!(counted(&world) > 0, "with a reason of its own");
    let verdict = world.verdict("frontend");
    assert_eq!(verdict["datapath"], "unknown_pod", "{verdict}");
    assert_eq!(verdict["verdict"], "deny", "{verdict}");

    // What it begins itself goes on, and outlives that it becomes known.
    let node = &world.net.node;
    let listener = node.enter(|| TcpListener::bind((NODE, NODE_PORT)));
    let listener = listener.expect("the port is free");
    let own = connect(world.net.get("backend"), NODE.into(), NODE_PORT, PATIENCE);
    let mut own = own.expect("its own connection, answers included");
    let (mut accepted, _) = listener.accept().expect("it has come");

    // Nobody asks for the kernel's programs to be there.
    agent.kill().expect("our own process");
    world.becomes("frontend", Met::Silence, "without an agent as well");
    let _agent = world.follow(&double.kubeconfig(), &[]);
    world.becomes("frontend", Met::Silence, "and with the next one");

    double.set("pods", world.pod("backend"));
    world.becomes("frontend", Met::Answer, "it is known, and nobody denies it");
    world.expect("other", Met::Refusal, "a policy does");
    assert!(!has(&world, "vbackend"), "{}", world.said());
    accepted
        .write_all(b"late\n")
        .expect("the connection stands");
    let mut late = [0; 5];
    own.read_exact(&mut late)
        .expect("an answer to the pod's own");

    assert!(double.remove("pods", "default", "backend"));
    world.becomes("frontend", Met::Silence, "it is nobody's once more");
}

#[test]
fn an_interface_that_comes_later_is_held_until_it_is_known_and_let_go_when_it_goes() {
    let Some((mut world, double)) = joined("kb-later") else {
        return;
    };
    let _agent = world.follow(&double.kubeconfig(), &[]);
    let (v4, v6) = ([10, 88, 0, 9], "fd88::9".parse().expect("an address"));
    world.net.pod("late", v4.into(), v6).expect("it is free");
    let _server = Echo::start(world.net.get("late"), PORT).expect("the port is free");
    let held = until(NEWS, || has(&world, "vlate"));
    assert!(held, "{}", world.said());
    let met = |from: &str, wait| {
        let to = world.net.get("late").addresses();
        to.map(|address| try_once(world.net.get(from), address, PORT, wait))
    };
    assert_eq!(met("frontend", SILENCE), [Met::Silence; 2]);
    world.expect("frontend", Met::Answer, "the others are as they were");
    double.set("pods", world.pod("late"));
    let answers = until(NEWS, || met("frontend", SILENCE) == [Met::Answer; 2]);
    assert!(answers, "{}", world.said());
    assert!(double.remove("pods", "default", "late"));
    let held = until(NEWS, || has(&world, "vlate"));
    assert!(held, "nobody's again\n{}", world.said());
    assert_eq!(met("frontend", SILENCE), [Met::Silence; 2]);
    world.net.node.ip("link del vlate").expect("it is there");
    let gone = until(NEWS, || !has(&world, "vlate"));
    assert!(gone, "{}", world.said());
}

#[test]
fn where_unknown_pods_are_allowed_they_are_open() {
    let Some((world, double)) = untold("kb-allow") else {
        return;
    };
    let agent = world.follow(&double.kubeconfig(), &["--unknown-pod", "allow"]);
    world.expect("frontend", Met::Answer, "nobody says that it is one");
    assert!(!has(&world, "vbackend"), "it is not looked for");
    assert_eq!(counted(&world), 0);
    agent.kill().expect("our own process");
    // What is counted and told in audit mode goes through.
    let _agent = world.follow(&double.kubeconfig(), &["--mode", "audit"]);
    assert!(has(&world, "vbackend"), "{}", world.said());
    world.expect("frontend", Met::Answer, "audit refuses nothing");
    let verdict = world.verdict("frontend");
    assert_eq!(verdict["datapath"], "audit_would_deny", "{verdict}");
}

#[test]
fn what_is_no_pods_is_left_alone() {
    let Some((mut world, double)) = joined("kb-uplink") else {
        return;
    };
    // A pair into another namespace, with nothing of the pods' ranges behind it.
    world.net.with_remote().expect("a remote node");
    let _agent = world.follow(&double.kubeconfig(), &[]);
    assert!(!has(&world, "up0"), "{}", world.said());
    let remote = world.net.remote.as_ref().expect("it was just made");
    let listener = remote.enter(|| TcpListener::bind(("0.0.0.0", NODE_PORT)));
    let _listener = listener.expect("the port is free");
    let to = tests::topology::REMOTE_V4.into();
    let reached = connect_from(&world.net.node, to, NODE_PORT, PATIENCE);
    reached.expect("the uplink is nobody's pod");
}
