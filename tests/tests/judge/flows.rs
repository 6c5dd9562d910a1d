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
    world.proxied(REMOTE, ALLOWED);
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
    world.upstream(REMOTE, DENIED);
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
fn a_new_connection_never_meets_the_leg_that_the_proxy_still_holds_to_the_pod() {
    for (client, leg, port, expected) in [
        // The client's connection is over, the leg to the pod is not: on its tuple the pod would
        // take the segment for one of that connection.
        (
            Socket::Dead,
            Socket::Live,
            ALLOWED,
            (Action::Steer, Reason::Proxied),
        ),
        (
            Socket::Dead,
            Socket::Live,
            ASKED,
            (Action::Steer, Reason::Steered),
        ),
        (
            Socket::Dead,
            Socket::Live,
            DENIED,
            (Action::Refuse, Reason::Denied),
        ),
        (
            Socket::Live,
            Socket::Dead,
            DENIED,
            (Action::Steer, Reason::Proxied),
        ),
        (
            Socket::Dead,
            Socket::Dead,
            ALLOWED,
            (Action::Pass, Reason::Allowed),
        ),
    ] {
        let mut world = World::new();
        world.flag(pod_flags::PROXIED);
        world.flows.proxy_socket = Some(client);
        world.flows.upstream_socket = Some(leg);
        world.proxied(REMOTE, port);
        world.upstream(REMOTE, port);
        let why = format!("client {client:?}, leg {leg:?}, port {port}");
        assert_eq!(world.to(REMOTE, port, SYN), expected, "{why}");
        let dead = (client, leg) == (Socket::Dead, Socket::Dead);
        assert_eq!(world.flows.is_upstream(&key(REMOTE, port)), !dead, "{why}");
    }
}

#[test]
fn a_client_never_reaches_the_leg_to_the_pod_by_itself() {
    let mut world = World::new();
    world.flag(pod_flags::PROXIED);
    world.upstream(REMOTE, ALLOWED);
    assert_eq!(
        world.to(REMOTE, ALLOWED, ACK),
        (Action::Steer, Reason::Proxied),
        "also where the table allows, and the client's own connection is over"
    );
    assert_eq!(
        world.back(REMOTE, ALLOWED, ACK),
        (Action::ToProxy, Reason::Upstream)
    );
}

#[test]
fn no_number_of_opening_segments_makes_an_entry_of_the_proxys() {
    let world = World::new();
    for flags in [SYN, SYN | ACK, ACK] {
        let frame = answer(REMOTE, ASKED, flags);
        assert_eq!(
            told(world.judge(Hook::FromL7, &frame)),
            (Action::Pass, Reason::Proxied)
        );
        world.to(REMOTE, ASKED, flags);
    }
    let memory = world.flows.memory.borrow();
    assert!(
        memory.proxied.is_empty(),
        "the proxy makes them when it accepts"
    );
}

#[test]
fn the_proxys_answer_reaches_a_policed_local_client_before_there_is_an_entry() {
    // The judged pod is the client here; it has opened a connection.
    let mut world = World::new();
    assert_eq!(world.back(REMOTE, ASKED, SYN).0, Action::Pass);
    world.ingress = L7;
    assert_eq!(
        world.to(REMOTE, ASKED, SYN | ACK),
        (Action::Pass, Reason::Outbound)
    );
}

#[test]
fn the_proxys_own_leg_is_cut_short() {
    let mut world = World::new();
    world.table.pods[0].interface = SERVER_IF;
    let from_l7 = |world: &World, frame: &Frame| world.judge(Hook::FromL7, frame);
    world.upstream(REMOTE, ASKED);
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
        // Also of a client that the table allows, and that goes through the proxy all the same.
        world.flag(pod_flags::PROXIED);
        world.upstream(CLIENT, ALLOWED);
        assert_eq!(world.to(CLIENT, ALLOWED, SYN).0, Action::Steer);
        assert_eq!(
            world.flows.is_switched(&key(CLIENT, ALLOWED)),
            noted,
            "{flags} {ingress}"
        );
        // And of one that is refused: the reset goes the way of the answers.
        for flags in [SYN, ACK] {
            let port = DENIED + u16::from(flags);
            assert_eq!(world.to(CLIENT, port, flags).0, Action::Refuse);
            assert_eq!(world.flows.is_switched(&key(CLIENT, port)), noted);
        }
    }
}

#[test]
fn a_reset_for_the_pod_goes_past_a_stack_that_has_not_seen_the_flow() {
    let reset = |world: &World, from| {
        let frame = request(from, DENIED, RST);
        world.judge(Hook::FromL7, &frame)
    };
    for (flags, remote, action) in [
        (pod_flags::SWITCHED, CLIENT, Action::ToPod),
        // The node's stack carries these, and knows them.
        (0, CLIENT, Action::Pass),
        (pod_flags::SWITCHED, REMOTE, Action::Pass),
    ] {
        let mut world = World::new();
        world.flag(flags);
        let before = reset(&world, remote).action;
        assert_eq!(before, Action::Pass, "nothing was refused yet");
        let refused = (Action::Refuse, Reason::ReplyRefused);
        assert_eq!(world.back(remote, DENIED, ACK), refused);
        let told = reset(&world, remote);
        assert_eq!(told.action, action, "{flags} {remote}");
        let target = [0, SERVER_IF][usize::from(action == Action::ToPod)];
        assert_eq!(told.target, target, "{flags} {remote}");
        let data = request(remote, DENIED, ACK);
        let data = world.judge(Hook::FromL7, &data);
        assert_ne!(data.action, Action::ToPod, "a reset only");
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
