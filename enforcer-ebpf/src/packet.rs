//! Bytes to a [`Packet`], or a named reason to refuse them.
//!
//! The only module that knows network byte order. It must not know policies, pods or maps. Whatever
//! the bytes are, it neither panics nor reads beyond them, and what it cannot read to the end is a
//! [`Reason`], never a guess: a receiver that understands more of a packet than this module did would
//! be a way around the policy.

mod ending;
mod icmp;
mod parse;
mod plain;

use crate::reason::Reason;
pub use ending::{AT, BYTES_V4, BYTES_V6, WORDS_V4, WORDS_V6, ending_v4, ending_v6};
pub use icmp::parse_icmp;
pub use parse::{parse_extended, parse_far, parse_first};
pub use plain::{Plain, parse_plain};

/// Bounds-checked access to the bytes of a frame. `None` stands for bytes that are not there.
pub trait Frame {
    /// `N` bytes at an offset that is a constant of the program: a direct, cheap read.
    // VERIFIER: packet pointers with constant offsets are the ones that every kernel can follow.
    fn near<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
    /// `N` words of four bytes, most significant first, at an offset as above.
    fn near_words<const N: usize>(&self, at: usize) -> Option<[u32; N]>;
    /// `N` bytes at any offset; a helper call in the kernel.
    fn far<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
    /// Bytes of the frame, those outside the linear part included.
    fn length(&self) -> usize;

    /// Whether anybody will ask for the ports of datagrams.
    #[inline(always)]
    fn wants_ports(&self) -> bool {
        true
    }
    /// The same number. To be overridden only by a reader whose checker had better know nothing of it.
    #[inline(always)]
    fn opaque(&self, number: u32) -> u32 {
        number
    }
}

/// What of a frame is still to be read: rare, long and full of branches, so that the kernel has
/// functions of their own for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rest {
    pub what: Unread,
    /// Offsets of the part that is unread, and of the packet's end.
    pub at: u32,
    pub end: u32,
}

/// What is unread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Unread {
    Nothing = 0,
    /// The extension headers of IPv6, for [`parse_extended`].
    Extended = 1,
    /// An ICMP message, for [`parse_icmp`].
    Icmp = 2,
    /// Everything, for [`parse_far`].
    Far = 3,
}

impl Rest {
    pub const NOTHING: Self = Self {
        what: Unread::Nothing,
        at: 0,
        end: 0,
    };
    pub const FAR: Self = Self {
        what: Unread::Far,
        ..Self::NOTHING
    };
}

/// Reads a whole frame. [`Packet::reject`] may become [`Reason::Malformed`], [`Reason::BadFlags`],
/// [`Reason::BadExtension`] or [`Reason::BadFragment`].
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F) -> Packet {
    let mut packet = Packet::NOTHING;
    let mut rest = parse_first(frame, &mut packet);
    if matches!(rest.what, Unread::Far) {
        rest = parse_far(frame, &mut packet);
    }
    if matches!(rest.what, Unread::Extended) {
        rest = parse_extended(frame, &mut packet, rest);
    }
    if matches!(rest.what, Unread::Icmp) {
        parse_icmp(frame, &mut packet, rest);
    }
    packet
}

impl Frame for [u8] {
    fn near<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..)?.first_chunk().copied()
    }
    fn near_words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        let (words, _) = self.get(at..)?.as_chunks();
        let words: &[[u8; 4]; N] = words.first_chunk()?;
        Some(words.map(u32::from_be_bytes))
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
    /// IP, but neither TCP nor an ICMP error.
    Datagram,
    /// An ICMP error, which quotes a packet of the flow that it is about.
    Error,
    /// Router and neighbour discovery of IPv6, from the link itself: no router has forwarded it.
    Neighbour,
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
    /// Why the frame must be refused as it is. Then the kind is [`Kind::NotIp`], and of the rest what had
    /// been read by then is for reports only.
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
    /// Answers a datagram, and so never begins anything: an echo reply.
    pub answers: bool,
    /// Protocol that an ICMP error quotes; 0 when it quotes nothing that can be read.
    pub quoted_protocol: u8,
    /// Of UDP and its kin they are the ports, of an echo both are its identifier, and of an ICMP error
    /// those of the quoted packet the other way round: the error travels as its answer would. Else 0.
    pub source_port: u16,
    pub destination_port: u16,
    pub fragment_id: u32,
    pub source: [u32; 4],
    pub destination: [u32; 4],
    /// Where the packet that an ICMP error quotes was going.
    pub quoted: [u32; 4],
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
    /// Kept free for experiments (RFC 3692): the node's question whether a hook is on a pod's path.
    pub const SELF_TEST: u8 = 253;
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const DCCP: u8 = 33;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION: u8 = 60;
    pub const SCTP: u8 = 132;
    pub const MOBILITY: u8 = 135;
    pub const UDP_LITE: u8 = 136;

    /// Whether its header begins with two ports.
    #[inline(always)]
    pub fn has_ports(protocol: u8) -> bool {
        matches!(protocol, TCP | UDP | DCCP | SCTP | UDP_LITE)
    }
}

/// Third word of an IPv4 address in its IPv6 form.
pub const MAPPED: u32 = 0xffff;
/// IPv6 extension headers that are walked.
pub const EXTENSIONS_MAX: usize = 8;
/// Bytes that the fast path reads: Ethernet, IPv6, TCP.
pub const NEAR_BYTES: u8 = 14 + 40 + 20;
/// The same for IPv4.
pub const NEAR_BYTES_V4: u8 = 14 + 20 + 20;
/// Where an Ethernet header says what follows it, and what it says for IPv4.
pub const ETHERTYPE_AT: usize = 12;
pub const ETHERTYPE_IPV4: u16 = 0x0800;

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
        answers: false,
        quoted_protocol: 0,
        source_port: 0,
        destination_port: 0,
        fragment_id: 0,
        source: [0; 4],
        destination: [0; 4],
        quoted: [0; 4],
    };

    /// An opening segment: SYN without ACK, whatever the other bits.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK) == flag::SYN
    }
    /// The port that policies are asked for. What has no port is asked about as for one that no rule
    /// names.
    #[inline(always)]
    pub fn judged_port(&self) -> u32 {
        if protocol::has_ports(self.protocol) {
            self.destination_port as u32
        } else {
            0
        }
    }
    /// A reset that carries nothing: it can only end a connection.
    #[inline(always)]
    pub fn bare_reset(&self) -> bool {
        self.flags & flag::RST != 0 && !self.payload
    }
}
