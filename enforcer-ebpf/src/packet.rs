//! Bytes to a [`Packet`], or a named reason to refuse them.
//!
//! The only module that knows network byte order. It must not know policies, pods or maps. Whatever
//! the bytes are, it neither panics nor reads beyond them, and what it cannot read to the end is a
//! [`Reason`], never a guess: a receiver that understands more of a packet than this module did would
//! be a way around the policy.

use crate::reason::Reason;

/// Bounds-checked access to the bytes of a frame. `None` stands for bytes that are not there.
pub trait Frame {
    /// `N` bytes at an offset that is a constant of the program: a direct, cheap read.
    // VERIFIER: packet pointers with constant offsets are the ones that every kernel can follow.
    fn near<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
    /// `N` bytes at any offset; a helper call in the kernel.
    fn far<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
    /// Bytes of the frame, those outside the linear part included.
    fn length(&self) -> usize;
}

impl Frame for [u8] {
    fn near<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..)?.first_chunk().copied()
    }
    fn far<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.near(at)
    }
    fn length(&self) -> usize {
        self.len()
    }
}

/// What a frame carries, as far as judging needs to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Address resolution.
    Arp,
    /// Another protocol than IP.
    NotIp,
    /// IP, but not TCP.
    Datagram,
    /// TCP, or a later fragment of what may be TCP.
    Tcp,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment: it has the ports.
    First,
    /// A later fragment: ports and flags are 0.
    Later,
}

/// A packet in host byte order. IPv4 addresses are `::ffff:a.b.c.d`, most significant word first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Why the frame must be refused as it is; then the other fields say nothing.
    // VERIFIER: a `Result` would leave the packet's fields undefined in its error, and the compiler
    // moves undefined registers about, which the kernel refuses to see.
    pub reject: Option<Reason>,
    pub kind: Kind,
    pub part: Part,
    pub v6: bool,
    /// IP protocol; of a later fragment, what the fragment's own header says.
    pub protocol: u8,
    /// TCP flags, see [`flag`].
    pub flags: u8,
    /// Carries TCP data.
    pub payload: bool,
    pub source_port: u16,
    pub destination_port: u16,
    pub fragment_id: u32,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

/// TCP flags.
pub mod flag {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
    pub const URG: u8 = 32;
}

/// IP protocol numbers.
pub mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION: u8 = 60;
    pub const MOBILITY: u8 = 135;
}

/// Third word of an IPv4 address in its IPv6 form.
pub const MAPPED: u32 = 0xffff;
/// IPv6 extension headers that are walked.
pub const EXTENSIONS_MAX: usize = 8;
/// Bytes that the fast path reads: Ethernet, IPv6, TCP.
pub const NEAR_BYTES: usize = ETHERNET + IPV6 + TCP;

const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

impl Packet {
    /// A frame that says nothing.
    pub const NOTHING: Self = Self {
        reject: None,
        kind: Kind::NotIp,
        part: Part::Whole,
        v6: false,
        protocol: 0,
        flags: 0,
        payload: false,
        source_port: 0,
        destination_port: 0,
        fragment_id: 0,
        source: [0; 4],
        destination: [0; 4],
    };

    /// An opening segment: SYN without ACK, whatever the other bits.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK) == flag::SYN
    }
    /// The second segment of an opening: SYN and ACK.
    #[inline(always)]
    pub fn accepts(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK
    }
    /// A reset that carries nothing: it can only end a connection.
    #[inline(always)]
    pub fn bare_reset(&self) -> bool {
        self.flags & flag::RST != 0 && !self.payload
    }
}

/// Addresses and ports as the wire has them, for helpers of the kernel that want them so.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct WireTuple {
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub source_port: u16,
    pub destination_port: u16,
}

impl Packet {
    /// The packet's addresses and ports in network order. IPv4 is in the last word.
    #[inline(always)]
    pub fn wire_tuple(&self) -> WireTuple {
        WireTuple {
            source: self.source.map(u32::to_be),
            destination: self.destination.map(u32::to_be),
            source_port: self.source_port.to_be(),
            destination_port: self.destination_port.to_be(),
        }
    }
}

/// Reads a frame. [`Packet::reject`] may become [`Reason::Malformed`], [`Reason::BadFlags`],
/// [`Reason::BadExtension`] or [`Reason::BadFragment`].
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F) -> Packet {
    match ethernet(frame) {
        Ok(packet) => packet,
        Err(reason) => Packet {
            reject: Some(reason),
            ..Packet::NOTHING
        },
    }
}

#[inline(always)]
fn ethernet<F: Frame + ?Sized>(frame: &F) -> Result<Packet, Reason> {
    match u16::from_be_bytes(frame.near(ETHERNET - 2).ok_or(Reason::Malformed)?) {
        ETHERTYPE_IPV4 => {
            let header = frame.near(ETHERNET).ok_or(Reason::Malformed)?;
            ipv4(frame, ETHERNET, &header)
        }
        ETHERTYPE_IPV6 => {
            let header = frame.near(ETHERNET).ok_or(Reason::Malformed)?;
            ipv6(frame, ETHERNET, &header)
        }
        ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => tagged(frame),
        ETHERTYPE_ARP => Ok(Packet {
            kind: Kind::Arp,
            ..Packet::NOTHING
        }),
        _ => Ok(Packet::NOTHING),
    }
}

/// One or two VLAN tags within the frame; a third is nothing that a pod can receive.
// VERIFIER: kept apart, so that the fast path has constant offsets only.
#[inline(always)]
fn tagged<F: Frame + ?Sized>(frame: &F) -> Result<Packet, Reason> {
    let mut at = ETHERNET + VLAN_TAG;
    let mut ethertype = u16::from_be_bytes(frame.far(at - 2).ok_or(Reason::Malformed)?);
    if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN {
        at += VLAN_TAG;
        ethertype = u16::from_be_bytes(frame.far(at - 2).ok_or(Reason::Malformed)?);
    }
    match ethertype {
        ETHERTYPE_IPV4 => {
            let header = frame.far(at).ok_or(Reason::Malformed)?;
            ipv4(frame, at, &header)
        }
        ETHERTYPE_IPV6 => {
            let header = frame.far(at).ok_or(Reason::Malformed)?;
            ipv6(frame, at, &header)
        }
        ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => Err(Reason::Malformed),
        ETHERTYPE_ARP => Ok(Packet {
            kind: Kind::Arp,
            ..Packet::NOTHING
        }),
        _ => Ok(Packet::NOTHING),
    }
}

#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F, base: usize, header: &[u8; IPV4]) -> Result<Packet, Reason> {
    let header_length = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_length < IPV4 {
        return Err(Reason::Malformed);
    }
    let total = be16(header[2], header[3]);
    let end = end_of(frame, base, usize::from(total))?;
    let fragment = be16(header[6], header[7]);
    let offset = usize::from(fragment & 0x1fff) * 8;
    let more = fragment & 0x2000 != 0;
    let mut packet = Packet {
        kind: Kind::Datagram,
        part: part(offset, more),
        protocol: header[9],
        fragment_id: u32::from(be16(header[4], header[5])),
        source: [0, 0, MAPPED, be32(header, 12)],
        destination: [0, 0, MAPPED, be32(header, 16)],
        ..Packet::NOTHING
    };
    if base + header_length > end {
        return Err(Reason::Malformed);
    }
    if packet.protocol != protocol::TCP {
        return Ok(packet);
    }
    packet.kind = Kind::Tcp;
    if packet.part == Part::Later {
        return later(packet, offset);
    }
    // VERIFIER: without options the offset is a constant in the common, untagged case.
    let at = base + header_length;
    let segment = if header_length == IPV4 && base == ETHERNET {
        frame.near(ETHERNET + IPV4)
    } else {
        frame.far(at)
    };
    tcp(packet, segment, at, end)
}

#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F, base: usize, header: &[u8; IPV6]) -> Result<Packet, Reason> {
    if header[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let payload = usize::from(be16(header[4], header[5]));
    let total = if payload == 0 { 0 } else { payload + IPV6 };
    let end = end_of(frame, base, total)?;
    let mut packet = Packet {
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
        // VERIFIER: a constant offset in the common, untagged case.
        let segment = if base == ETHERNET {
            frame.near(ETHERNET + IPV6)
        } else {
            frame.far(at)
        };
        return tcp(packet, segment, at, end);
    }
    if !is_extension(packet.protocol) {
        return Ok(packet);
    }
    extended(frame, packet, base + IPV6, end)
}

/// Walks the extension headers of an IPv6 packet.
#[inline(always)]
fn extended<F: Frame + ?Sized>(
    frame: &F,
    mut packet: Packet,
    first: usize,
    end: usize,
) -> Result<Packet, Reason> {
    let mut at = first;
    let mut step = 0;
    while step < EXTENSIONS_MAX {
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
                        return later(packet, offset);
                    }
                    return Ok(packet);
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
            return tcp(packet, frame.far(at), at, end);
        }
        if !is_extension(packet.protocol) {
            return Ok(packet);
        }
        step += 1;
    }
    Err(Reason::BadExtension)
}

/// A later fragment that reaches into the first one's TCP header could change what was judged.
#[inline(always)]
fn later(packet: Packet, offset: usize) -> Result<Packet, Reason> {
    if offset < TCP {
        return Err(Reason::BadFragment);
    }
    Ok(packet)
}

#[inline(always)]
fn tcp(
    mut packet: Packet,
    segment: Option<[u8; TCP]>,
    at: usize,
    end: usize,
) -> Result<Packet, Reason> {
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
    Ok(packet)
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
fn mapped(address: &[u32; 4]) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == MAPPED
}

#[inline(always)]
fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

#[inline(always)]
fn be32<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[inline(always)]
fn be128<const N: usize>(header: &[u8; N], at: usize) -> [u32; 4] {
    [
        be32(header, at),
        be32(header, at + 4),
        be32(header, at + 8),
        be32(header, at + 12),
    ]
}
