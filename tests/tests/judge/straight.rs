//! The straight way ends only where the whole judgement does, for the same reason and by the same cell,
//! and remembers the same; and it is the way of what is common.

use std::collections::BTreeMap;

use enforcer_ebpf::{
    event::Hook,
    flow::FlowKey,
    judge::{
        Action, Flows as _, Place, features, judge_from_pod, judge_to_pod, straight_from_pod,
        straight_to_pod,
    },
    packet::{Kind, Packet, Part, flag, parse, parse_plain},
    reason::Reason,
    words::header,
};
use fastrand::Rng;
use tests::{
    bpf::{L7_IFINDEX, REJ_IFINDEX},
    flow_model::FlowModel,
    frame::Frame,
    world::{self, INTERFACE},
};

use super::world::*;

const TABLES: usize = 1_500;
const FRAMES: u32 = 200;

#[test]
fn the_straight_way_leads_where_the_whole_judgement_does() {
    let mut seen = BTreeMap::<(bool, bool, &str), u32>::new();
    for seed in 0..TABLES {
        let mut rng = Rng::with_seed(seed as u64);
        let judged = rng.u32(0..4);
        let words = world::table(&mut rng, judged).build();
        let flows = FlowModel::default();
        let place = |ingress| Place {
            interface: INTERFACE,
            ingress,
            l7: L7_IFINDEX,
            rejects: [REJ_IFINDEX, 0][seed % 2],
            features: [0, 0, features::UPLINKS, features::INSIDE][seed / 2 % 4],
        };
        for _ in 0..FRAMES {
            let hook = [Hook::ToPod, Hook::FromPod][rng.usize(0..2)];
            let inward = matches!(hook, Hook::ToPod);
            let (frame, ingress) = world::frame(&mut rng, judged, inward);
            let place = place(ingress);
            if rng.u32(0..4) == 0 {
                let key = flow_of(&parse(&frame[..]), inward);
                flows.open_out(&key, judged);
            }
            let before = flows.memory.borrow().clone();
            let straight = parse_plain(&frame[..]).and_then(|plain| match hook {
                Hook::ToPod => straight_to_pod(&plain, &words[..], &flows, &place),
                _ => straight_from_pod(&plain, &words[..], &flows, &place),
            });
            let after = flows.memory.replace(before.clone());
            let packet = parse(&frame[..]);
            let whole = match hook {
                Hook::ToPod => judge_to_pod(&packet, &words[..], &flows, &place),
                _ => judge_from_pod(&packet, &words[..], &flows, &place),
            };
            let Some(straight) = straight else {
                assert_eq!(before, after, "it has only asked");
                continue;
            };
            let opens = packet.opens();
            assert_eq!(
                (straight.action, straight.reason, straight.cell),
                (whole.action, whole.reason, whole.cell),
                "table {seed}: {packet:?} from {ingress}"
            );
            let options = words[header::OPTIONS as usize];
            assert!(!whole.masqueraded);
            // Where it is, the kernel sees to it that somebody is told.
            let drops = matches!(whole.action, Action::Drop);
            assert_eq!(whole.is_news(options, packet.opens()), drops);
            assert_eq!(after, *flows.memory.borrow(), "and it changes the same");
            *seen
                .entry((inward, opens, straight.reason.name()))
                .or_default() += 1;
        }
    }
    for case in [
        (true, true, Reason::Allowed),
        (true, true, Reason::Denied),
        (true, false, Reason::Allowed),
        (true, false, Reason::Outbound),
        (false, false, Reason::Allowed),
        (false, false, Reason::Outbound),
        (false, true, Reason::OutboundOpened),
        (true, false, Reason::NotEnrolled),
        (false, false, Reason::NotEnrolled),
    ] {
        let count = seen.get(&(case.0, case.1, case.2.name()));
        assert!(count.is_some_and(|count| *count > 20), "{case:?}: {seen:?}");
    }
}

fn flow_of(packet: &Packet, inward: bool) -> FlowKey {
    let there = (packet.source, packet.source_port);
    let here = (packet.destination, packet.destination_port);
    let (pod, remote) = if inward { (here, there) } else { (there, here) };
    FlowKey {
        pod: pod.0,
        remote: remote.0,
        pod_port: pod.1,
        remote_port: remote.1,
    }
}

#[test]
fn what_is_plain_is_read_as_it_is_read_otherwise() {
    let mut plain = 0;
    let mut rng = Rng::with_seed(1);
    for _ in 0..100_000 {
        let (mut frame, _) = world::frame(&mut rng, 0, true);
        if rng.bool() && !frame.is_empty() {
            let at = rng.usize(0..frame.len());
            frame[at] ^= 1 << rng.u32(0..8);
        }
        let Some(read) = parse_plain(&frame[..]) else {
            continue;
        };
        plain += 1;
        let packet = parse(&frame[..]);
        assert_eq!(
            (packet.reject, packet.kind),
            (None, Kind::Tcp),
            "{frame:x?}"
        );
        assert_eq!((packet.part, packet.v6), (Part::Whole, false));
        assert_eq!(packet.source, [0, 0, 0xffff, read.source]);
        assert_eq!(packet.destination, [0, 0, 0xffff, read.destination]);
        assert_eq!(packet.source_port, read.source_port);
        assert_eq!(packet.destination_port, read.destination_port);
        assert_eq!(packet.opens(), read.opens());
    }
    assert!(plain > 5_000, "{plain}");
}

#[test]
fn established_and_allowed_is_straight_in_both_directions() {
    let world = World::new().from(UPLINK);
    let words = world.table.build();
    let place = world.place(SERVER_IF);
    let straight = |frame: &Frame, hook| {
        let plain = parse_plain(&frame.build()[..])?;
        match hook {
            Hook::ToPod => straight_to_pod(&plain, &words[..], &world.flows, &place),
            _ => straight_from_pod(&plain, &words[..], &world.flows, &place),
        }
    };
    let reason = |frame, hook| straight(&frame, hook).map(|judgement| judgement.reason);
    let allowed = Some(Reason::Allowed);
    for flags in [ACK, ACK | flag::PSH, ACK | flag::FIN, SYN | ACK, RST | ACK] {
        let there = reason(request(REMOTE, ALLOWED, flags), Hook::ToPod);
        let back = reason(answer(REMOTE, ALLOWED, flags), Hook::FromPod);
        assert_eq!((there, back), (allowed, allowed), "flags {flags}");
    }
    for flags in [RST, 0, flag::FIN, SYN | RST, SYN | ACK | flag::FIN] {
        assert_eq!(reason(request(REMOTE, ALLOWED, flags), Hook::ToPod), None);
    }
    let (opening, opened) = (request(REMOTE, ALLOWED, SYN), answer(REMOTE, ALLOWED, SYN));
    assert_eq!(reason(opening, Hook::ToPod), allowed);
    let refused = reason(request(REMOTE, DENIED, SYN), Hook::ToPod);
    assert_eq!(refused, None, "it is told by a reset");
    let remembered = Some(Reason::OutboundOpened);
    assert_eq!(reason(opened, Hook::FromPod), remembered);
    assert_eq!(reason(request(REMOTE, DENIED, ACK), Hook::ToPod), None);
    assert_eq!(reason(answer(REMOTE, DENIED, ACK), Hook::FromPod), None);
}
