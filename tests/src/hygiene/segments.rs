//! Packets that are out of the ordinary by what they carry or by where they come from and go.

use enforcer_ebpf::{
    event::Hook,
    packet::{flag, protocol},
};

use super::{
    Train,
    rows::{each, plain, raw, with},
    world::{Case, NEIGHBOUR, NODE, OUTSIDE, Port, REMOTE, SERVER, STRANGER},
};
use crate::frame::{self, Extension, Frame, tcp_segment};

pub(super) fn bad_flags(case: &Case) -> Vec<Train> {
    const SYN: u8 = flag::SYN;
    let all = [
        SYN | flag::FIN,
        SYN | flag::RST,
        SYN | flag::FIN | flag::ACK,
        0,
        0x3f,
    ];
    each(all.map(|flags| case.segment(flags)))
}

pub(super) fn odd_flags(case: &Case) -> Vec<Train> {
    let all = [
        flag::SYN | flag::ACK,
        flag::FIN,
        flag::FIN | flag::PSH | flag::URG,
        flag::URG,
        flag::ACK | flag::URG | flag::PSH,
    ];
    let mut trains = each(all.map(|flags| case.segment(flags)));
    // A reset that carries data could bring it to the pod.
    trains.extend(each([case.segment_with(flag::RST, 1)]));
    if case.hook == Hook::ToPod {
        // With data, as TCP Fast Open sends it.
        trains.extend(each([
            case.segment(flag::SYN),
            case.segment_with(flag::SYN, 9),
        ]));
    }
    trains
}

pub(super) fn resets(case: &Case) -> Vec<Train> {
    if case.port == Port::Allowed {
        return Vec::new();
    }
    each([flag::RST, flag::RST | flag::ACK].map(|flags| case.segment(flags)))
}

pub(super) fn udp(case: &Case) -> Vec<Train> {
    let whole = case.datagram(protocol::UDP, &[1; 64]);
    let parts = [(0, 8), (0, 32), (8, 64), (32, 64)];
    let parts = parts.map(|(from, to)| case.part(&whole, from, to));
    each([whole].into_iter().chain(parts))
}

pub(super) fn icmp(case: &Case) -> Vec<Train> {
    if case.v6 {
        let mut trains = messages(case, protocol::ICMPV6, [[128, 0], [129, 0]]);
        // A router has forwarded it, or something stands before it: no discovery.
        let mut wrapped = discovery(case, 135, 255);
        wrapped.extensions = vec![Extension {
            number: 60,
            more: 0,
        }];
        trains.extend(each([discovery(case, 135, 254), wrapped]));
        trains
    } else {
        messages(case, 1, [[8, 0], [0, 0]])
    }
}

/// Errors that quote nothing.
pub(super) fn icmp_errors(case: &Case) -> Vec<Train> {
    if case.v6 {
        messages(case, protocol::ICMPV6, [[1, 4], [2, 0]])
    } else {
        messages(case, 1, [[3, 3], [3, 4]])
    }
}

fn messages(case: &Case, number: u8, types: [[u8; 2]; 2]) -> Vec<Train> {
    each(types.map(|[kind, code]| {
        let mut body = vec![kind, code, 0, 0, 0, 0, 5, 0];
        body.resize(64, 0);
        case.datagram(number, &body)
    }))
}

pub(super) fn link_control(case: &Case) -> Vec<Train> {
    let (number, pairs): (u8, &[[&str; 2]]) = if case.v6 {
        (
            protocol::ICMPV6,
            &[
                ["fe80::1", "ff02::1:ff00:1"],
                ["fe80::1", "fe80::2"],
                ["::", "ff02::1:ff00:1"],
                ["fe80::1", "ff02::16"],
            ],
        )
    } else {
        (
            protocol::UDP,
            &[["0.0.0.0", "255.255.255.255"], ["0.0.0.0", "224.0.0.22"]],
        )
    };
    let mut trains = each(pairs.iter().map(|[from, to]| {
        let mut frame = case.datagram(number, &[135, 0, 0, 0, 0, 0, 0, 0]);
        frame.source = from.parse().expect("an address");
        frame.destination = to.parse().expect("an address");
        frame
    }));
    if case.v6 {
        // Between addresses of more than the link, as on a bridge.
        let all = [133, 134, 135, 136, 137];
        trains.extend(each(all.map(|kind| discovery(case, kind, 255))));
    }
    trains
}

fn discovery(case: &Case, kind: u8, hop_limit: u8) -> Frame {
    let mut body = vec![0; 24];
    body[0] = kind;
    let mut frame = case.datagram(protocol::ICMPV6, &body);
    frame.hop_limit = hop_limit;
    frame
}

pub(super) fn arp(_: &Case) -> Vec<Train> {
    raw([frame::other(0x0806)])
}

pub(super) fn protocols(case: &Case) -> Vec<Train> {
    // SCTP, ESP, GRE, IP in IP twice, nothing, host identity, one for experiments.
    let inner = tcp_segment(1, case.port.number(), flag::SYN, 20);
    each([132, 50, 47, 4, 41, 59, 139, 253].map(|number| case.datagram(number, &inner)))
}

pub(super) fn not_ip(_: &Case) -> Vec<Train> {
    // Link layer discovery, MPLS, PPP over Ethernet.
    raw([0x88cc, 0x8847, 0x8864].map(frame::other))
}

pub(super) fn pod_spoofs(case: &Case) -> Vec<Train> {
    let mut frames = Vec::new();
    for last in [NEIGHBOUR, NODE, REMOTE, STRANGER, OUTSIDE] {
        for mut frame in [
            case.segment(flag::SYN),
            plain(case),
            case.datagram(protocol::UDP, &[0; 8]),
        ] {
            frame.source = case.ip(last);
            frames.push(frame);
        }
    }
    each(frames)
}

pub(super) fn spoofs(case: &Case) -> Vec<Train> {
    each([NEIGHBOUR, SERVER].into_iter().flat_map(|last| {
        [flag::SYN, flag::ACK].map(|flags| {
            let mut frame = case.segment(flags);
            frame.source = case.ip(last);
            frame
        })
    }))
}

pub(super) fn unknown(case: &Case) -> Vec<Train> {
    let mut frame = case.segment(flag::SYN);
    frame.source = case.ip(STRANGER);
    each([frame])
}

pub(super) fn foreign(case: &Case) -> Vec<Train> {
    let many: [&str; 2] = if case.v6 {
        ["ff02::1", "fd00::1:1"]
    } else {
        ["255.255.255.255", "224.0.0.1"]
    };
    let others = many.map(|text| text.parse().expect("an address"));
    let others = others.into_iter().chain([case.ip(NEIGHBOUR)]);
    each(others.map(|to| with(case, |f| f.destination = to)))
}
