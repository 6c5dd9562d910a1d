//! What is remembered decides, and how the node enforces.

use enforcer_ebpf::{
    event::Hook,
    flow::OUT_PER_POD_MAX,
    judge::{Action, Flows as _, Socket, judge_to_pod},
    packet::parse,
    reason::Reason,
    words::{options, pod_flags},
};
use tests::frame::Frame;

use crate::world::*;

#[test]
fn answers_to_what_the_pod_opened_pass_until_then_nothing_does() {
    let mut world = World::new();
    assert_eq!(
        world.to(REMOTE, DENIED, ACK).0,
        Action::Refuse,
        "nothing was opened"
    );
    assert_eq!(
        world.back(REMOTE, DENIED, ACK).0,
        Action::Refuse,
        "an ACK opens nothing"
    );
    assert_eq!(
        world.back(REMOTE, DENIED, SYN),
        (Action::Pass, Reason::OutboundOpened)
    );
    assert_eq!(
        world.to(REMOTE, DENIED, SYN | ACK),
        (Action::Pass, Reason::Outbound)
    );
    assert_eq!(
        world.back(REMOTE, DENIED, ACK),
        (Action::Pass, Reason::Outbound)
    );
    // Before "ask": rules without a port catch the pod's own connections too.
    assert_eq!(world.back(REMOTE, ASKED, SYN).0, Action::Pass);
    assert_eq!(
        world.to(REMOTE, ASKED, ACK),
        (Action::Pass, Reason::Outbound)
    );
    // Also from an address that nobody is known to hold.
    assert_eq!(world.back(STRANGER, DENIED, SYN).0, Action::Pass);
    assert_eq!(
        world.to(STRANGER, DENIED, ACK),
        (Action::Pass, Reason::Outbound)
    );
    world
        .flows
        .memory
        .get_mut()
        .out_count
        .insert(0, OUT_PER_POD_MAX);
    let full = world.back(OUTSIDE, DENIED, SYN);
    assert_eq!(
        full,
        (Action::Refuse, Reason::OutboundQuota),
        "a pod has its quota"
    );
    assert_eq!(
        world.back(REMOTE, DENIED, SYN).0,
        Action::Pass,
        "a known one is not counted twice"
    );
}

#[test]
fn an_opening_segment_on_a_known_tuple_asks_the_sockets() {
    for (socket, expected) in [
        (Socket::Live, (Action::Drop, Reason::SynOnLiveFlow)),
        (Socket::Opening, (Action::Pass, Reason::Outbound)),
        // A stale entry must not capture a new flow.
        (Socket::Dead, (Action::Steer, Reason::Steered)),
    ] {
        let mut world = World::new();
        world.flows.pod_socket = Some(socket);
        assert!(
            world.flows.open_out(&key(REMOTE, ASKED), 0),
            "the pod opened it"
        );
        assert_eq!(world.to(REMOTE, ASKED, SYN), expected, "{socket:?}");
        let kept = world.flows.is_out(&key(REMOTE, ASKED));
        assert_eq!(
            kept,
            socket != Socket::Dead,
            "{socket:?}: only a dead entry goes"
        );
    }
    let mut unknown = World::new();
    unknown.table.pods[0].netns_id = 0;
    unknown.flows.pod_socket = Some(Socket::Dead);
    assert!(
        unknown.flows.open_out(&key(REMOTE, ASKED), 0),
        "the pod opened it"
    );
    assert_eq!(
        unknown.to(REMOTE, ASKED, SYN).0,
        Action::Drop,
        "who cannot be asked may be alive"
    );
}

#[test]
fn a_proxied_flow_stays_proxied_when_the_table_changes_its_mind() {
    let mut world = World::new();
    assert!(
        world.flows.begin_proxied(&key(REMOTE, ALLOWED), 0),
        "room for one"
    );
    assert_eq!(
        world.to(REMOTE, ALLOWED, ACK).0,
        Action::Pass,
        "the pod's flag is not set"
    );
    world.flag(pod_flags::PROXIED);
    assert_eq!(
        world.to(REMOTE, ALLOWED, ACK),
        (Action::Steer, Reason::Proxied)
    );
    assert_eq!(
        world.back(REMOTE, ALLOWED, ACK),
        (Action::ToProxy, Reason::Proxied)
    );
    world.flows.proxy_socket = Some(Socket::Live);
    assert_eq!(
        world.to(REMOTE, ALLOWED, SYN),
        (Action::Steer, Reason::Proxied)
    );
    world.table.options = options::AUDIT_MODE;
    assert_eq!(
        world.to(REMOTE, ALLOWED, ACK).0,
        Action::Steer,
        "audit mode too keeps it"
    );
    world.flows.proxy_socket = Some(Socket::Dead);
    assert_eq!(
        world.to(REMOTE, ALLOWED, SYN),
        (Action::Pass, Reason::Allowed)
    );
    assert!(
        !world.flows.is_proxied(&key(REMOTE, ALLOWED)),
        "a dead one is forgotten"
    );
}

#[test]
fn the_proxy_reaches_a_pod_only_in_flows_it_is_known_for() {
    let world = World::new().from(L7);
    let foreign = (Action::Drop, Reason::ForeignProxyPacket);
    assert_eq!(
        world.to(REMOTE, ALLOWED, SYN),
        foreign,
        "even what the table allows"
    );
    assert_eq!(world.to(REMOTE, DENIED, RST).0, Action::Pass, "a refusal");
    world
        .flows
        .memory
        .borrow_mut()
        .upstream
        .insert(key(REMOTE, DENIED), 0);
    assert_eq!(
        world.to(REMOTE, DENIED, SYN),
        (Action::Pass, Reason::Upstream)
    );
    assert_eq!(World::new().from(REJECTS).to(REMOTE, ALLOWED, SYN), foreign);
    // An answer to a policed local client, from a service's address.
    assert!(
        world.flows.open_out(&key(OUTSIDE, DENIED), 0),
        "room for one"
    );
    assert_eq!(
        world.to(OUTSIDE, DENIED, ACK),
        (Action::Pass, Reason::Outbound)
    );
}

#[test]
fn the_proxys_answer_makes_the_entry_and_its_own_leg_is_cut_short() {
    let mut world = World::new();
    world.table.pods[0].interface = SERVER_IF;
    let from_l7 = |world: &World, frame: &Frame| world.judge(Hook::FromL7, frame);
    assert_eq!(
        from_l7(&world, &answer(REMOTE, ASKED, ACK)).action,
        Action::Pass
    );
    assert!(
        !world.flows.is_proxied(&key(REMOTE, ASKED)),
        "an ACK begins nothing"
    );
    assert_eq!(
        from_l7(&world, &answer(REMOTE, ASKED, SYN | ACK)).action,
        Action::Pass
    );
    assert!(
        world.flows.is_proxied(&key(REMOTE, ASKED)),
        "a SYN-ACK does"
    );
    world
        .flows
        .memory
        .borrow_mut()
        .upstream
        .insert(key(REMOTE, ASKED), 0);
    let leg = from_l7(&world, &request(REMOTE, ASKED, SYN));
    assert_eq!((leg.action, leg.target), (Action::ToPod, SERVER_IF));
    assert_eq!(
        from_l7(&world, &answer(CLIENT, ASKED, ACK)).action,
        Action::Pass
    );
    world.flows.note_switched(&key(CLIENT, ASKED));
    let switched = from_l7(&world, &answer(CLIENT, ASKED, ACK));
    assert_eq!(
        (switched.action, switched.target),
        (Action::ToPod, CLIENT_IF)
    );
}

#[test]
fn switched_clients_are_remembered_only_where_the_bridge_hides_them() {
    for (flags, ingress, noted) in [
        (pod_flags::SWITCHED, CLIENT_IF, true),
        (0, CLIENT_IF, false),
        (pod_flags::SWITCHED, BRIDGE, false),
    ] {
        let mut world = World::new().from(ingress);
        world.flag(flags);
        assert_eq!(world.to(CLIENT, ASKED, SYN).0, Action::Steer);
        assert_eq!(
            world.flows.is_switched(&key(CLIENT, ASKED)),
            noted,
            "{flags} {ingress}"
        );
    }
}

#[test]
fn a_pod_sends_from_its_own_address_alone_enrolled_or_not() {
    let mut world = World::new();
    let spoofed = |world: &World, source: u8| {
        let frame = Frame::tcp((ip(source), 1), (ip(REMOTE), 2), SYN);
        told(world.judge(Hook::FromPod, &frame))
    };
    let refused = (Action::Drop, Reason::SpoofedPodSource);
    for source in [CLIENT, NODE, REMOTE, STRANGER, OUTSIDE] {
        assert_eq!(spoofed(&world, source), refused, "from {source}");
    }
    assert_eq!(spoofed(&world, SERVER).0, Action::Pass);
    world.table.pods[0].flags = 0;
    assert_eq!(spoofed(&world, CLIENT), refused, "not enrolled");
    assert_eq!(spoofed(&world, SERVER), (Action::Pass, Reason::NotEnrolled));
    world.flag(pod_flags::ENROLLED | pod_flags::GATEWAY);
    assert_eq!(
        spoofed(&world, OUTSIDE).0,
        Action::Pass,
        "a gateway forwards for others"
    );
    assert_eq!(
        spoofed(&world, CLIENT),
        refused,
        "but not in another pod's name"
    );
    let local = |protocol| {
        let [source, destination] = ["fe80::1", "fe80::2"].map(|text| text.parse().expect("v6"));
        let mut frame = Frame::tcp((source, 1), (destination, 2), SYN);
        frame.protocol = protocol;
        frame
    };
    let link = World::new();
    assert_eq!(
        told(link.judge(Hook::FromPod, &local(6))),
        refused,
        "TCP is never link control"
    );
    let discovery = told(link.judge(Hook::FromPod, &local(58)));
    assert_eq!(discovery, (Action::Pass, Reason::LinkControl));
}

#[test]
fn roll_out_modes_turn_refusals_into_reports() {
    let mut world = World::new();
    world.table.options = options::AUDIT_MODE;
    assert_eq!(
        world.to(REMOTE, DENIED, SYN),
        (Action::Pass, Reason::AuditWouldDeny)
    );
    assert_eq!(
        world.to(REMOTE, ASKED, SYN),
        (Action::Pass, Reason::AuditWouldAsk)
    );
    world.table.options = options::REFUSE_DROP;
    assert_eq!(
        world.to(REMOTE, DENIED, SYN),
        (Action::Drop, Reason::Denied)
    );
    world.flag(pod_flags::PAUSED);
    assert_eq!(
        world.to(REMOTE, DENIED, SYN),
        (Action::Pass, Reason::Paused)
    );
    assert_eq!(
        world.to(REMOTE, ALLOWED, SYN),
        (Action::Pass, Reason::Allowed)
    );
}

#[test]
fn without_a_proxy_what_it_must_judge_is_refused() {
    let world = World::new();
    let words = world.table.build();
    let packet = parse(&request(REMOTE, ASKED, SYN).build()[..]);
    let mut place = world.place(SERVER_IF);
    place.l7 = 0;
    let judged = judge_to_pod(&packet, &words[..], &world.flows, &place);
    assert_eq!(told(judged), (Action::Refuse, Reason::RedirectUnavailable));
    place.rejects = 0;
    let judged = judge_to_pod(&packet, &words[..], &world.flows, &place);
    assert_eq!(
        judged.action,
        Action::Drop,
        "nobody is there to answer either"
    );
}
