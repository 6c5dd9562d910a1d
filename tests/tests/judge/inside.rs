//! A hook in the pod's own namespace, and the node's question whether a hook is on the path.

use enforcer_ebpf::{
    event::Hook,
    judge::{Action, Judgement, Place, features, judge_to_pod},
    packet::{flag, parse, protocol::SELF_TEST},
    reason::Reason,
    words::header,
};
use tests::frame::Frame;

use super::world::*;

/// Judged where neither the way in nor the proxy is to be seen.
fn inside(frame: &Frame, bits: u32) -> (Action, Reason) {
    let world = World::new();
    let place = Place {
        interface: SERVER_IF,
        ingress: 0,
        l7: 0,
        rejects: 0,
        features: bits,
    };
    let packet = parse(&frame.build()[..]);
    told(judge_to_pod(
        &packet,
        &world.table.build()[..],
        &world.flows,
        &place,
    ))
}

#[test]
fn inside_a_local_pods_address_is_believed_and_refusals_are_silent() {
    let cases = [
        (CLIENT, ALLOWED, Action::Pass, Reason::Allowed),
        (REMOTE, ALLOWED, Action::Pass, Reason::Allowed),
        (CLIENT, DENIED, Action::Drop, Reason::Denied),
        (CLIENT, ASKED, Action::Drop, Reason::RedirectUnavailable),
        (STRANGER, ALLOWED, Action::Drop, Reason::UnknownIdentity),
        (NODE, DENIED, Action::Drop, Reason::Denied),
    ];
    for (source, port, action, reason) in cases {
        let frame = request(source, port, flag::SYN);
        let met = inside(&frame, features::INSIDE);
        assert_eq!(met, (action, reason), "from {source} to {port}");
    }
    let frame = request(CLIENT, ALLOWED, flag::SYN);
    let outside = inside(&frame, 0);
    let spoofed = (Action::Drop, Reason::SpoofedLocalSource);
    assert_eq!(outside, spoofed, "the node has not sent it");
    // By which uplink a remote pod's packet came is not to be seen.
    let frame = request(REMOTE, ALLOWED, flag::SYN);
    let met = inside(&frame, features::INSIDE | features::UPLINKS);
    assert_eq!(met, (Action::Drop, Reason::UntrustedPath));
}

#[test]
fn only_the_node_may_ask_the_hook() {
    let question = |source: u8| {
        let mut frame = Frame::udp((ip(source), 1), (ip(SERVER), 2));
        frame.protocol = SELF_TEST;
        frame
    };
    let asked = |source: u8, ingress: u32| -> Judgement {
        World::new()
            .from(ingress)
            .judge(Hook::ToPod, &question(source))
    };
    let answered = asked(NODE, 0);
    assert_eq!(told(answered), (Action::Drop, Reason::SelfTest));
    let words = World::new().table.build();
    assert!(
        !answered.is_news(words[header::OPTIONS as usize], false),
        "nobody is told of it"
    );
    for (source, ingress) in [(NODE, UPLINK), (CLIENT, CLIENT_IF), (OUTSIDE, UPLINK)] {
        let met = told(asked(source, ingress));
        assert_eq!(met, (Action::Pass, Reason::NonTcp), "{source} by {ingress}");
    }
}
