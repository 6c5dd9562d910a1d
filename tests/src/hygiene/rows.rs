//! The rows of the matrix.

use enforcer_ebpf::{event::Hook, packet::flag, reason::Reason};

use super::{
    Meets::{Drop, Judged, Pass},
    Packets::{Built, Live},
    Row, Train,
    headers::*,
    segments::*,
    world::{Case, HOOKS},
};
use crate::frame::Frame;

const BOTH: &[Hook] = &[Hook::ToPod, Hook::FromPod];
const TO: &[Hook] = &[Hook::ToPod];
const FROM: &[Hook] = &[Hook::FromPod];
const ALL: &[Hook] = &HOOKS;

macro_rules! rows {
    ($( $packet:literal, $hooks:ident, $meets:expr, $why:literal, $packets:expr; )+) => {
        /// Every row, in the order of the README.
        #[must_use]
        pub fn rows() -> Vec<Row> {
            vec![$( Row {
                packet: $packet,
                hooks: $hooks,
                meets: $meets,
                why: $why,
                packets: $packets,
            }, )+]
        }
    };
}

rows! {
    "IPv4 options", BOTH, Judged, "skipped by the header's own length", Built(options);
    "up to 8 IPv6 extension headers", BOTH, Judged, "walked, whatever their order", Built(extensions);
    "a ninth one", ALL, Drop(Reason::BadExtension), "a bomb costs eight reads", Built(bombs);
    "hop-by-hop not first, a fragment of a fragment", ALL, Drop(Reason::BadExtension), "no stack sends them", Built(misplaced);
    "a chain that leaves the packet", ALL, Drop(Reason::Malformed), "the ports cannot be known", Built(runaways);
    "first fragment", BOTH, Judged, "it has the whole TCP header", Built(first);
    "later fragment, first one seen", BOTH, Judged, "meets what the first one met", Built(later);
    "later fragment, first one not seen", BOTH, Drop(Reason::UnknownFragment), "out of order: the sender tries again", Built(orphans);
    "first fragment below 20 bytes of TCP", ALL, Drop(Reason::BadFragment), "flags or ports would be hidden", Built(tiny);
    "later fragment at byte 8 or 16", ALL, Drop(Reason::BadFragment), "it would change what was judged", Built(over_header);
    "fragments that overlap beyond", BOTH, Judged, "the header stands; the receiver objects", Built(overlaps);
    "IPv6 fragment that is all", BOTH, Judged, "RFC 6946", Built(atomic);
    "headers cut short", ALL, Drop(Reason::Malformed), "never read beyond the frame", Built(cut);
    "lengths that do not fit", ALL, Drop(Reason::Malformed), "longer than the frame, shorter than headers", Built(lengths);
    "length 0", BOTH, Judged, "batches above 64 KB; a real 0 no stack takes", Built(length_zero);
    "bytes after the packet", BOTH, Judged, "Ethernet's padding is no data", Built(padded);
    "wrong IP version", ALL, Drop(Reason::Malformed), "no stack takes it", Built(versions);
    "IPv4-mapped IPv6 address", ALL, Drop(Reason::Malformed), "it would borrow an IPv4 identity", Built(mapped);
    "VLAN, QinQ tags in the frame", BOTH, Judged, "as without them", Built(tagged);
    "a third tag", ALL, Drop(Reason::Malformed), "no pod unwraps it", Built(thrice);
    "batched segments (GSO, GRO)", BOTH, Judged, "they have one header", Live("batched_segments_arrive_byte_for_byte");
    "headers outside the linear part", BOTH, Judged, "pulled in, then read", Live("headers_outside_the_linear_part_are_read");
    "SYN with FIN or RST, no flag", ALL, Drop(Reason::BadFlags), "no stack sends them", Built(bad_flags);
    "other flags, asked for or not", BOTH, Judged, "no state that they could upset", Built(odd_flags);
    "RST without data, not allowed", BOTH, Pass(Reason::BareReset), "it ends what a DENY has cut", Built(resets);
    "UDP, also in fragments", BOTH, Pass(Reason::NonTcp), "policy speaks of TCP", Built(udp);
    "ICMP, ICMPv6", BOTH, Pass(Reason::NonTcp), "policy speaks of TCP", Built(icmp);
    "ICMP error about no flow of the pod", TO, Drop(Reason::ForeignError), "path MTU keeps working for those it has", Built(icmp_errors);
    "neighbour discovery, MLD, DHCP", BOTH, Pass(Reason::LinkControl), "the link keeps working", Built(link_control);
    "ARP", BOTH, Pass(Reason::LinkControl), "as above", Built(arp);
    "SCTP, ESP, tunnels, unknown protocols", BOTH, Pass(Reason::NonTcp), "only a pod's own tunnel opens them", Built(protocols);
    "no IP", BOTH, Pass(Reason::NonTcp), "as above", Built(not_ip);
    "source that is not the pod's", FROM, Drop(Reason::SpoofedPodSource), "verdicts rest on addresses", Built(pod_spoofs);
    "a local pod's source from elsewhere", TO, Drop(Reason::SpoofedLocalSource), "as above", Built(spoofs);
    "SYN from a pod address nobody holds", TO, Drop(Reason::UnknownIdentity), "too new: its next attempt is judged", Built(unknown);
    "TCP to another's address", TO, Drop(Reason::ForeignDestination), "broadcast and multicast too", Built(foreign);
}

/// Each frame is a train by itself.
pub(super) fn each(frames: impl IntoIterator<Item = Frame>) -> Vec<Train> {
    frames.into_iter().map(|f| vec![f.build()]).collect()
}

/// Each string of bytes is a train by itself.
pub(super) fn raw(frames: impl IntoIterator<Item = Vec<u8>>) -> Vec<Train> {
    frames.into_iter().map(|bytes| vec![bytes]).collect()
}

pub(super) fn plain(case: &Case) -> Frame {
    case.segment(flag::ACK)
}

pub(super) fn with(case: &Case, change: impl FnOnce(&mut Frame)) -> Frame {
    let mut frame = plain(case);
    change(&mut frame);
    frame
}

/// A segment's bytes, changed.
pub(super) fn bytes(case: &Case, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = plain(case).build();
    change(&mut bytes);
    bytes
}
