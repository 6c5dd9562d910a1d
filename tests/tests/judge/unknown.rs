//! An interface that looks like a pod's, of which the table knows no pod: `--unknown-pod=deny`.

use enforcer_ebpf::{
    event::Hook,
    judge::{Action, features},
    reason::Reason,
    words::pod_flags,
};
use tests::frame::Frame;

use crate::world::*;

/// The server's interface is nobody's, as long as the server is not known.
fn unknown(features: u32) -> World {
    let mut world = World::new();
    world.table.pods[0].interface = 99;
    world.features = features;
    world
}

const HELD: (Action, Reason) = (Action::Drop, Reason::UnknownPod);
const OPEN: (Action, Reason) = (Action::Pass, Reason::NotEnrolled);

#[test]
fn nobody_begins_anything_with_an_unknown_pod() {
    let world = unknown(features::UNKNOWN_PODS);
    for source in [CLIENT, REMOTE, STRANGER, NODE, OUTSIDE] {
        assert_eq!(world.to(source, ALLOWED, SYN), HELD, "from {source}");
        assert_eq!(unknown(0).to(source, ALLOWED, SYN), OPEN, "from {source}");
    }
    // It may hide what opens a connection.
    let refused = (Action::Drop, Reason::BadFlags);
    assert_eq!(world.to(REMOTE, ALLOWED, SYN | RST), refused);
    assert_eq!(unknown(0).to(REMOTE, ALLOWED, SYN | RST), OPEN);
}

#[test]
fn what_an_unknown_pod_begins_goes_on() {
    let world = nameless(unknown(features::UNKNOWN_PODS));
    assert_eq!(world.back(OUTSIDE, ALLOWED, SYN), OPEN);
    assert_eq!(world.to(OUTSIDE, ALLOWED, SYN | ACK), OPEN);
    assert_eq!(world.to(OUTSIDE, ALLOWED, ACK), OPEN);
}

const SPOOFS: (Action, Reason) = (Action::Drop, Reason::SpoofedPodSource);

/// The server's address is nobody's either, as it is in a cluster that has not told of it.
fn nameless(mut world: World) -> World {
    let stranger = world.table.v4[3].2;
    world.table.v4[0].2 = stranger;
    world
}

#[test]
fn an_unknown_pod_speaks_for_nobody_who_is_known() {
    let mut world = nameless(unknown(features::UNKNOWN_PODS));
    for source in [CLIENT, REMOTE, NODE] {
        let frame = Frame::tcp((ip(source), ALLOWED), (ip(OUTSIDE), ALLOWED), SYN);
        assert_eq!(told(world.judge(Hook::FromPod, &frame)), SPOOFS, "{source}");
        world.features = 0;
        assert_eq!(told(world.judge(Hook::FromPod, &frame)), OPEN, "{source}");
        world.features = features::UNKNOWN_PODS;
    }
}

#[test]
fn datagrams_come_in_only_where_nobody_judges_them() {
    let frame = Frame::udp((ip(REMOTE), CLIENT_PORT), (ip(SERVER), ALLOWED));
    let world = unknown(features::UNKNOWN_PODS);
    assert_eq!(told(world.judge(Hook::ToPod, &frame)), OPEN);
    let world = unknown(features::UNKNOWN_PODS | features::NON_TCP);
    assert_eq!(told(world.judge(Hook::ToPod, &frame)), HELD);
}

#[test]
fn while_a_pods_connections_are_found_nobody_opens_one() {
    let mut world = World::new();
    world.flag(pod_flags::SEEDING);
    let spared = (Action::Pass, Reason::Paused);
    assert_eq!(world.to(REMOTE, DENIED, SYN), spared);
    assert_eq!(world.to(REMOTE, DENIED, ACK), spared);
    world.features = features::UNKNOWN_PODS;
    let refused = (Action::Refuse, Reason::Denied);
    assert_eq!(world.to(REMOTE, DENIED, SYN), refused, "it is new");
    assert_eq!(
        world.to(REMOTE, DENIED, ACK),
        spared,
        "it may be the pod's own"
    );
    world.flag(pod_flags::PAUSED);
    assert_eq!(
        world.to(REMOTE, DENIED, SYN),
        spared,
        "an operator wishes so"
    );
}
