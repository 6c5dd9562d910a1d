//! Random tables and random frames that fall on them, from a seed. The frames are seen from one pod,
//! whose host interface is the loopback device: the only one that every test machine has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_ebpf::{
    flow::FlowKey,
    words::{Address, Cell, Holder, Verdict, options, pod_flags},
};
use fastrand::Rng;

use crate::{
    bpf::{L7_IFINDEX, REJ_IFINDEX},
    frame::{self, Extension, Fragment, Frame, flag, tcp_segment},
    table_builder::{Pod, Scope, TableBuilder},
};

/// Index of the loopback device: the host interface of the pod that is judged.
pub const INTERFACE: u32 = 1;
/// Local pods; the judged one is any of them.
const PODS: u32 = 4;
const BRIDGE: u32 = 50;
const UPLINK: u32 = 60;
/// Records that cells name.
pub const RECORDS: u32 = 200;
const CLASSES: u16 = 8;
const PORTS: [u16; 6] = [80, 443, 8080, 9090, 1, 65_535];
const REMOTE_PORTS: [u16; 3] = [40_000, 40_001, 80];

/// A random table, of which pod `judged` sits behind [`INTERFACE`].
#[must_use]
pub fn table(rng: &mut Rng, judged: u32) -> TableBuilder {
    let mut table = TableBuilder {
        epoch: rng.u32(1..),
        options: pick(
            rng,
            &[
                0,
                0,
                options::REFUSE_DROP,
                options::AUDIT_MODE,
                options::EVENTS_ALLOWED,
            ],
        ),
        ..TableBuilder::default()
    };
    table.uplinks = vec![BRIDGE, UPLINK];
    if rng.u32(0..4) == 0 {
        table.uplinks.clear();
    }
    table.scopes = (0..3).map(|_| scope(rng)).collect();
    addresses(rng, &mut table);
    for slot in 0..PODS {
        table.pods.push(Pod {
            interface: interface_of(slot, judged),
            flags: flags(rng, slot == judged),
            bridge: if slot < 2 { BRIDGE } else { 0 },
            netns_id: pick(rng, &[0, 9_999]),
            scope_v4: Some(rng.usize(0..3)),
            scope_v6: Some(rng.usize(0..3)),
            host_scope: pick(rng, &[None, Some(0), Some(1)]),
            class_v4: rng.u16(0..CLASSES),
            class_v6: rng.u16(0..CLASSES),
        });
    }
    if rng.u32(0..12) == 0 {
        // Nobody knows who is behind the interface.
        table.pods[judged as usize].interface = 99;
    }
    table
}

fn interface_of(slot: u32, judged: u32) -> u32 {
    if slot == judged {
        INTERFACE
    } else {
        100 + slot
    }
}

fn flags(rng: &mut Rng, judged: bool) -> u32 {
    let mut flags = 0;
    for (flag, one_in) in [
        (pod_flags::GATEWAY, 10),
        (pod_flags::PROXIED, 2),
        (pod_flags::SWITCHED, 2),
        (pod_flags::PAUSED, 10),
    ] {
        if rng.u32(0..one_in) == 0 {
            flags |= flag;
        }
    }
    if !judged || rng.u32(0..10) != 0 {
        flags |= pod_flags::ENROLLED;
    }
    flags
}

fn scope(rng: &mut Rng) -> Scope {
    let mut scope = Scope {
        width: 4,
        ..Scope::default()
    };
    for port in PORTS {
        if rng.bool() {
            scope.ports.insert(port, rng.u16(0..4));
        }
    }
    for class in 0..CLASSES {
        if rng.bool() {
            scope.classes.insert(class, rng.u16(0..4));
        }
    }
    for _ in 0..16 {
        let verdict = pick(rng, &[Verdict::Allow, Verdict::Deny, Verdict::Ask]);
        let record = rng.u32(0..RECORDS);
        let (audit, dry_run) = (rng.u32(0..8) == 0, rng.u32(0..8) == 0);
        scope.cells.push(Cell::new(verdict, audit, dry_run, record));
    }
    scope
}

fn addresses(rng: &mut Rng, table: &mut TableBuilder) {
    let mut class = || rng.u16(0..CLASSES);
    for second in [0, 1] {
        let base = Ipv4Addr::new(10, second, 0, 0);
        table.v4.push((base, 16, Address::new(Holder::Unknown, 0)));
    }
    let outside = Address::new(Holder::Outside, class());
    table.v4.push((Ipv4Addr::new(192, 168, 0, 0), 18, outside));
    let start: Ipv6Addr = "fd00::".parse().expect("an address");
    table
        .v6_ranges
        .insert(start, Address::new(Holder::Unknown, 0));
    let start: Ipv6Addr = "fd01::".parse().expect("an address");
    table
        .v6_ranges
        .insert(start, Address::new(Holder::Outside, 0));
    for i in 0..40u16 {
        let start = Ipv6Addr::new(0x2001, 0xdb8, i * 3, 0, 0, 0, 0, 0);
        let address = Address::new(Holder::Outside, class());
        table.v6_ranges.insert(start, address);
    }
    for last in 1..=8u8 {
        let holder = match last {
            1..=4 => Holder::LocalPod(u32::from(last) - 1),
            5 | 6 => Holder::RemotePod,
            _ => Holder::Node,
        };
        let (v4, v6) = (Address::new(holder, class()), Address::new(holder, class()));
        table.v4.push((Ipv4Addr::new(10, 0, 0, last), 32, v4));
        table.v6_hosts.push((v6_of(last), v6));
    }
}

fn v6_of(last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into())
}

/// A frame that a hook of the judged pod may see, and where it came in.
#[must_use]
pub fn frame(rng: &mut Rng, judged: u32, inward: bool) -> (Vec<u8>, u32) {
    let ingress = pick(
        rng,
        &[
            0,
            0,
            100,
            101,
            102,
            103,
            INTERFACE,
            BRIDGE,
            UPLINK,
            UPLINK,
            L7_IFINDEX,
            REJ_IFINDEX,
        ],
    );
    if rng.u32(0..40) == 0 {
        return (frame::other(pick(rng, &[0x0806, 0x88cc])), ingress);
    }
    let v6 = rng.bool();
    let own = address(v6, u8::try_from(judged + 1).expect("few pods"));
    let pod = if rng.u32(0..20) == 0 {
        any_address(rng, v6)
    } else {
        own
    };
    let pod = (pod, pick(rng, &PORTS));
    let remote = (any_address(rng, v6), pick(rng, &REMOTE_PORTS));
    let (source, destination) = if inward { (remote, pod) } else { (pod, remote) };
    let mut packet = Frame::tcp(source, destination, 0);
    match rng.u32(0..20) {
        0 => packet = Frame::udp(source, destination),
        1 => packet.protocol = pick(rng, &[1, 58, 132, 50, 59]),
        2 => packet = Frame::echo(source.0, destination.0, rng.u16(0..3), rng.bool()),
        3 => {
            // About a packet that went the other way, or about any.
            let mut about = match rng.u32(0..3) {
                0 => Frame::udp(destination, source),
                1 => Frame::echo(destination.0, source.0, rng.u16(0..3), rng.bool()),
                _ => Frame::tcp(destination, source, flag::ACK),
            };
            if rng.u32(0..8) == 0 {
                about.source = any_address(rng, v6);
            }
            let router = if inward {
                any_address(rng, v6)
            } else {
                source.0
            };
            packet = Frame::too_large(router, &about, 1400);
        }
        4 => {
            packet.protocol = 58;
            packet.body[0] = rng.u8(132..139);
            packet.hop_limit = pick(rng, &[255, 255, 254]);
        }
        _ => {
            let flags = pick(
                rng,
                &[
                    flag::SYN,
                    flag::SYN,
                    flag::ACK,
                    flag::ACK,
                    18,
                    20,
                    4,
                    17,
                    3,
                    6,
                    0,
                    0x2b,
                ],
            );
            let payload = pick(rng, &[0, 0, 1, 100]);
            packet.body = tcp_segment(source.1, destination.1, flags, payload);
        }
    }
    complicate(rng, &mut packet, v6);
    let mut bytes = packet.build();
    if rng.u32(0..12) == 0 {
        for _ in 0..rng.u32(1..4) {
            let at = rng.usize(12..bytes.len());
            bytes[at] = rng.u8(..);
        }
    }
    if rng.u32(0..25) == 0 {
        bytes.truncate(rng.usize(14..=bytes.len()));
    }
    (bytes, ingress)
}

/// A flow of the judged pod that a frame of [`frame`] may belong to.
#[must_use]
pub fn flow(rng: &mut Rng, judged: u32) -> FlowKey {
    let v6 = rng.bool();
    let words = |address: IpAddr| {
        let bits = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        [96, 64, 32, 0].map(|shift| u32::try_from(bits >> shift & 0xffff_ffff).expect("masked"))
    };
    FlowKey {
        pod: words(address(v6, u8::try_from(judged + 1).expect("few pods"))),
        remote: words(address(v6, rng.u8(1..=8))),
        pod_port: pick(rng, &PORTS),
        remote_port: pick(rng, &REMOTE_PORTS),
    }
}

fn complicate(rng: &mut Rng, packet: &mut Frame, v6: bool) {
    packet.padding = pick(rng, &[0, 0, 0, 6]);
    if rng.u32(0..8) == 0 {
        packet.tags = (0..rng.usize(1..=3)).map(|_| rng.u16(..)).collect();
    }
    if rng.u32(0..6) == 0 {
        packet.option_words = rng.u8(0..=10);
    }
    if rng.u32(0..4) == 0 {
        packet.extensions = (0..rng.usize(0..10))
            .map(|_| Extension {
                number: pick(rng, &[0, 43, 60, 60, 60, 51, 135]),
                more: rng.u8(0..3),
            })
            .collect();
    }
    let one_in = if v6 { 6 } else { 8 };
    if rng.u32(0..one_in) == 0 {
        packet.fragment = Some(Fragment {
            id: rng.u32(0..4),
            offset: pick(rng, &[0, 0, 1, 2, 3, 100]),
            more: rng.bool(),
        });
    }
}

fn any_address(rng: &mut Rng, v6: bool) -> IpAddr {
    match rng.u32(0..12) {
        0..=7 => address(v6, rng.u8(1..=8)),
        8 => address(v6, rng.u8(9..)),
        9 if v6 => Ipv6Addr::new(0x2001, 0xdb8, rng.u16(0..130), 0, 0, 0, 0, 1).into(),
        10 if v6 => pick(
            rng,
            &["fe80::1", "ff02::1", "::", "::ffff:10.0.0.1", "ffff::1"],
        )
        .parse()
        .expect("an address"),
        _ if v6 => Ipv6Addr::from_bits(rng.u128(..)).into(),
        9 => Ipv4Addr::new(192, 168, rng.u8(..), 1).into(),
        10 => pick(
            rng,
            &["0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.1.1"],
        )
        .parse()
        .expect("an address"),
        _ => Ipv4Addr::from_bits(rng.u32(..)).into(),
    }
}

fn address(v6: bool, last: u8) -> IpAddr {
    if v6 {
        v6_of(last).into()
    } else {
        Ipv4Addr::new(10, 0, 0, last).into()
    }
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(0..choices.len())]
}
