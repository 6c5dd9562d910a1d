//! The rows of the matrix.

use enforcer_ebpf::{
    event::Hook,
    packet::{flag, protocol},
    reason::Reason,
};

use super::{
    Meets::{Drop, Judged, Pass},
    Packets::{Built, Live},
    Row, Train,
    world::{Case, HOOKS, NEIGHBOUR, NODE, OUTSIDE, Port, REMOTE, SERVER, STRANGER},
};
use crate::frame::{self, Extension, Frame, tcp_segment};

const BOTH: &[Hook] = &[Hook::ToPod, Hook::FromPod];
const TO: &[Hook] = &[Hook::ToPod];
const FROM: &[Hook] = &[Hook::FromPod];
const ALL: &[Hook] = &HOOKS;
/// Bytes of a frame before the packet in it, and of the packet's own header.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const VLAN: u8 = 4;
/// A datagram's bytes where fragments are cut from it.
const DATAGRAM: usize = 96;

/// Every row, in the order of the README.
// Long because: a table of data.
#[must_use]
pub fn rows() -> Vec<Row> {
    let row = |packet, hooks, meets, why, packets| Row {
        packet,
        hooks,
        meets,
        why,
        packets,
    };
    vec![
        row(
            "IPv4 options",
            BOTH,
            Judged,
            "skipped by the header's own length",
            Built(options),
        ),
        row(
            "up to 8 IPv6 extension headers",
            BOTH,
            Judged,
            "walked, whatever their order",
            Built(extensions),
        ),
        row(
            "a ninth one",
            ALL,
            Drop(Reason::BadExtension),
            "a bomb costs eight reads",
            Built(bombs),
        ),
        row(
            "hop-by-hop not first, a fragment of a fragment",
            ALL,
            Drop(Reason::BadExtension),
            "no stack sends them",
            Built(misplaced),
        ),
        row(
            "a chain that leaves the packet",
            ALL,
            Drop(Reason::Malformed),
            "the ports cannot be known",
            Built(runaways),
        ),
        row(
            "first fragment",
            BOTH,
            Judged,
            "it has the whole TCP header",
            Built(first),
        ),
        row(
            "later fragment, first one seen",
            BOTH,
            Judged,
            "meets what the first one met",
            Built(later),
        ),
        row(
            "later fragment, first one not seen",
            BOTH,
            Drop(Reason::UnknownFragment),
            "out of order: the sender tries again",
            Built(orphans),
        ),
        row(
            "first fragment below 20 bytes of TCP",
            ALL,
            Drop(Reason::BadFragment),
            "flags or ports would be hidden",
            Built(tiny),
        ),
        row(
            "later fragment at byte 8 or 16",
            ALL,
            Drop(Reason::BadFragment),
            "it would change what was judged",
            Built(over_header),
        ),
        row(
            "fragments that overlap beyond",
            BOTH,
            Judged,
            "the header stands; the receiver objects",
            Built(overlaps),
        ),
        row(
            "IPv6 fragment that is all",
            BOTH,
            Judged,
            "RFC 6946",
            Built(atomic),
        ),
        row(
            "headers cut short",
            ALL,
            Drop(Reason::Malformed),
            "never read beyond the frame",
            Built(cut),
        ),
        row(
            "lengths that do not fit",
            ALL,
            Drop(Reason::Malformed),
            "longer than the frame, shorter than headers",
            Built(lengths),
        ),
        row(
            "length 0",
            BOTH,
            Judged,
            "batches above 64 KB; a real 0 no stack takes",
            Built(length_zero),
        ),
        row(
            "bytes after the packet",
            BOTH,
            Judged,
            "Ethernet's padding is no data",
            Built(padded),
        ),
        row(
            "wrong IP version",
            ALL,
            Drop(Reason::Malformed),
            "no stack takes it",
            Built(versions),
        ),
        row(
            "IPv4-mapped IPv6 address",
            ALL,
            Drop(Reason::Malformed),
            "it would borrow an IPv4 identity",
            Built(mapped),
        ),
        row(
            "VLAN, QinQ tags in the frame",
            BOTH,
            Judged,
            "as without them",
            Built(tagged),
        ),
        row(
            "a third tag",
            ALL,
            Drop(Reason::Malformed),
            "no pod unwraps it",
            Built(thrice),
        ),
        row(
            "batched segments (GSO, GRO)",
            BOTH,
            Judged,
            "they have one header",
            Live("batched_segments_arrive_byte_for_byte"),
        ),
        row(
            "headers outside the linear part",
            BOTH,
            Judged,
            "pulled in, then read",
            Live("headers_outside_the_linear_part_are_read"),
        ),
        row(
            "SYN with FIN or RST, no flag",
            ALL,
            Drop(Reason::BadFlags),
            "no stack sends them",
            Built(bad_flags),
        ),
        row(
            "other flags, asked for or not",
            BOTH,
            Judged,
            "no state that they could upset",
            Built(odd_flags),
        ),
        row(
            "RST without data, not allowed",
            BOTH,
            Pass(Reason::BareReset),
            "it ends what a DENY has cut",
            Built(resets),
        ),
        row(
            "UDP, also in fragments",
            BOTH,
            Pass(Reason::NonTcp),
            "policy speaks of TCP",
            Built(udp),
        ),
        row(
            "ICMP, ICMPv6",
            BOTH,
            Pass(Reason::NonTcp),
            "path MTU keeps working",
            Built(icmp),
        ),
        row(
            "neighbour discovery, MLD, DHCP",
            BOTH,
            Pass(Reason::LinkControl),
            "the link keeps working",
            Built(link_control),
        ),
        row(
            "ARP",
            BOTH,
            Pass(Reason::LinkControl),
            "as above",
            Built(arp),
        ),
        row(
            "SCTP, ESP, tunnels, unknown protocols",
            BOTH,
            Pass(Reason::NonTcp),
            "only a pod's own tunnel opens them",
            Built(protocols),
        ),
        row(
            "no IP",
            BOTH,
            Pass(Reason::NonTcp),
            "as above",
            Built(not_ip),
        ),
        row(
            "source that is not the pod's",
            FROM,
            Drop(Reason::SpoofedPodSource),
            "verdicts rest on addresses",
            Built(pod_spoofs),
        ),
        row(
            "a local pod's source from elsewhere",
            TO,
            Drop(Reason::SpoofedLocalSource),
            "as above",
            Built(spoofs),
        ),
        row(
            "SYN from a pod address nobody holds",
            TO,
            Drop(Reason::UnknownIdentity),
            "too new: its next attempt is judged",
            Built(unknown),
        ),
        row(
            "TCP to another's address",
            TO,
            Drop(Reason::ForeignDestination),
            "broadcast and multicast too",
            Built(foreign),
        ),
    ]
}

/// Each frame is a train by itself.
fn each(frames: impl IntoIterator<Item = Frame>) -> Vec<Train> {
    frames.into_iter().map(|f| vec![f.build()]).collect()
}

/// Each string of bytes is a train by itself.
fn raw(frames: impl IntoIterator<Item = Vec<u8>>) -> Vec<Train> {
    frames.into_iter().map(|bytes| vec![bytes]).collect()
}

fn plain(case: &Case) -> Frame {
    case.segment(flag::ACK)
}

fn with(case: &Case, change: impl FnOnce(&mut Frame)) -> Frame {
    let mut frame = plain(case);
    change(&mut frame);
    frame
}

/// A segment's bytes, changed.
fn bytes(case: &Case, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = plain(case).build();
    change(&mut bytes);
    bytes
}

fn options(case: &Case) -> Vec<Train> {
    let words = if case.v6 { 0..0 } else { 1..11 };
    each(words.map(|words| with(case, |f| f.option_words = words)))
}

fn chained(case: &Case, numbers: &[u8]) -> Frame {
    with(case, |f| {
        f.extensions = numbers
            .iter()
            .map(|&number| Extension { number, more: 1 })
            .collect();
    })
}

fn extensions(case: &Case) -> Vec<Train> {
    const WALKED: [u8; 4] = [
        protocol::DESTINATION,
        protocol::ROUTING,
        protocol::AUTHENTICATION,
        protocol::MOBILITY,
    ];
    if !case.v6 {
        return Vec::new();
    }
    let mut chains = vec![vec![protocol::HOP_BY_HOP]];
    for length in 1..=8 {
        for start in 0..WALKED.len() {
            let mut chain: Vec<u8> = WALKED
                .iter()
                .cycle()
                .skip(start)
                .take(length)
                .copied()
                .collect();
            chains.push(chain.clone());
            chain[0] = protocol::HOP_BY_HOP;
            chains.push(chain);
        }
    }
    each(chains.iter().map(|chain| chained(case, chain)))
}

fn bombs(case: &Case) -> Vec<Train> {
    let lengths = if case.v6 {
        vec![9, 40, 100]
    } else {
        Vec::new()
    };
    each(
        lengths
            .iter()
            .map(|&length| chained(case, &vec![protocol::DESTINATION; length])),
    )
}

fn misplaced(case: &Case) -> Vec<Train> {
    if !case.v6 {
        return Vec::new();
    }
    let late = chained(case, &[protocol::DESTINATION, protocol::HOP_BY_HOP]);
    let twice = chained(case, &[protocol::FRAGMENT, protocol::FRAGMENT]);
    each([late, case.part(&twice, 0, 16)])
}

fn runaways(case: &Case) -> Vec<Train> {
    if !case.v6 {
        return Vec::new();
    }
    let mut long = chained(case, &[protocol::DESTINATION]).build();
    long[ETHERNET + IPV6 + 1] = 255;
    let mut endless = chained(case, &[protocol::DESTINATION]);
    endless.protocol = protocol::DESTINATION;
    endless.body = vec![protocol::DESTINATION, 0, 0, 0];
    // The first fragment ends within the chain: the ports come in another one.
    let mut split = chained(case, &[protocol::FRAGMENT]);
    split.protocol = protocol::DESTINATION;
    split.body = vec![0; 64];
    (split.body[0], split.body[1]) = (protocol::TCP, 3);
    raw([long, endless.build(), case.part(&split, 0, 16).build()])
}

fn datagram(case: &Case) -> Frame {
    case.segment_with(flag::ACK, DATAGRAM - 20)
}

fn first(case: &Case) -> Vec<Train> {
    each([24, 32].map(|to| case.part(&datagram(case), 0, to)))
}

fn later(case: &Case) -> Vec<Train> {
    [24, 64, 88]
        .map(|from| {
            let datagram = datagram(case);
            let parts = [case.part(&datagram, 0, 24), case.part(&datagram, from, 96)];
            parts.map(|part| part.build()).to_vec()
        })
        .to_vec()
}

fn orphans(case: &Case) -> Vec<Train> {
    let mut trains =
        each([(24, 96), (24, 48), (88, 96)].map(|(from, to)| case.part(&datagram(case), from, to)));
    if case.v6 {
        // What follows an option in the first fragment may be TCP.
        let mut hidden = datagram(case);
        hidden.protocol = protocol::DESTINATION;
        trains.extend(each([case.part(&hidden, 24, 96)]));
    }
    trains
}

fn tiny(case: &Case) -> Vec<Train> {
    each([8, 16].map(|to| case.part(&datagram(case), 0, to)))
}

fn over_header(case: &Case) -> Vec<Train> {
    [8, 16]
        .map(|from| {
            let datagram = datagram(case);
            let parts = [case.part(&datagram, 0, 24), case.part(&datagram, from, 96)];
            parts.map(|part| part.build()).to_vec()
        })
        .to_vec()
}

fn overlaps(case: &Case) -> Vec<Train> {
    let datagram = datagram(case);
    let parts = [(0, 64), (40, 96), (24, 72)].map(|(from, to)| case.part(&datagram, from, to));
    vec![parts.map(|part| part.build()).to_vec()]
}

fn atomic(case: &Case) -> Vec<Train> {
    if !case.v6 {
        return Vec::new();
    }
    // Stacks step over such a header, also over two.
    let twice = chained(case, &[protocol::FRAGMENT, protocol::FRAGMENT]);
    each([plain(case), twice].map(|whole| case.part(&whole, 0, 20)))
}

fn cut(case: &Case) -> Vec<Train> {
    let whole = plain(case).build();
    raw((ETHERNET..whole.len()).map(|length| whole[..length].to_vec()))
}

/// Writes the packet's length field: of all of it in IPv4, of what follows the header in IPv6.
fn say_length(case: &Case, bytes: &mut [u8], length: usize) {
    let at = ETHERNET + if case.v6 { 4 } else { 2 };
    let length = u16::try_from(length).expect("a test packet fits its length field");
    bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

fn lengths(case: &Case) -> Vec<Train> {
    let own = if case.v6 { 20 } else { 40 };
    let mut frames: Vec<Vec<u8>> = [own + 1, own + 1_000, own - 1]
        .map(|length| bytes(case, |b| say_length(case, b, length)))
        .to_vec();
    let tcp = ETHERNET + if case.v6 { IPV6 } else { IPV4 };
    // TCP headers of 16 and of 24 bytes, in a packet that ends after 20.
    for words in [0x40, 0x60] {
        frames.push(bytes(case, |b| b[tcp + 12] = words));
    }
    if !case.v6 {
        // IPv4 headers of 16 and of 60 bytes.
        for byte in [0x44, 0x4f] {
            frames.push(bytes(case, |b| b[ETHERNET] = byte));
        }
    }
    raw(frames)
}

fn length_zero(case: &Case) -> Vec<Train> {
    raw([bytes(case, |b| say_length(case, b, 0))])
}

fn padded(case: &Case) -> Vec<Train> {
    each([1, 6, 26].map(|padding| with(case, |f| f.padding = padding)))
}

fn versions(case: &Case) -> Vec<Train> {
    let low = if case.v6 { 0 } else { 5 };
    let own = if case.v6 { 6 } else { 4 };
    let others = (0..16u8).filter(|version| *version != own);
    raw(others.map(|version| bytes(case, |b| b[ETHERNET] = version << 4 | low)))
}

fn mapped(case: &Case) -> Vec<Train> {
    if !case.v6 {
        return Vec::new();
    }
    let borrowed = "::ffff:10.0.0.5".parse().expect("an address");
    each([
        with(case, |f| f.source = borrowed),
        with(case, |f| f.destination = borrowed),
    ])
}

fn tagged(case: &Case) -> Vec<Train> {
    let mut trains = each([vec![5], vec![5, 6]].map(|tags| with(case, |f| f.tags = tags)));
    let mut service = with(case, |f| f.tags = vec![5, 6]).build();
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    trains.push(vec![service]);
    trains
}

fn thrice(case: &Case) -> Vec<Train> {
    let tags = [3, usize::from(VLAN)].map(|count| vec![7; count]);
    each(tags.map(|tags| with(case, |f| f.tags = tags)))
}

fn bad_flags(case: &Case) -> Vec<Train> {
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

fn odd_flags(case: &Case) -> Vec<Train> {
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

fn resets(case: &Case) -> Vec<Train> {
    if case.port == Port::Allowed {
        return Vec::new();
    }
    each([flag::RST, flag::RST | flag::ACK].map(|flags| case.segment(flags)))
}

fn udp(case: &Case) -> Vec<Train> {
    let whole = case.datagram(protocol::UDP, &[1; 64]);
    let parts = [(0, 8), (0, 32), (8, 64), (32, 64)];
    let parts = parts.map(|(from, to)| case.part(&whole, from, to));
    each([whole].into_iter().chain(parts))
}

fn icmp(case: &Case) -> Vec<Train> {
    let (number, types): (u8, [[u8; 2]; 4]) = if case.v6 {
        (protocol::ICMPV6, [[128, 0], [129, 0], [1, 4], [2, 0]])
    } else {
        (1, [[8, 0], [0, 0], [3, 3], [3, 4]])
    };
    each(types.map(|[kind, code]| {
        let mut body = vec![kind, code, 0, 0, 0, 0, 5, 0];
        body.resize(64, 0);
        case.datagram(number, &body)
    }))
}

fn link_control(case: &Case) -> Vec<Train> {
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
    each(pairs.iter().map(|[from, to]| {
        let mut frame = case.datagram(number, &[135, 0, 0, 0, 0, 0, 0, 0]);
        frame.source = from.parse().expect("an address");
        frame.destination = to.parse().expect("an address");
        frame
    }))
}

fn arp(_: &Case) -> Vec<Train> {
    raw([frame::other(0x0806)])
}

fn protocols(case: &Case) -> Vec<Train> {
    // SCTP, ESP, GRE, IP in IP twice, nothing, host identity, one for experiments.
    let inner = tcp_segment(1, case.port.number(), flag::SYN, 20);
    each([132, 50, 47, 4, 41, 59, 139, 253].map(|number| case.datagram(number, &inner)))
}

fn not_ip(_: &Case) -> Vec<Train> {
    // Link layer discovery, MPLS, PPP over Ethernet.
    raw([0x88cc, 0x8847, 0x8864].map(frame::other))
}

fn pod_spoofs(case: &Case) -> Vec<Train> {
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

fn spoofs(case: &Case) -> Vec<Train> {
    each([NEIGHBOUR, SERVER].into_iter().flat_map(|last| {
        [flag::SYN, flag::ACK].map(|flags| {
            let mut frame = case.segment(flags);
            frame.source = case.ip(last);
            frame
        })
    }))
}

fn unknown(case: &Case) -> Vec<Train> {
    let mut frame = case.segment(flag::SYN);
    frame.source = case.ip(STRANGER);
    each([frame])
}

fn foreign(case: &Case) -> Vec<Train> {
    let many: [&str; 2] = if case.v6 {
        ["ff02::1", "fd00::1:1"]
    } else {
        ["255.255.255.255", "224.0.0.1"]
    };
    let others = many.map(|text| text.parse().expect("an address"));
    let others = others.into_iter().chain([case.ip(NEIGHBOUR)]);
    each(others.map(|to| with(case, |f| f.destination = to)))
}
