//! Builds Ethernet frames, right and wrong ones. Knows nothing of policies.

use std::net::{IpAddr, Ipv4Addr};

/// TCP flags that the tests speak of.
pub use enforcer_ebpf::packet::flag;

/// An IP packet to be built into a frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// VLAN tags within the frame, outermost first.
    pub tags: Vec<u16>,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Protocol of [`Frame::body`].
    pub protocol: u8,
    /// Routers that an IPv6 packet may still pass.
    pub hop_limit: u8,
    /// Words of IPv4 options.
    pub option_words: u8,
    /// IPv6 extension headers, in order.
    pub extensions: Vec<Extension>,
    pub fragment: Option<Fragment>,
    pub body: Vec<u8>,
    /// Bytes after the packet, as Ethernet pads short frames.
    pub padding: usize,
}

/// An IPv6 extension header: its number, and its bytes beyond the first eight.
#[derive(Clone, Copy, Debug)]
pub struct Extension {
    pub number: u8,
    pub more: u8,
}

/// A fragment's place in its datagram.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    pub id: u32,
    /// In units of eight bytes.
    pub offset: u16,
    pub more: bool,
}

const ETHERNET_HEADER: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

impl Frame {
    /// A TCP segment without options.
    #[must_use]
    pub fn tcp(source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8) -> Self {
        Self {
            tags: Vec::new(),
            source: source.0,
            destination: destination.0,
            protocol: 6,
            hop_limit: 64,
            option_words: 0,
            extensions: Vec::new(),
            fragment: None,
            body: tcp_segment(source.1, destination.1, flags, 0),
            padding: 0,
        }
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        let mut frame = Self::tcp(source, destination, 0);
        frame.protocol = 17;
        frame.body = [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat();
        frame.body.extend([0, 8, 0, 0]);
        frame
    }

    /// An ICMP error of `from` about a packet, sent to whom that came from: it is too large, for a
    /// path of `mtu` bytes.
    #[must_use]
    pub fn too_large(from: IpAddr, about: &Self, mtu: u16) -> Self {
        const ETHERNET: usize = 14;
        let quoted = &about.build()[ETHERNET..];
        let (protocol, head, quoted) = match from {
            IpAddr::V4(_) => (1, [3, 4], &quoted[..quoted.len().min(28)]),
            IpAddr::V6(_) => (58, [2, 0], quoted),
        };
        let mut frame = Self::tcp((from, 0), (about.source, 0), 0);
        frame.protocol = protocol;
        frame.body = [&head[..], &[0; 4], &mtu.to_be_bytes(), quoted].concat();
        frame
    }

    /// An ICMP echo, or the reply to one.
    #[must_use]
    pub fn echo(source: IpAddr, destination: IpAddr, id: u16, reply: bool) -> Self {
        let mut frame = Self::tcp((source, 0), (destination, 0), 0);
        let (protocol, kind) = match (source, reply) {
            (IpAddr::V4(_), false) => (1, 8),
            (IpAddr::V4(_), true) => (1, 0),
            (IpAddr::V6(_), false) => (58, 128),
            (IpAddr::V6(_), true) => (58, 129),
        };
        frame.protocol = protocol;
        frame.body = [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1]].concat();
        frame
    }

    /// The frame's bytes.
    ///
    /// # Panics
    /// When the two addresses are of different families, or the packet is longer than 65 535 bytes.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = ETHERNET_HEADER.to_vec();
        for tag in &self.tags {
            bytes.extend([0x81, 0x00]);
            bytes.extend(tag.to_be_bytes());
        }
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend([0x08, 0x00]);
                self.ipv4(source, destination, &mut bytes);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend([0x86, 0xdd]);
                let chain = self.chain();
                let length = u16::try_from(chain.1.len() + self.body.len())
                    .expect("a test packet fits its length field");
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([chain.0, self.hop_limit]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(&chain.1);
                bytes.extend(&self.body);
            }
            _ => panic!("a packet has addresses of one family"),
        }
        bytes.resize(bytes.len() + self.padding, 0);
        bytes
    }

    fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr, bytes: &mut Vec<u8>) {
        let header = 20 + usize::from(self.option_words) * 4;
        let total =
            u16::try_from(header + self.body.len()).expect("a test packet fits its length field");
        let (id, fragment) = match self.fragment {
            Some(fragment) => (
                u16::try_from(fragment.id & 0xffff).expect("masked"),
                fragment.offset | if fragment.more { 0x2000 } else { 0 },
            ),
            None => (0, 0x4000),
        };
        let start = bytes.len();
        bytes.extend([0x45 + self.option_words, 0]);
        bytes.extend(total.to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        bytes.resize(start + header, 1);
        let sum = checksum(&bytes[start..]);
        bytes[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(&self.body);
    }

    /// Writes the checksum of TCP, UDP or ICMPv6 into the body, which must be whole.
    ///
    /// # Panics
    /// For another protocol, or a body too short to have one.
    pub fn seal(&mut self) {
        let at = match self.protocol {
            6 => 16,
            17 => 6,
            58 => 2,
            other => panic!("where protocol {other} has a checksum is not known here"),
        };
        self.body[at..at + 2].fill(0);
        let mut covered = Vec::new();
        for address in [self.source, self.destination] {
            match address {
                IpAddr::V4(address) => covered.extend(address.octets()),
                IpAddr::V6(address) => covered.extend(address.octets()),
            }
        }
        let length = u32::try_from(self.body.len()).expect("a test packet is short");
        covered.extend(length.to_be_bytes());
        covered.extend([0, 0, 0, self.protocol]);
        covered.extend(&self.body);
        let sum = checksum(&covered);
        self.body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// The number of the first header after the IPv6 one, and the extension headers' bytes. The
    /// fragment header stands where [`Extension::number`] names it, or last.
    fn chain(&self) -> (u8, Vec<u8>) {
        let mut headers = self.extensions.clone();
        if self.fragment.is_some() && !headers.iter().any(|header| header.number == FRAGMENT) {
            headers.push(Extension {
                number: FRAGMENT,
                more: 0,
            });
        }
        let mut bytes = Vec::new();
        for (i, header) in headers.iter().enumerate() {
            let next = headers.get(i + 1).map_or(self.protocol, |next| next.number);
            if header.number == FRAGMENT {
                let fragment = self.fragment.unwrap_or(Fragment {
                    id: 0,
                    offset: 0,
                    more: false,
                });
                let word = fragment.offset << 3 | u16::from(fragment.more);
                bytes.extend([next, 0]);
                bytes.extend(word.to_be_bytes());
                bytes.extend(fragment.id.to_be_bytes());
            } else {
                // The length counts words of eight bytes after the first, of four after the second
                // in an authentication header.
                let (length, size) = if header.number == AUTHENTICATION {
                    (header.more * 2, 8 + usize::from(header.more) * 8)
                } else {
                    (header.more, 8 + usize::from(header.more) * 8)
                };
                bytes.extend([next, length]);
                bytes.resize(bytes.len() + size - 2, 0);
            }
        }
        let first = headers
            .first()
            .map_or(self.protocol, |header| header.number);
        (first, bytes)
    }
}

/// The Internet checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// A TCP header without options, and `payload` bytes.
#[must_use]
pub fn tcp_segment(source_port: u16, destination_port: u16, flags: u8, payload: usize) -> Vec<u8> {
    let mut bytes = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.resize(bytes.len() + payload, b'x');
    bytes
}

/// A frame of another protocol than IP.
#[must_use]
pub fn other(ethertype: u16) -> Vec<u8> {
    let mut bytes = ETHERNET_HEADER.to_vec();
    bytes.extend(ethertype.to_be_bytes());
    bytes.resize(60, 0);
    bytes
}
