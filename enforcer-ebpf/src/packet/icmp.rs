//! ICMP: which flow an error is about, and which echo belongs to which.
//!
//! An error quotes the packet that it is about: its IP header, and eight bytes of what follows, which
//! hold the ports. What quotes less, or a packet that did not come from where the error goes to, is
//! about nothing. Neighbour discovery is what it says only as it left its sender (RFC 4861): with the
//! full hop limit and without extension headers.

use super::{
    Frame, Kind, MAPPED, Packet, Rest,
    parse::{be16, be32, be128, mapped},
    protocol,
};

const HEADER: usize = 8;
const QUOTED_BYTES: usize = 8;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// Types of messages.
mod v4 {
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const SOURCE_QUENCH: u8 = 4;
    pub const REDIRECT: u8 = 5;
    pub const ECHO: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER: u8 = 12;
}
mod v6 {
    /// Lower types are errors.
    pub const INFORMATION: u8 = 128;
    pub const ECHO: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    /// Router and neighbour discovery, from the first type to the last.
    pub const DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;
}

/// Reads an ICMP message.
#[inline(always)]
pub fn parse_icmp<F: Frame + ?Sized>(frame: &F, packet: &mut Packet, rest: Rest) {
    let (at, end) = (rest.at as usize, rest.end as usize);
    let on_link = matches!(packet.kind, Kind::Neighbour);
    packet.kind = Kind::Datagram;
    let Some(header) = frame.far::<HEADER>(at).filter(|_| at + HEADER <= end) else {
        // Too short for anybody to make anything of it.
        return;
    };
    let (error, echo, reply) = if packet.v6 {
        (
            header[0] < v6::INFORMATION,
            header[0] == v6::ECHO,
            header[0] == v6::ECHO_REPLY,
        )
    } else {
        let error = matches!(
            header[0],
            v4::UNREACHABLE | v4::SOURCE_QUENCH | v4::REDIRECT | v4::TIME_EXCEEDED | v4::PARAMETER
        );
        (error, header[0] == v4::ECHO, header[0] == v4::ECHO_REPLY)
    };
    if error {
        packet.kind = Kind::Error;
        quoted(frame, packet, at + HEADER, end);
        return;
    }
    if on_link && v6::DISCOVERY.contains(&header[0]) {
        packet.kind = Kind::Neighbour;
    }
    if echo || reply {
        packet.answers = reply;
        packet.source_port = be16(header[4], header[5]);
        packet.destination_port = packet.source_port;
    }
}

#[inline(always)]
fn quoted<F: Frame + ?Sized>(frame: &F, packet: &mut Packet, at: usize, end: usize) {
    let (protocol, source, destination, after) = if packet.v6 {
        let Some(header) = frame.far::<IPV6>(at) else {
            return;
        };
        let destination = be128(&header, 24);
        if header[0] >> 4 != 6 || mapped(&destination) {
            return;
        }
        (header[6], be128(&header, 8), destination, at + IPV6)
    } else {
        let Some(header) = frame.far::<IPV4>(at) else {
            return;
        };
        let length = usize::from(header[0] & 15) * 4;
        // A later fragment has no ports.
        let later = be16(header[6], header[7]) & 0x1fff != 0;
        if header[0] >> 4 != 4 || length < IPV4 || later {
            return;
        }
        let source = [0, 0, MAPPED, be32(&header, 12)];
        let destination = [0, 0, MAPPED, be32(&header, 16)];
        (header[9], source, destination, at + length)
    };
    if !same(&source, &packet.destination) || after + QUOTED_BYTES > end {
        return;
    }
    let Some(bytes) = frame.far::<QUOTED_BYTES>(after) else {
        return;
    };
    packet.quoted = destination;
    packet.quoted_protocol = protocol;
    if protocol::has_ports(protocol) {
        packet.source_port = be16(bytes[2], bytes[3]);
        packet.destination_port = be16(bytes[0], bytes[1]);
    } else if matches!(protocol, protocol::ICMP | protocol::ICMPV6) {
        packet.source_port = be16(bytes[4], bytes[5]);
        packet.destination_port = packet.source_port;
    }
}

#[inline(always)]
fn same(a: &[u32; 4], b: &[u32; 4]) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
}
