//! Packets whose IP headers are out of the ordinary: options, extensions, fragments, lengths, tags.

use enforcer_ebpf::packet::{flag, protocol};

use super::{
    Train,
    rows::{bytes, each, plain, raw, with},
    world::Case,
};
use crate::frame::{Extension, Frame};

/// Bytes of a frame before the packet in it, and of the packet's own header.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// A datagram's bytes where fragments are cut from it.
const DATAGRAM: usize = 96;

pub(super) fn options(case: &Case) -> Vec<Train> {
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

pub(super) fn extensions(case: &Case) -> Vec<Train> {
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

pub(super) fn bombs(case: &Case) -> Vec<Train> {
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

pub(super) fn misplaced(case: &Case) -> Vec<Train> {
    if !case.v6 {
        return Vec::new();
    }
    let late = chained(case, &[protocol::DESTINATION, protocol::HOP_BY_HOP]);
    let twice = chained(case, &[protocol::FRAGMENT, protocol::FRAGMENT]);
    each([late, case.part(&twice, 0, 16)])
}

pub(super) fn runaways(case: &Case) -> Vec<Train> {
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

pub(super) fn first(case: &Case) -> Vec<Train> {
    each([24, 32].map(|to| case.part(&datagram(case), 0, to)))
}

pub(super) fn later(case: &Case) -> Vec<Train> {
    [24, 64, 88]
        .map(|from| {
            let datagram = datagram(case);
            let parts = [case.part(&datagram, 0, 24), case.part(&datagram, from, 96)];
            parts.map(|part| part.build()).to_vec()
        })
        .to_vec()
}

pub(super) fn orphans(case: &Case) -> Vec<Train> {
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

pub(super) fn tiny(case: &Case) -> Vec<Train> {
    each([8, 16].map(|to| case.part(&datagram(case), 0, to)))
}

pub(super) fn over_header(case: &Case) -> Vec<Train> {
    [8, 16]
        .map(|from| {
            let datagram = datagram(case);
            let parts = [case.part(&datagram, 0, 24), case.part(&datagram, from, 96)];
            parts.map(|part| part.build()).to_vec()
        })
        .to_vec()
}

pub(super) fn overlaps(case: &Case) -> Vec<Train> {
    let datagram = datagram(case);
    let parts = [(0, 64), (40, 96), (24, 72)].map(|(from, to)| case.part(&datagram, from, to));
    vec![parts.map(|part| part.build()).to_vec()]
}

pub(super) fn atomic(case: &Case) -> Vec<Train> {
    if !case.v6 {
        return Vec::new();
    }
    // Stacks step over such a header, also over two.
    let twice = chained(case, &[protocol::FRAGMENT, protocol::FRAGMENT]);
    each([plain(case), twice].map(|whole| case.part(&whole, 0, 20)))
}

pub(super) fn cut(case: &Case) -> Vec<Train> {
    let whole = plain(case).build();
    raw((ETHERNET..whole.len()).map(|length| whole[..length].to_vec()))
}

/// Writes the packet's length field: of all of it in IPv4, of what follows the header in IPv6.
fn say_length(case: &Case, bytes: &mut [u8], length: usize) {
    let at = ETHERNET + if case.v6 { 4 } else { 2 };
    let length = u16::try_from(length).expect("a test packet fits its length field");
    bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

pub(super) fn lengths(case: &Case) -> Vec<Train> {
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

pub(super) fn length_zero(case: &Case) -> Vec<Train> {
    raw([bytes(case, |b| say_length(case, b, 0))])
}

pub(super) fn padded(case: &Case) -> Vec<Train> {
    each([1, 6, 26].map(|padding| with(case, |f| f.padding = padding)))
}

pub(super) fn versions(case: &Case) -> Vec<Train> {
    let low = if case.v6 { 0 } else { 5 };
    let own = if case.v6 { 6 } else { 4 };
    let others = (0..16u8).filter(|version| *version != own);
    raw(others.map(|version| bytes(case, |b| b[ETHERNET] = version << 4 | low)))
}

pub(super) fn mapped(case: &Case) -> Vec<Train> {
    if !case.v6 {
        return Vec::new();
    }
    let borrowed = "::ffff:10.0.0.5".parse().expect("an address");
    each([
        with(case, |f| f.source = borrowed),
        with(case, |f| f.destination = borrowed),
    ])
}

pub(super) fn tagged(case: &Case) -> Vec<Train> {
    let mut trains = each([vec![5], vec![5, 6]].map(|tags| with(case, |f| f.tags = tags)));
    let mut service = with(case, |f| f.tags = vec![5, 6]).build();
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    trains.push(vec![service]);
    trains
}

pub(super) fn thrice(case: &Case) -> Vec<Train> {
    let tags = [3, 4].map(|count| vec![7; count]);
    each(tags.map(|tags| with(case, |f| f.tags = tags)))
}
