//! What the table, the addresses and the interfaces decide.

use enforcer_ebpf::{
    event::Hook,
    flow::{MADE_BY_NOBODY, MADE_BY_NODE},
    judge::{Action, Flows as _, features, judge_to_pod},
    packet::parse,
    reason::Reason,
    words::{options, pod_flags},
};
use tests::frame::{Fragment, Frame, tcp_segment};

use crate::world::*;

#[test]
fn a_connection_meets_the_table_on_every_packet_in_both_directions() {
    let world = World::new();
    for flags in [SYN, ACK] {
        assert_eq!(
            world.to(REMOTE, ALLOWED, flags),
            (Action::Pass, Reason::Allowed)
        );
        assert_eq!(
            world.to(REMOTE, DENIED, flags),
            (Action::Refuse, Reason::Denied)
        );
        assert_eq!(
            world.to(REMOTE, ASKED, flags),
            (Action::Steer, Reason::Steered)
        );
    }
    assert_eq!(
        world.back(REMOTE, ALLOWED, ACK),
        (Action::Pass, Reason::Allowed)
    );
    // After a DENY the pod must not go on pushing data.
    assert_eq!(
        world.back(REMOTE, DENIED, ACK),
        (Action::Refuse, Reason::ReplyRefused)
    );
    assert!(
        world.flows.memory.borrow().out.is_empty(),
        "no remote sender makes an entry"
    );
}

#[test]
fn a_bare_reset_passes_where_data_is_refused() {
    let world = World::new();
    assert_eq!(
        world.to(REMOTE, DENIED, RST),
        (Action::Pass, Reason::BareReset)
    );
    assert_eq!(
        world.back(REMOTE, DENIED, RST),
        (Action::Pass, Reason::BareReset)
    );
    let mut loaded = request(REMOTE, DENIED, RST);
    loaded.body = tcp_segment(CLIENT_PORT, DENIED, RST, 10);
    assert_eq!(
        told(world.judge(Hook::ToPod, &loaded)),
        (Action::Refuse, Reason::Denied)
    );
}

#[test]
fn a_local_address_is_believed_from_its_own_interface_or_bridge_alone() {
    for (ingress, expected) in [
        (CLIENT_IF, (Action::Pass, Reason::Allowed)),
        (BRIDGE, (Action::Pass, Reason::Allowed)),
        (SERVER_IF, (Action::Drop, Reason::SpoofedLocalSource)),
        (UPLINK, (Action::Drop, Reason::SpoofedLocalSource)),
        (0, (Action::Drop, Reason::SpoofedLocalSource)),
    ] {
        let world = World::new().from(ingress);
        assert_eq!(world.to(CLIENT, ALLOWED, SYN), expected, "from {ingress}");
    }
}

#[test]
fn masqueraded_pods_keep_the_identity_of_their_interface() {
    // The node's own address may do nothing, the client may.
    let world = World::new().from(CLIENT_IF);
    assert_eq!(
        world.to(NODE, ALLOWED, SYN),
        (Action::Pass, Reason::Allowed)
    );
    assert_eq!(
        world.back(NODE, ALLOWED, ACK),
        (Action::Pass, Reason::Allowed),
        "and its answers"
    );
    assert_eq!(
        world.flows.masqueraded_by(&key(NODE, ALLOWED)),
        Some(1),
        "by the client's slot"
    );
    let lost = World::new().from(BRIDGE);
    let judgement = lost.judge(Hook::ToPod, &request(NODE, ALLOWED, SYN));
    assert_eq!(
        told(judgement),
        (Action::Refuse, Reason::Denied),
        "without identity"
    );
    assert!(judgement.masqueraded, "and warned about");
}

#[test]
fn who_hides_behind_the_nodes_address_is_remembered_for_the_proxy() {
    for (ingress, remote, maker) in [
        (CLIENT_IF, NODE, Some(1)),
        // Whatever address the node has given it.
        (CLIENT_IF, OUTSIDE, Some(1)),
        (0, NODE, Some(MADE_BY_NODE)),
        (BRIDGE, NODE, Some(MADE_BY_NOBODY)),
        (UPLINK, NODE, Some(MADE_BY_NOBODY)),
        (UPLINK, REMOTE, None),
        (CLIENT_IF, CLIENT, None),
    ] {
        let mut world = World::new().from(ingress);
        // Here the node may ask as well: its class is anybody's.
        world.table.scopes[0].classes.clear();
        let why = format!("{remote} from {ingress}");
        assert_eq!(world.to(remote, ASKED, SYN).0, Action::Steer, "{why}");
        let noted = |world: &World, port| world.flows.masqueraded_by(&key(remote, port));
        assert_eq!(noted(&world, ASKED), maker, "{why}");
        world.to(remote, ALLOWED, SYN);
        let pods = maker.filter(|maker| *maker < MADE_BY_NOBODY);
        assert_eq!(
            noted(&world, ALLOWED),
            pods,
            "{why}: the node's own flows are of no use to anybody where nothing is asked"
        );
        for port in [ASKED, ALLOWED] {
            world.flows.note_masqueraded(&key(remote, port), 0);
            world.to(remote, port, SYN);
            let stale = noted(&world, port) == Some(0);
            let told = port == ALLOWED && maker.is_none();
            assert_eq!(stale, told, "{why}: an older flow speaks for this one");
        }
    }
}

#[test]
fn the_node_is_asked_of_the_host_scope_first_and_not_exempt() {
    let mut world = World::new().from(0);
    assert_eq!(
        world.to(NODE, DENIED, SYN).0,
        Action::Refuse,
        "no host scope"
    );
    world.table.pods[0].host_scope = Some(1);
    assert_eq!(
        world.to(NODE, DENIED, SYN),
        (Action::Pass, Reason::HostProbe)
    );
    assert_eq!(
        world.back(NODE, DENIED, ACK),
        (Action::Pass, Reason::HostProbe)
    );
    assert_eq!(
        world.to(NODE, ALLOWED, SYN).0,
        Action::Refuse,
        "only declared ports"
    );
    let elsewhere = world.from(UPLINK);
    assert_eq!(
        elsewhere.to(NODE, DENIED, SYN).0,
        Action::Refuse,
        "the node's address from outside"
    );
}

#[test]
fn an_unknown_pod_is_never_judged_as_without_identity() {
    let world = World::new();
    assert_eq!(
        world.to(STRANGER, ALLOWED, SYN),
        (Action::Drop, Reason::UnknownIdentity)
    );
    assert_eq!(
        world.to(STRANGER, ALLOWED, ACK),
        (Action::Refuse, Reason::UnknownIdentity)
    );
    assert_eq!(
        world.to(OUTSIDE, ALLOWED, SYN),
        (Action::Pass, Reason::Allowed)
    );
    assert_eq!(
        world.back(STRANGER, ALLOWED, ACK),
        (Action::Refuse, Reason::UnknownIdentity),
        "and its answers are refused for the same reason"
    );
}

#[test]
fn the_pod_is_found_by_its_interface_and_answers_for_its_own_addresses() {
    let mut world = World::new();
    let foreign = Frame::tcp((ip(REMOTE), 1), (ip(CLIENT), ALLOWED), SYN);
    let refused = (Action::Drop, Reason::ForeignDestination);
    assert_eq!(told(world.judge(Hook::ToPod, &foreign)), refused);
    world.flag(pod_flags::GATEWAY);
    assert_eq!(
        told(world.judge(Hook::ToPod, &foreign)).0,
        Action::Pass,
        "a gateway forwards"
    );
    world.table.pods[0].interface = 99;
    assert_eq!(
        world.to(REMOTE, DENIED, SYN),
        (Action::Pass, Reason::NotEnrolled)
    );
}

#[test]
fn later_fragments_meet_what_the_first_one_met() {
    for (port, action) in [
        (ALLOWED, Action::Pass),
        (DENIED, Action::Refuse),
        (ASKED, Action::Steer),
    ] {
        let world = World::new();
        let mut frame = request(REMOTE, port, ACK);
        frame.body = tcp_segment(CLIENT_PORT, port, ACK, 100);
        let part = |offset, more| Fragment {
            id: 3,
            offset,
            more,
        };
        let mut later = frame.clone();
        later.fragment = Some(part(15, false));
        let unknown = (Action::Drop, Reason::UnknownFragment);
        assert_eq!(
            told(world.judge(Hook::ToPod, &later)),
            unknown,
            "before the first"
        );
        frame.fragment = Some(part(0, true));
        let first = world.judge(Hook::ToPod, &frame);
        assert_eq!(first.action, action);
        let next = world.judge(Hook::ToPod, &later);
        assert_eq!(
            (next.action, next.reason, next.cell),
            (first.action, first.reason, first.cell)
        );
        later.fragment = Some(Fragment {
            id: 4,
            ..part(15, false)
        });
        assert_eq!(
            told(world.judge(Hook::ToPod, &later)),
            unknown,
            "of another datagram"
        );
    }
}

#[test]
fn roll_out_modes_hold_for_later_fragments_too() {
    let mut later = request(REMOTE, DENIED, ACK);
    later.body = tcp_segment(CLIENT_PORT, DENIED, ACK, 100);
    let part = |offset, more| Fragment {
        id: 3,
        offset,
        more,
    };
    let mut first = later.clone();
    first.fragment = Some(part(0, true));
    later.fragment = Some(part(15, false));
    for (options, flags, expected) in [
        (options::AUDIT_MODE, 0, Reason::AuditWouldDeny),
        (0, pod_flags::PAUSED, Reason::Paused),
    ] {
        let mut world = World::new();
        for seen in [false, true] {
            if seen {
                let refused = told(world.judge(Hook::ToPod, &first));
                assert_eq!(refused, (Action::Refuse, Reason::Denied));
            }
            let enforced = (world.table.options, world.table.pods[0].flags);
            world.table.options |= options;
            world.flag(flags);
            assert_eq!(
                told(world.judge(Hook::ToPod, &later)),
                (Action::Pass, expected),
                "first one seen: {seen}"
            );
            let mut back = later.clone();
            (back.source, back.destination) = (later.destination, later.source);
            assert_eq!(
                told(world.judge(Hook::FromPod, &back)),
                (Action::Pass, expected),
                "first one seen: {seen}"
            );
            (world.table.options, world.table.pods[0].flags) = enforced;
        }
    }
}

#[test]
fn a_table_of_another_version_is_not_read() {
    let world = World::new();
    let mut words = world.table.build();
    words[1] += 1;
    let packet = parse(&request(REMOTE, ALLOWED, SYN).build()[..]);
    let judged = judge_to_pod(&packet, &words[..], &world.flows, &world.place(SERVER_IF));
    assert_eq!(told(judged), (Action::Drop, Reason::NoTable));
}

#[test]
fn a_remote_pod_is_believed_by_a_trusted_uplink_alone_where_that_is_asked_for() {
    let mut world = World::new();
    let refused = (Action::Drop, Reason::UntrustedPath);
    let passed = (Action::Pass, Reason::Allowed);
    assert_eq!(world.to(REMOTE, ALLOWED, SYN), passed, "not asked for");
    world.features = features::UPLINKS;
    for flags in [SYN, ACK, RST] {
        assert_eq!(
            world.to(REMOTE, ALLOWED, flags),
            refused,
            "no device is there"
        );
    }
    world.table.uplinks = vec![UPLINK + 1, UPLINK];
    assert_eq!(world.to(REMOTE, ALLOWED, SYN), passed);
    assert_eq!(world.to(OUTSIDE, ALLOWED, SYN), passed, "no pod's identity");
    for (ingress, expected) in [(UPLINK + 1, passed), (UPLINK + 2, refused), (0, refused)] {
        world.ingress = ingress;
        assert_eq!(world.to(REMOTE, ALLOWED, SYN), expected, "from {ingress}");
    }
    // Sixteen are looked at, and no more.
    world.table.uplinks = (1..=16).collect();
    world.ingress = 16;
    assert_eq!(world.to(REMOTE, ALLOWED, SYN), passed);
    world.ingress = CLIENT_IF;
    world.table.uplinks.clear();
    assert_eq!(world.to(CLIENT, ALLOWED, SYN), passed, "a pod of this node");
}
