//! The order of judgement, rule by rule and hole by hole, on the host.

use std::net::{IpAddr, Ipv4Addr};

use enforcer_ebpf::{
    event::Hook,
    flow::{FlowKey, OUT_PER_POD_MAX},
    judge::{
        Action, Flows as _, Judgement, Place, Socket, judge_from_l7, judge_from_pod, judge_to_pod,
    },
    packet::{Packet, flag, parse},
    reason::Reason,
    words::{Address, Cell, Holder, Verdict, options, pod_flags},
};
use tests::{
    flow_model::FlowModel,
    frame::{Fragment, Frame, tcp_segment},
    table_builder::{Pod, Scope, TableBuilder},
};

const SERVER: u8 = 1;
const CLIENT: u8 = 2;
const REMOTE: u8 = 5;
const STRANGER: u8 = 9;
const NODE: u8 = 8;
const OUTSIDE: u8 = 200;
/// Host interfaces of the two pods, their bridge, the uplink, the proxy's two.
const SERVER_IF: u32 = 11;
const CLIENT_IF: u32 = 12;
const BRIDGE: u32 = 50;
const UPLINK: u32 = 60;
const L7: u32 = 70;
const REJECTS: u32 = 71;
/// Ports by what the table says of them, for everybody but class 7.
const ALLOWED: u16 = 80;
const ASKED: u16 = 81;
const DENIED: u16 = 82;
const CLIENT_PORT: u16 = 40_000;

/// A node with two pods on a bridge, and what is remembered.
struct World {
    table: TableBuilder,
    flows: FlowModel,
    ingress: u32,
}

impl World {
    fn new() -> Self {
        let mut table = TableBuilder::default();
        let cell = |verdict| Cell::new(verdict, false, false, 1);
        let (deny, allow, ask) = (
            cell(Verdict::Deny),
            cell(Verdict::Allow),
            cell(Verdict::Ask),
        );
        let ports = [(ALLOWED, 1), (ASKED, 2), (CLIENT_PORT, 3)];
        table.scopes = vec![
            Scope {
                ports: ports.into_iter().collect(),
                // Class 7 may do nothing.
                classes: [(7, 1)].into_iter().collect(),
                width: 4,
                cells: vec![deny, allow, ask, deny, deny, deny, deny, deny],
            },
            // The host scope: probes to the denied port.
            Scope {
                ports: [(DENIED, 1)].into_iter().collect(),
                width: 2,
                cells: vec![deny, allow],
                ..Scope::default()
            },
        ];
        for (last, holder, class) in [
            (SERVER, Holder::LocalPod(0), 1),
            (CLIENT, Holder::LocalPod(1), 2),
            (REMOTE, Holder::RemotePod, 3),
            (STRANGER, Holder::Unknown, 0),
            (NODE, Holder::Node, 7),
            (OUTSIDE, Holder::Outside, 4),
        ] {
            let address = Address::new(holder, class);
            table.v4.push((Ipv4Addr::new(10, 0, 0, last), 32, address));
        }
        for (interface, class) in [(SERVER_IF, 1), (CLIENT_IF, 2)] {
            table.pods.push(Pod {
                interface,
                flags: pod_flags::ENROLLED,
                bridge: BRIDGE,
                netns_id: 3,
                scope_v4: Some(0),
                class_v4: class,
                ..Pod::default()
            });
        }
        Self {
            table,
            flows: FlowModel::default(),
            ingress: UPLINK,
        }
    }

    fn from(mut self, ingress: u32) -> Self {
        self.ingress = ingress;
        self
    }

    fn place(&self, interface: u32) -> Place {
        Place {
            interface,
            ingress: self.ingress,
            l7: L7,
            rejects: REJECTS,
        }
    }

    fn judge(&self, hook: Hook, frame: &Frame) -> Judgement {
        self.judge_packet(hook, &parse(&frame.build()[..]))
    }

    fn judge_packet(&self, hook: Hook, packet: &Packet) -> Judgement {
        let words = self.table.build();
        let place = self.place(SERVER_IF);
        match hook {
            Hook::ToPod => judge_to_pod(packet, &words[..], &self.flows, &place),
            Hook::FromPod => judge_from_pod(packet, &words[..], &self.flows, &place),
            _ => judge_from_l7(packet, &words[..], &self.flows),
        }
    }

    /// Towards the server pod.
    fn to(&self, source: u8, port: u16, flags: u8) -> (Action, Reason) {
        told(self.judge(Hook::ToPod, &request(source, port, flags)))
    }

    /// From the server pod.
    fn back(&self, destination: u8, port: u16, flags: u8) -> (Action, Reason) {
        told(self.judge(Hook::FromPod, &answer(destination, port, flags)))
    }

    fn flag(&mut self, flag: u32) {
        self.table.pods[0].flags |= flag;
    }
}

fn told(judgement: Judgement) -> (Action, Reason) {
    (judgement.action, judgement.reason)
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn request(source: u8, port: u16, flags: u8) -> Frame {
    Frame::tcp((ip(source), CLIENT_PORT), (ip(SERVER), port), flags)
}

fn answer(destination: u8, port: u16, flags: u8) -> Frame {
    Frame::tcp((ip(SERVER), port), (ip(destination), CLIENT_PORT), flags)
}

/// The flow of [`request`] and [`answer`].
fn key(remote: u8, port: u16) -> FlowKey {
    let words = |last: u8| [0, 0, 0xffff, 0x0a00_0000 | u32::from(last)];
    FlowKey {
        pod: words(SERVER),
        remote: words(remote),
        pod_port: port,
        remote_port: CLIENT_PORT,
    }
}

const SYN: u8 = flag::SYN;
const ACK: u8 = flag::ACK;
const RST: u8 = flag::RST;

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
fn datagrams_pass_unless_they_are_to_be_enforced() {
    let mut world = World::new();
    let datagram = Frame::udp((ip(REMOTE), 53), (ip(SERVER), DENIED));
    let pass = (Action::Pass, Reason::NonTcp);
    assert_eq!(told(world.judge(Hook::ToPod, &datagram)), pass);
    world.table.options = options::NON_TCP_ENFORCE;
    let refused = (Action::Drop, Reason::Denied);
    assert_eq!(
        told(world.judge(Hook::ToPod, &datagram)),
        refused,
        "there is no memory of them yet"
    );
}
