//! Datagrams under `--non-tcp=enforce` (H4), and errors about flows (H11).

use enforcer_ebpf::{
    event::Hook,
    flow::{DATAGRAM_IDLE_SECONDS, DATAGRAMS_PER_POD_MAX},
    judge::{Action, Flows as _, features},
    packet::{Kind, parse},
    reason::Reason,
    words::pod_flags,
};
use tests::frame::{Fragment, Frame};

use crate::world::*;

const PASSED: (Action, Reason) = (Action::Pass, Reason::Allowed);
const DENIED_: (Action, Reason) = (Action::Drop, Reason::Denied);
const OPENED: (Action, Reason) = (Action::Pass, Reason::OutboundOpened);
const OUTBOUND: (Action, Reason) = (Action::Pass, Reason::Outbound);
const REPLY_REFUSED: (Action, Reason) = (Action::Drop, Reason::ReplyRefused);
const FOREIGN: (Action, Reason) = (Action::Drop, Reason::ForeignError);

fn enforcing() -> World {
    let mut world = World::new();
    world.features = features::NON_TCP;
    world
}

/// A datagram to the server pod.
fn to(world: &World, source: u8, port: u16) -> (Action, Reason) {
    let frame = Frame::udp((ip(source), CLIENT_PORT), (ip(SERVER), port));
    told(world.judge(Hook::ToPod, &frame))
}

/// A datagram from the server pod.
fn back(world: &World, destination: u8, port: u16) -> (Action, Reason) {
    let frame = Frame::udp((ip(SERVER), port), (ip(destination), CLIENT_PORT));
    told(world.judge(Hook::FromPod, &frame))
}

fn pass(world: &World, seconds: u32) {
    world.flows.memory.borrow_mut().now += seconds;
}

/// The policy for `port` turns round: what was allowed is denied.
fn deny(world: &mut World, port: u16) {
    let denied = world.table.scopes[0].ports[&CLIENT_PORT];
    world.table.scopes[0].ports.insert(port, denied);
}

#[test]
fn datagrams_pass_where_they_are_not_to_be_judged() {
    let world = World::new();
    let pass = (Action::Pass, Reason::NonTcp);
    for port in [ALLOWED, ASKED, DENIED] {
        assert_eq!(to(&world, REMOTE, port), pass);
        assert_eq!(back(&world, REMOTE, port), pass);
    }
    let echo = Frame::echo(ip(REMOTE), ip(SERVER), 7, false);
    assert_eq!(told(world.judge(Hook::ToPod, &echo)), pass);
    let memory = world.flows.memory.borrow();
    assert!(memory.datagrams_out.is_empty() && memory.datagrams_in.is_empty());
}

#[test]
fn datagrams_are_judged_by_source_and_port() {
    let world = enforcing();
    assert_eq!(to(&world, REMOTE, ALLOWED), PASSED);
    assert_eq!(to(&world, REMOTE, DENIED), DENIED_);
    let asked = (Action::Drop, Reason::DatagramNeedsProxy);
    assert_eq!(
        to(&world, REMOTE, ASKED),
        asked,
        "userspace judges TCP only"
    );
    let unknown = (Action::Drop, Reason::UnknownIdentity);
    assert_eq!(to(&world, STRANGER, ALLOWED), unknown);
    assert_eq!(to(&world, CLIENT, ALLOWED).1, Reason::SpoofedLocalSource);
    let local = enforcing().from(CLIENT_IF);
    assert_eq!(to(&local, CLIENT, ALLOWED), PASSED);
    let foreign = Frame::udp((ip(REMOTE), 1), (ip(CLIENT), ALLOWED));
    let told_ = told(world.judge(Hook::ToPod, &foreign));
    assert_eq!(told_, (Action::Drop, Reason::ForeignDestination));
    let spoofed = Frame::udp((ip(CLIENT), 1), (ip(REMOTE), 2));
    let told_ = told(world.judge(Hook::FromPod, &spoofed));
    assert_eq!(told_, (Action::Drop, Reason::SpoofedPodSource));
    // SCTP's ports lie where UDP's do.
    for (port, expected) in [(ALLOWED, PASSED), (DENIED, DENIED_)] {
        let mut sctp = Frame::udp((ip(REMOTE), 9), (ip(SERVER), port));
        sctp.protocol = 132;
        assert_eq!(told(world.judge(Hook::ToPod, &sctp)), expected);
    }
}

#[test]
fn neighbours_find_each_other_by_whatever_address_of_their_own() {
    let world = enforcing();
    let discovery = |hook, from, to| {
        let mut packet = parse(&Frame::udp((ip(from), 0), (ip(to), 0)).build()[..]);
        packet.kind = Kind::Neighbour;
        told(world.judge_packet(hook, &packet))
    };
    let passed = (Action::Pass, Reason::LinkControl);
    assert_eq!(discovery(Hook::ToPod, CLIENT, SERVER), passed);
    assert_eq!(discovery(Hook::FromPod, SERVER, CLIENT), passed);
    let spoofed = (Action::Drop, Reason::SpoofedPodSource);
    assert_eq!(discovery(Hook::FromPod, REMOTE, CLIENT), spoofed);
}

/// H4: any outgoing datagram would reopen a denied flow, if nobody knew who began it.
#[test]
fn h4_the_pods_late_datagram_does_not_reopen_a_denied_flow() {
    let mut world = enforcing();
    assert_eq!(to(&world, REMOTE, ALLOWED), PASSED);
    assert_eq!(back(&world, REMOTE, ALLOWED), PASSED, "an answer");
    deny(&mut world, ALLOWED);
    assert_eq!(to(&world, REMOTE, ALLOWED), DENIED_);
    assert_eq!(
        back(&world, REMOTE, ALLOWED),
        REPLY_REFUSED,
        "a late answer"
    );
    assert_eq!(to(&world, REMOTE, ALLOWED), DENIED_, "it opened nothing");
    assert!(world.flows.memory.borrow().datagrams_out.is_empty());
}

#[test]
fn a_stream_of_answers_keeps_the_memory_of_who_began() {
    let mut world = enforcing();
    assert_eq!(to(&world, REMOTE, ALLOWED), PASSED);
    for _ in 0..5 {
        pass(&world, DATAGRAM_IDLE_SECONDS - 1);
        assert_eq!(back(&world, REMOTE, ALLOWED), PASSED);
    }
    deny(&mut world, ALLOWED);
    assert_eq!(back(&world, REMOTE, ALLOWED), REPLY_REFUSED);
}

#[test]
fn what_a_pod_sends_first_is_answered_until_it_is_idle() {
    let world = enforcing();
    assert_eq!(to(&world, REMOTE, DENIED), DENIED_);
    assert_eq!(back(&world, REMOTE, DENIED), OPENED);
    assert_eq!(to(&world, REMOTE, DENIED), OUTBOUND);
    assert_eq!(back(&world, REMOTE, DENIED), OUTBOUND);
    for _ in 0..3 {
        pass(&world, DATAGRAM_IDLE_SECONDS - 1);
        assert_eq!(to(&world, REMOTE, DENIED), OUTBOUND, "it is in use");
    }
    pass(&world, DATAGRAM_IDLE_SECONDS);
    assert_eq!(to(&world, REMOTE, DENIED), DENIED_, "it is over");
    assert_eq!(
        back(&world, REMOTE, DENIED),
        OPENED,
        "the pod may begin again"
    );
    assert_eq!(to(&world, OUTSIDE, DENIED), DENIED_, "others are not meant");
    let count = |world: &World| world.flows.memory.borrow().datagrams_count[&0];
    assert_eq!(count(&world), 1, "the same flow is counted once");
}

#[test]
fn a_pod_has_a_quota_of_datagram_flows() {
    let world = enforcing();
    let full = DATAGRAMS_PER_POD_MAX;
    world
        .flows
        .memory
        .borrow_mut()
        .datagrams_count
        .insert(0, full);
    let refused = (Action::Drop, Reason::OutboundQuota);
    assert_eq!(back(&world, REMOTE, DENIED), refused);
    assert_eq!(to(&world, REMOTE, DENIED), DENIED_, "and it opened nothing");
    assert_eq!(
        back(&world, REMOTE, ALLOWED),
        PASSED,
        "where answers may come"
    );
}

#[test]
fn an_echo_is_judged_by_source_and_its_reply_begins_nothing() {
    let mut world = enforcing();
    let echo = |world: &World, inward: bool, reply: bool| {
        let (source, destination, hook) = match inward {
            true => (REMOTE, SERVER, Hook::ToPod),
            false => (SERVER, REMOTE, Hook::FromPod),
        };
        told(world.judge(
            hook,
            &Frame::echo(ip(source), ip(destination), ALLOWED, reply),
        ))
    };
    // Its identifier is no port.
    assert_eq!(echo(&world, true, false), DENIED_, "no rule without a port");
    assert_eq!(echo(&world, false, true), REPLY_REFUSED, "nobody asked");
    assert_eq!(echo(&world, true, true), DENIED_, "nor did the pod");
    assert_eq!(echo(&world, false, false), OPENED, "the pod asks");
    assert_eq!(echo(&world, true, true), OUTBOUND, "and is answered");
    let allow = world.table.scopes[0].cells[1];
    world.table.scopes[0].cells[0] = allow;
    let world = World {
        flows: Default::default(),
        ..world
    };
    assert_eq!(echo(&world, true, false), PASSED, "a rule without a port");
    assert_eq!(echo(&world, false, true), PASSED);
}

/// H14, of datagrams.
#[test]
fn later_fragments_of_datagrams_meet_what_the_first_one_met() {
    for (port, expected) in [(ALLOWED, PASSED), (DENIED, DENIED_)] {
        let world = enforcing();
        let mut frame = Frame::udp((ip(REMOTE), CLIENT_PORT), (ip(SERVER), port));
        let part = |offset, more| Fragment {
            id: 3,
            offset,
            more,
        };
        frame.fragment = Some(part(15, false));
        let unknown = (Action::Drop, Reason::UnknownFragment);
        assert_eq!(told(world.judge(Hook::ToPod, &frame)), unknown);
        frame.fragment = Some(part(0, true));
        assert_eq!(told(world.judge(Hook::ToPod, &frame)), expected);
        frame.fragment = Some(part(15, false));
        assert_eq!(told(world.judge(Hook::ToPod, &frame)), expected);
    }
}

/// A router tells the server pod that what it sent to `remote` was too large.
fn too_large(world: &World, remote: u8, port: u16) -> (Action, Reason) {
    let frame = Frame::too_large(ip(OUTSIDE), &answer(remote, port, ACK), 1400);
    told(world.judge(Hook::ToPod, &frame))
}

/// H11: an error about a proxied flow is the proxy's to hear, or its segments vanish for ever.
#[test]
fn h11_errors_go_where_the_flow_is_that_they_quote() {
    let mut world = World::new();
    assert_eq!(
        too_large(&world, REMOTE, ALLOWED),
        PASSED,
        "an allowed flow"
    );
    assert_eq!(too_large(&world, REMOTE, DENIED), FOREIGN, "a denied one");
    assert_eq!(
        too_large(&world, REMOTE, ASKED),
        (Action::Steer, Reason::Steered),
        "the proxy has answered, and not accepted yet"
    );
    assert_eq!(world.back(REMOTE, DENIED, SYN).0, Action::Pass);
    assert_eq!(too_large(&world, REMOTE, DENIED), OUTBOUND, "the pod's own");
    world.flag(pod_flags::PROXIED);
    world.proxied(OUTSIDE, ALLOWED);
    let proxied = (Action::Steer, Reason::Proxied);
    assert_eq!(
        too_large(&world, OUTSIDE, ALLOWED),
        proxied,
        "although allowed"
    );
    world.ingress = 0;
    assert_eq!(
        too_large(&world, OUTSIDE, ALLOWED),
        proxied,
        "by the node itself"
    );
    // Not back to where it comes from.
    world.ingress = L7;
    let foreign = (Action::Drop, Reason::ForeignProxyPacket);
    assert_eq!(too_large(&world, OUTSIDE, ALLOWED), foreign);
}

#[test]
fn h11_the_pods_own_errors_reach_the_proxys_leg() {
    let mut world = World::new();
    let about = |remote, port| Frame::too_large(ip(SERVER), &request(remote, port, ACK), 1400);
    let back = |world: &World, frame: &Frame| told(world.judge(Hook::FromPod, frame));
    assert_eq!(back(&world, &about(REMOTE, ALLOWED)), PASSED);
    assert_eq!(back(&world, &about(REMOTE, DENIED)), FOREIGN);
    world.flag(pod_flags::PROXIED);
    world.upstream(REMOTE, ALLOWED);
    let proxied = (Action::ToProxy, Reason::Proxied);
    assert_eq!(back(&world, &about(REMOTE, ALLOWED)), proxied);
    let mut spoofed = about(REMOTE, ALLOWED);
    spoofed.source = ip(CLIENT);
    let refused = (Action::Drop, Reason::SpoofedPodSource);
    assert_eq!(back(&world, &spoofed), refused);
}

#[test]
fn h11_errors_about_nothing_are_dropped() {
    let world = World::new();
    let to = |frame: &Frame| told(world.judge(Hook::ToPod, frame));
    let good = Frame::too_large(ip(OUTSIDE), &answer(REMOTE, ALLOWED, ACK), 1400);
    assert_eq!(to(&good), PASSED);
    let mut short = good.clone();
    short.body.truncate(8 + 20 + 7);
    assert_eq!(to(&short), FOREIGN, "no ports");
    let mut none = good.clone();
    none.body.truncate(8);
    assert_eq!(to(&none), FOREIGN, "no packet");
    let strange = Frame::too_large(ip(OUTSIDE), &request(REMOTE, ALLOWED, ACK), 1400);
    let mut strange = strange;
    strange.destination = ip(SERVER);
    assert_eq!(to(&strange), FOREIGN, "the pod did not send what it quotes");
    let mut later = answer(REMOTE, ALLOWED, ACK);
    later.fragment = Some(Fragment {
        id: 1,
        offset: 10,
        more: false,
    });
    let later = Frame::too_large(ip(OUTSIDE), &later, 1400);
    assert_eq!(to(&later), FOREIGN, "a later fragment has no ports");
    let padded = Frame {
        padding: 40,
        ..short
    };
    assert_eq!(to(&padded), FOREIGN, "what follows the packet is not of it");
}

#[test]
fn errors_about_datagrams_follow_the_datagrams() {
    let datagram = |port| {
        let about = Frame::udp((ip(SERVER), port), (ip(REMOTE), CLIENT_PORT));
        Frame::too_large(ip(OUTSIDE), &about, 1400)
    };
    let world = World::new();
    let told_ = told(world.judge(Hook::ToPod, &datagram(DENIED)));
    assert_eq!(told_, (Action::Pass, Reason::NonTcp), "not judged");
    let world = enforcing();
    assert_eq!(told(world.judge(Hook::ToPod, &datagram(DENIED))), FOREIGN);
    assert_eq!(told(world.judge(Hook::ToPod, &datagram(ALLOWED))), PASSED);
    assert_eq!(back(&world, REMOTE, DENIED), OPENED);
    assert_eq!(told(world.judge(Hook::ToPod, &datagram(DENIED))), OUTBOUND);
    assert!(
        !world.flows.is_out(&key(REMOTE, DENIED)),
        "TCP's memory is its own"
    );
}
