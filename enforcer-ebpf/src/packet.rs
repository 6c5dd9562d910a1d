//! Bytes to a [`Packet`], or a named reason to refuse them.
//!
//! The only module that knows network byte order. It must not know policies, pods or maps. Whatever
//! the bytes are, it neither panics nor reads beyond them, and what it cannot read to the end is a
//! [`Reason`], never a guess: a receiver that understands more of a packet than this module did would
//! be a way around the policy.

mod parse;

use crate::reason::Reason;
pub use parse::parse;

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
    /// Kept free for experiments (RFC 3692): the node's question whether a hook is on a pod's path.
    pub const SELF_TEST: u8 = 253;
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
pub const NEAR_BYTES: u8 = 14 + 40 + 20;

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
    /// The packet's tuple as the other side sends it.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
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
