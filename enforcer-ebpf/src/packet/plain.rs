//! The frame that nearly all are: an untagged IPv4 packet without options that holds a whole segment,
//! of flags that make sense. What this reads, [`super::parse_first`] reads alike, and slower.

use super::{ETHERTYPE_IPV4, Frame, flag, protocol};

/// Where the IPv4 header is, and how many words it and the TCP header have.
const AT: usize = 14;
const WORDS: usize = 10;
const IPV4: u32 = 20;
const HEADERS: u32 = 40;

/// A segment in host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plain {
    pub source: u32,
    pub destination: u32,
    pub source_port: u16,
    pub destination_port: u16,
    /// TCP flags: SYN or ACK at least. Two more bits of congestion control come with them.
    pub flags: u8,
}

impl Plain {
    /// SYN without ACK.
    // VERIFIER: asked where it is needed; an answer that is carried along is walked in two ways.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK) == flag::SYN
    }
}

/// Reads such a frame; `None` says nothing about any other.
#[inline(always)]
pub fn parse_plain<F: Frame + ?Sized>(frame: &F) -> Option<Plain> {
    let words: [u32; WORDS] = frame.near_words(AT)?;
    // Its lower half is the Ethernet header's last field.
    let [ethertype] = frame.near_words(AT - 4)?;
    let (total, segment) = (words[0] & 0xffff, words[8]);
    let header = (segment >> 28) * 4;
    let flags = ((segment >> 16) & 0xff) as u8;
    // Version, length of the header, whole, TCP.
    let plain = ethertype & 0xffff == ETHERTYPE_IPV4 as u32
        && words[0] >> 24 == 0x45
        && words[1] & 0x3fff == 0
        && (words[2] >> 16) & 0xff == protocol::TCP as u32
        && total >= HEADERS
        && AT + total as usize <= frame.length()
        && header >= HEADERS - IPV4
        && IPV4 + header <= total
        && flags & (flag::SYN | flag::ACK) != 0
        && (flags & flag::SYN == 0 || flags & (flag::FIN | flag::RST) == 0);
    plain.then_some(Plain {
        source: words[3],
        destination: words[4],
        source_port: (words[5] >> 16) as u16,
        destination_port: (words[5] & 0xffff) as u16,
        flags,
    })
}
