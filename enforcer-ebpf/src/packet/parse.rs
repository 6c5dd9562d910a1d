//! Reads the headers one after the other. What it reads through is in the parent.

use super::{
    ETHERTYPE_AT, ETHERTYPE_IPV4, EXTENSIONS_MAX, Frame, Kind, MAPPED, NEAR_BYTES, Packet, Part,
    Rest, Unread, flag, protocol,
};
use crate::reason::Reason;

const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
const VLAN_TAGS_MAX: usize = 2;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const PORTS: usize = 4;
/// A packet that has it has passed no router.
const FULL_HOP_LIMIT: u8 = 255;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

const _: () = assert!(NEAR_BYTES as usize == ETHERNET + IPV6 + TCP);

/// Reads a frame into `packet`, up to what is left for later.
#[inline(always)]
pub fn parse_first<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Rest {
    let read = match frame.near(ETHERTYPE_AT) {
        Some(ethertype) => ethernet::<F, NEAR>(frame, packet, ETHERNET, ethertype),
        None => Err(Reason::Malformed),
    };
    or_rejected(read, packet)
}

/// Reads a frame that [`parse_first`] left as [`Unread::Far`], from its beginning: with VLAN tags, or
/// with IPv4 options. One or two tags within the frame; a third is nothing that a pod can receive.
#[inline(always)]
pub fn parse_far<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Rest {
    let mut at = ETHERNET;
    let mut tags = 0;
    let read = loop {
        let Some(ethertype) = frame.far(at - 2) else {
            break Err(Reason::Malformed);
        };
        if !is_tag(u16::from_be_bytes(ethertype)) {
            // VERIFIER: wherever it is, what follows is walked once.
            at = frame.opaque(narrow(at)) as usize;
            break ethernet::<F, FAR>(frame, packet, at, ethertype);
        }
        if tags == VLAN_TAGS_MAX {
            break Err(Reason::Malformed);
        }
        tags += 1;
        at += VLAN_TAG;
    };
    or_rejected(read, packet)
}

/// What was read before the reason to refuse it stays, for whoever is told of it; nobody judges by it.
// VERIFIER: a few stores for each of many reasons.
#[inline(always)]
fn or_rejected(read: Result<Rest, Reason>, packet: &mut Packet) -> Rest {
    match read {
        Ok(rest) => rest,
        Err(reason) => {
            packet.reject = Some(reason);
            packet.kind = Kind::NotIp;
            packet.part = Part::Whole;
            packet.flags = 0;
            Rest::NOTHING
        }
    }
}

/// What an Ethernet frame carries at an offset. Near is what has neither tags nor options, so that
/// its offsets are constants.
// VERIFIER: two functions in the kernel, or the ways through one would multiply with the other's.
#[inline(always)]
fn ethernet<F: Frame + ?Sized, const AT: bool>(
    frame: &F,
    packet: &mut Packet,
    at: usize,
    ethertype: [u8; 2],
) -> Result<Rest, Reason> {
    match u16::from_be_bytes(ethertype) {
        ETHERTYPE_IPV4 => {
            let header = bytes::<F, AT, IPV4>(frame, at).ok_or(Reason::Malformed)?;
            ipv4::<F, AT>(frame, packet, at, &header)
        }
        ETHERTYPE_IPV6 => {
            let header = bytes::<F, AT, IPV6>(frame, at).ok_or(Reason::Malformed)?;
            ipv6::<F, AT>(frame, packet, at, &header)
        }
        ETHERTYPE_ARP => {
            *packet = Packet {
                kind: Kind::Arp,
                ..Packet::NOTHING
            };
            Ok(Rest::NOTHING)
        }
        tag if AT == NEAR && is_tag(tag) => Ok(Rest::FAR),
        _ => {
            *packet = Packet::NOTHING;
            Ok(Rest::NOTHING)
        }
    }
}

const NEAR: bool = true;
const FAR: bool = false;

#[inline(always)]
fn bytes<F: Frame + ?Sized, const AT: bool, const N: usize>(
    frame: &F,
    at: usize,
) -> Option<[u8; N]> {
    if AT == NEAR {
        frame.near(at)
    } else {
        frame.far(at)
    }
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
}

#[inline(always)]
fn ipv4<F: Frame + ?Sized, const AT: bool>(
    frame: &F,
    packet: &mut Packet,
    base: usize,
    header: &[u8; IPV4],
) -> Result<Rest, Reason> {
    let header_length = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_length < IPV4 {
        return Err(Reason::Malformed);
    }
    if AT == NEAR && header_length != IPV4 {
        return Ok(Rest::FAR);
    }
    let total = be16(header[2], header[3]);
    let end = end_of(frame, base, usize::from(total))?;
    let fragment = be16(header[6], header[7]);
    let offset = usize::from(fragment & 0x1fff) * 8;
    let more = fragment & 0x2000 != 0;
    *packet = Packet {
        kind: Kind::Datagram,
        part: part(offset, more),
        protocol: header[9],
        fragment_id: u32::from(be16(header[4], header[5])),
        source: [0, 0, MAPPED, be32(header, 12)],
        destination: [0, 0, MAPPED, be32(header, 16)],
        ..Packet::NOTHING
    };
    let at = if AT == NEAR {
        ETHERNET + IPV4
    } else {
        base + header_length
    };
    if at > end {
        return Err(Reason::Malformed);
    }
    if packet.protocol != protocol::TCP {
        return Ok(other(frame, packet, at, end));
    }
    packet.kind = Kind::Tcp;
    if packet.part == Part::Later {
        later(offset)?;
        return Ok(Rest::NOTHING);
    }
    tcp(packet, bytes::<F, AT, TCP>(frame, at), at, end)?;
    Ok(Rest::NOTHING)
}

#[inline(always)]
fn ipv6<F: Frame + ?Sized, const AT: bool>(
    frame: &F,
    packet: &mut Packet,
    base: usize,
    header: &[u8; IPV6],
) -> Result<Rest, Reason> {
    if header[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let payload = usize::from(be16(header[4], header[5]));
    let total = if payload == 0 { 0 } else { payload + IPV6 };
    let end = end_of(frame, base, total)?;
    *packet = Packet {
        kind: Kind::Datagram,
        v6: true,
        protocol: header[6],
        source: be128(header, 8),
        destination: be128(header, 24),
        ..Packet::NOTHING
    };
    // IPv4 has one form inside; an IPv6 packet that claims it would be taken for another's.
    if mapped(&packet.source) || mapped(&packet.destination) {
        return Err(Reason::Malformed);
    }
    if packet.protocol == protocol::TCP {
        packet.kind = Kind::Tcp;
        let at = base + IPV6;
        tcp(packet, bytes::<F, AT, TCP>(frame, at), at, end)?;
        return Ok(Rest::NOTHING);
    }
    let at = base + IPV6;
    if packet.protocol == protocol::ICMPV6 {
        if header[7] == FULL_HOP_LIMIT {
            // It may be; its type is still to be read.
            packet.kind = Kind::Neighbour;
        }
        return Ok(Rest {
            what: Unread::Icmp,
            at: narrow(at),
            end: narrow(end),
        });
    }
    if !is_extension(packet.protocol) {
        return Ok(other(frame, packet, at, end));
    }
    Ok(Rest {
        what: Unread::Extended,
        at: narrow(at),
        end: narrow(end),
    })
}

/// Offsets are those of a frame, which is shorter than 2^32 bytes.
#[inline(always)]
fn narrow(offset: usize) -> u32 {
    let bytes = offset.to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// What is neither TCP nor preceded by extension headers.
#[inline(always)]
fn other<F: Frame + ?Sized>(frame: &F, packet: &mut Packet, at: usize, end: usize) -> Rest {
    let icmp = if packet.v6 {
        protocol::ICMPV6
    } else {
        protocol::ICMP
    };
    if packet.part == Part::Later {
        return Rest::NOTHING;
    }
    if packet.protocol == icmp {
        return Rest {
            what: Unread::Icmp,
            at: narrow(at),
            end: narrow(end),
        };
    }
    if frame.wants_ports()
        && protocol::has_ports(packet.protocol)
        && at + PORTS <= end
        && let Some(ports) = frame.far::<PORTS>(at)
    {
        packet.source_port = be16(ports[0], ports[1]);
        packet.destination_port = be16(ports[2], ports[3]);
    }
    Rest::NOTHING
}

/// Walks the extension headers of an IPv6 packet.
#[inline(always)]
pub fn parse_extended<F: Frame + ?Sized>(frame: &F, packet: &mut Packet, rest: Rest) -> Rest {
    let read = extended(frame, packet, rest);
    or_rejected(read, packet)
}

#[inline(always)]
fn extended<F: Frame + ?Sized>(frame: &F, packet: &mut Packet, rest: Rest) -> Result<Rest, Reason> {
    let end = rest.end as usize;
    let mut at = rest.at as usize;
    let mut step = 0;
    while step < EXTENSIONS_MAX {
        // VERIFIER: so that the ways through one header do not multiply with those through the next.
        at = frame.opaque(narrow(at)) as usize;
        let header: [u8; 8] = frame.far(at).ok_or(Reason::Malformed)?;
        if at + header.len() > end {
            return Err(Reason::Malformed);
        }
        let length = match packet.protocol {
            protocol::FRAGMENT => {
                if packet.part != Part::Whole {
                    return Err(Reason::BadExtension);
                }
                let fragment = be16(header[2], header[3]);
                let offset = usize::from(fragment & !7);
                packet.part = part(offset, fragment & 1 != 0);
                packet.fragment_id =
                    u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                if packet.part == Part::Later {
                    packet.protocol = header[0];
                    // What follows an extension header in the first fragment may be TCP.
                    if header[0] == protocol::TCP || is_extension(header[0]) {
                        packet.kind = Kind::Tcp;
                        later(offset)?;
                    }
                    return Ok(Rest::NOTHING);
                }
                8
            }
            protocol::AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            protocol::HOP_BY_HOP if step != 0 => return Err(Reason::BadExtension),
            _ => (usize::from(header[1]) + 1) * 8,
        };
        at += length;
        packet.protocol = header[0];
        if at > end {
            return Err(Reason::Malformed);
        }
        if packet.protocol == protocol::TCP {
            packet.kind = Kind::Tcp;
            tcp(packet, frame.far(at), at, end)?;
            return Ok(Rest::NOTHING);
        }
        if !is_extension(packet.protocol) {
            return Ok(other(frame, packet, at, end));
        }
        step += 1;
    }
    Err(Reason::BadExtension)
}

/// A later fragment that reaches into the first one's TCP header could change what was judged.
#[inline(always)]
fn later(offset: usize) -> Result<(), Reason> {
    if offset < TCP {
        return Err(Reason::BadFragment);
    }
    Ok(())
}

#[inline(always)]
fn tcp(
    packet: &mut Packet,
    segment: Option<[u8; TCP]>,
    at: usize,
    end: usize,
) -> Result<(), Reason> {
    let short = match packet.part {
        Part::First => Reason::BadFragment,
        _ => Reason::Malformed,
    };
    let header = segment.ok_or(short)?;
    let header_length = usize::from(header[12] >> 4) * 4;
    if at + TCP > end {
        return Err(short);
    }
    if header_length < TCP || (packet.part == Part::Whole && at + header_length > end) {
        return Err(Reason::Malformed);
    }
    packet.source_port = be16(header[0], header[1]);
    packet.destination_port = be16(header[2], header[3]);
    packet.flags = header[13] & 0x3f;
    packet.payload = at + header_length != end;
    let opening = packet.flags & flag::SYN != 0;
    if packet.flags == 0 || (opening && packet.flags & (flag::FIN | flag::RST) != 0) {
        return Err(Reason::BadFlags);
    }
    Ok(())
}

/// Where the IP packet ends within the frame: `total` bytes after `base`. Length 0 stands for a
/// packet too large to say it, which the kernel makes when it batches segments; a receiver that
/// meets a real 0 drops it.
#[inline(always)]
fn end_of<F: Frame + ?Sized>(frame: &F, base: usize, total: usize) -> Result<usize, Reason> {
    let length = frame.length();
    if total == 0 {
        return Ok(length);
    }
    if base + total > length {
        return Err(Reason::Malformed);
    }
    Ok(base + total)
}

#[inline(always)]
fn part(offset: usize, more: bool) -> Part {
    if offset != 0 {
        Part::Later
    } else if more {
        Part::First
    } else {
        Part::Whole
    }
}

#[inline(always)]
fn is_extension(number: u8) -> bool {
    matches!(
        number,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION
            | protocol::MOBILITY
    )
}

#[inline(always)]
pub(super) fn mapped(address: &[u32; 4]) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == MAPPED
}

#[inline(always)]
pub(super) fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

#[inline(always)]
pub(super) fn be32<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[inline(always)]
pub(super) fn be128<const N: usize>(header: &[u8; N], at: usize) -> [u32; 4] {
    [
        be32(header, at),
        be32(header, at + 4),
        be32(header, at + 8),
        be32(header, at + 12),
    ]
}
