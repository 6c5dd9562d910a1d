//! Frames of every shape, and what the parser makes of them; then the same frames cut off at every
//! length, and noise.

use std::net::IpAddr;

use enforcer_ebpf::{
    packet::{Kind, Packet, Part, flag, parse},
    reason::Reason,
};
use fastrand::Rng;
use tests::{
    frame::{self, Extension, Fragment, Frame, tcp_segment},
    world,
};

const V4: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const V6: [&str; 2] = ["fd00::1", "fd00::2"];

fn segment(addresses: [&str; 2], flags: u8) -> Frame {
    let [source, destination] = addresses.map(|text| -> IpAddr { text.parse().expect("address") });
    Frame::tcp((source, 40_000), (destination, 80), flags)
}

fn parsed(frame: &Frame) -> Packet {
    parse(&frame.build()[..])
}

fn extension(number: u8) -> Extension {
    Extension { number, more: 1 }
}

fn fragment(offset: u16, more: bool) -> Option<Fragment> {
    Some(Fragment {
        id: 7,
        offset,
        more,
    })
}

#[test]
fn a_segment_reads_the_same_in_every_wrapping() {
    for addresses in [V4, V6] {
        let plain = parsed(&segment(addresses, flag::SYN));
        assert_eq!(plain.reject, None, "a plain segment is fine");
        assert_eq!((plain.source_port, plain.destination_port), (40_000, 80));
        assert!(
            plain.opens() && !plain.payload,
            "an opening segment without data"
        );
        let mut frame = segment(addresses, flag::SYN);
        for wrap in [
            (|frame| frame.tags = vec![5]) as fn(&mut Frame),
            |frame| frame.tags = vec![5, 6],
            |frame| frame.option_words = 10,
            |frame| frame.extensions = [0, 60, 43, 60, 51, 135, 60].map(extension).to_vec(),
            |frame| frame.padding = 6,
        ] {
            wrap(&mut frame);
            assert_eq!(parsed(&frame), plain, "wrapped as {frame:?}");
        }
    }
    let packet = parsed(&segment(V4, flag::ACK));
    assert_eq!(
        packet.source,
        [0, 0, 0xffff, 0x0a00_0001],
        "IPv4 in its IPv6 form"
    );
}

#[test]
fn what_is_not_tcp_is_told_apart() {
    assert_eq!(parse(&frame::other(0x0806)[..]).kind, Kind::Arp);
    assert_eq!(parse(&frame::other(0x88cc)[..]).kind, Kind::NotIp);
    let mut packet = segment(V6, flag::ACK);
    for number in [17, 58, 50, 59, 132] {
        packet.protocol = number;
        assert_eq!(parsed(&packet).kind, Kind::Datagram, "protocol {number}");
    }
}

#[test]
fn impossible_headers_are_refused_each_for_its_reason() {
    let rejected = |change: fn(&mut Vec<u8>), addresses| {
        let mut bytes = segment(addresses, flag::ACK).build();
        change(&mut bytes);
        parse(&bytes[..]).reject
    };
    let malformed = Some(Reason::Malformed);
    assert_eq!(rejected(|_| (), V4), None, "the twin of what follows");
    assert_eq!(
        rejected(|bytes| bytes[14] = 0x55, V4),
        malformed,
        "version 5"
    );
    assert_eq!(
        rejected(|bytes| bytes[14] = 0x44, V4),
        malformed,
        "header of 16 bytes"
    );
    assert_eq!(
        rejected(|bytes| bytes[14] = 0x4f, V4),
        malformed,
        "header beyond the packet"
    );
    assert_eq!(
        rejected(|bytes| bytes[17] = 41, V4),
        malformed,
        "longer than the frame"
    );
    assert_eq!(
        rejected(|bytes| bytes[17] = 39, V4),
        malformed,
        "shorter than its headers"
    );
    assert_eq!(
        rejected(|bytes| bytes[46] = 0x40, V4),
        malformed,
        "TCP header of 16 bytes"
    );
    assert_eq!(
        rejected(|bytes| bytes[46] = 0x60, V4),
        malformed,
        "TCP header beyond the end"
    );
    assert_eq!(
        rejected(|bytes| bytes[14] = 0x50, V6),
        malformed,
        "version 5 of IPv6"
    );
    let claimed = segment(["::ffff:10.0.0.1", "fd00::2"], flag::ACK);
    assert_eq!(
        parsed(&claimed).reject,
        malformed,
        "IPv6 that claims an IPv4 address"
    );
    let mut tagged = segment(V4, flag::ACK);
    tagged.tags = vec![1, 2, 3];
    assert_eq!(parsed(&tagged).reject, malformed, "three VLAN tags");
}

#[test]
fn flags_that_no_stack_sends_are_refused() {
    for flags in [flag::SYN | flag::FIN, flag::SYN | flag::RST, 0, 0x3f] {
        assert_eq!(
            parsed(&segment(V4, flags)).reject,
            Some(Reason::BadFlags),
            "{flags:#x}"
        );
    }
    for flags in [
        flag::SYN,
        flag::SYN | flag::ACK,
        flag::RST,
        flag::FIN | flag::ACK,
        flag::ACK,
    ] {
        assert_eq!(parsed(&segment(V4, flags)).reject, None, "{flags:#x}");
    }
    let mut reset = segment(V4, flag::RST);
    assert!(parsed(&reset).bare_reset(), "a reset without data");
    reset.padding = 6;
    assert!(parsed(&reset).bare_reset(), "padding is not data");
    reset.body = tcp_segment(1, 2, flag::RST, 1);
    assert!(
        !parsed(&reset).bare_reset(),
        "a reset may carry data, and then it is judged"
    );
}

#[test]
fn extension_headers_are_walked_to_a_limit() {
    let mut frame = segment(V6, flag::ACK);
    frame.extensions = vec![extension(60); 8];
    assert_eq!(parsed(&frame).reject, None, "eight are walked");
    frame.extensions = vec![extension(60); 9];
    assert_eq!(
        parsed(&frame).reject,
        Some(Reason::BadExtension),
        "a ninth is not"
    );
    frame.extensions = vec![extension(60), extension(0)];
    let bad = Some(Reason::BadExtension);
    assert_eq!(
        parsed(&frame).reject,
        bad,
        "hop-by-hop options stand first or nowhere"
    );
    frame.extensions = vec![extension(44), extension(44)];
    frame.fragment = fragment(0, true);
    assert_eq!(parsed(&frame).reject, bad, "a fragment of a fragment");
}

#[test]
fn fragments_cannot_hide_or_change_a_tcp_header() {
    for addresses in [V4, V6] {
        let mut frame = segment(addresses, flag::ACK);
        let mut met = |offset, more, body: usize| {
            frame.fragment = fragment(offset, more);
            frame.body = tcp_segment(40_000, 80, flag::ACK, 80);
            frame.body.truncate(body);
            parsed(&frame)
        };
        let first = met(0, true, 40);
        assert_eq!((first.reject, first.part), (None, Part::First));
        assert_eq!((first.destination_port, first.fragment_id), (80, 7));
        let short = met(0, true, 16).reject;
        assert_eq!(
            short,
            Some(Reason::BadFragment),
            "a first one without the flags"
        );
        for offset in [1, 2] {
            let overlap = met(offset, true, 40).reject;
            assert_eq!(
                overlap,
                Some(Reason::BadFragment),
                "over the header at {offset}"
            );
        }
        let later = met(3, false, 40);
        assert_eq!(
            (later.reject, later.part, later.kind),
            (None, Part::Later, Kind::Tcp)
        );
        assert_eq!(
            later.destination_port, 0,
            "a later one has no ports, whatever its bytes say"
        );
    }
    let mut hidden = segment(V6, flag::ACK);
    hidden.extensions = vec![extension(44), extension(60)];
    hidden.fragment = fragment(3, false);
    assert_eq!(
        parsed(&hidden).kind,
        Kind::Tcp,
        "what hides behind an option may be TCP"
    );
    let mut atomic = segment(V6, flag::ACK);
    atomic.fragment = fragment(0, false);
    assert_eq!(
        parsed(&atomic).part,
        Part::Whole,
        "a fragment that is the whole"
    );
}

/// Reading beyond the slice would panic; so would any index that the parser computed wrongly.
#[test]
fn no_frame_is_read_beyond_its_end() {
    for seed in 0..400 {
        let mut rng = Rng::with_seed(seed);
        let (bytes, _) = world::frame(&mut rng, 0, true);
        for length in 0..bytes.len() {
            let packet = parse(&bytes[..length]);
            let cut = packet.reject.is_none() && packet.kind == Kind::Tcp;
            if cut && packet.part == Part::Whole {
                let ip = parse(&bytes[..]);
                assert_eq!(
                    packet, ip,
                    "seed {seed}: a cut at {length} changes the meaning"
                );
            }
        }
    }
}

#[test]
fn noise_is_never_more_than_noise() {
    let mut rng = Rng::with_seed(5);
    for _ in 0..200_000 {
        let mut bytes: Vec<u8> = (0..rng.usize(0..160)).map(|_| rng.u8(..)).collect();
        if bytes.len() > 20 {
            bytes[12] = [0x08, 0x86, 0x81][rng.usize(0..3)];
            bytes[13] = [0x00, 0xdd, 0x00][rng.usize(0..3)];
            bytes[14] = [0x45, 0x60, 0x4f][rng.usize(0..3)];
        }
        let packet = parse(&bytes[..]);
        if packet.reject.is_none() && packet.kind == Kind::Tcp && packet.part != Part::Later {
            assert!(
                bytes.len() >= 54,
                "ports read from a frame that cannot hold them"
            );
        }
    }
}
