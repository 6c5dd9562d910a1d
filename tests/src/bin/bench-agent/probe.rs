//! Opening segments from pods of other nodes, and what comes back. What is answered is given up again,
//! as a host does that never asked: else the pod's queue of half-open connections would fill, and
//! their ends take the processor's resets from what is to be measured.

use std::{
    cell::Cell,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tests::{
    frame::{Frame, flag},
    netns::Netns,
    wire::{Wire, mac_of},
};

pub const PORT: u16 = 8080;

/// Between two segments.
const PAUSE: Duration = Duration::from_millis(1);

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const TCP: usize = ETHERNET + IPV4;
const FLAGS: usize = TCP + 13;
const PORTS: std::ops::Range<u16> = 20_000..60_000;

/// What came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    Answer,
    Refusal,
}

/// A wire on another node, on which pods of other nodes send to one pod of this.
pub struct Probe {
    wire: Wire,
    gateway: [u8; 6],
    to: Ipv4Addr,
    port: Cell<u16>,
}

impl Probe {
    /// On the remote node; `node` is this one and its device towards that.
    pub fn open(remote: &Netns, node: (&Netns, &str), to: Ipv4Addr) -> Result<Self> {
        Ok(Self {
            wire: Wire::open(remote, "eth0")?,
            gateway: mac_of(node.0, node.1)?,
            to,
            port: Cell::new(PORTS.start),
        })
    }

    /// Sends until this comes back. Returns how long it took since a moment.
    pub fn first(
        &self,
        from: Ipv4Addr,
        wanted: Seen,
        since: Instant,
        limit: Duration,
    ) -> Result<Duration> {
        while since.elapsed() < limit {
            self.open_one(from)?;
            let next = Instant::now() + PAUSE;
            while let Some(frame) = self.back(from, next) {
                let back = seen(&frame);
                let took = since.elapsed();
                if back == Some(Seen::Answer) {
                    self.give_up(from, &frame)?;
                }
                if back == Some(wanted) {
                    return Ok(took);
                }
            }
        }
        None.with_context(|| format!("no {wanted:?} for {from} within {} s", limit.as_secs()))
    }

    /// What the pod sends to this one, until then.
    fn back(&self, from: Ipv4Addr, until: Instant) -> Option<Vec<u8>> {
        let left = until.saturating_duration_since(Instant::now());
        let wanted = |frame: &[u8]| is_from(frame, self.to, from) && seen(frame).is_some();
        self.wire.receive(left, wanted)
    }

    /// An opening segment of a connection of its own.
    fn open_one(&self, from: Ipv4Addr) -> Result<()> {
        let port = self.port.get();
        let next = if port + 1 == PORTS.end {
            PORTS.start
        } else {
            port + 1
        };
        self.port.set(next);
        self.send(Frame::tcp(
            (from.into(), port),
            (self.to.into(), PORT),
            flag::SYN,
        ))
    }

    /// Ends what an answer has half opened.
    fn give_up(&self, from: Ipv4Addr, answer: &[u8]) -> Result<()> {
        let field = |at: usize, length: usize| answer.get(TCP + at..TCP + at + length);
        let port = field(2, 2).and_then(|bytes| bytes.try_into().ok());
        let acknowledged = field(8, 4).context("a whole header")?;
        let port = u16::from_be_bytes(port.context("a whole header")?);
        let mut reset = Frame::tcp((from.into(), port), (self.to.into(), PORT), flag::RST);
        // What it expects next.
        reset.body[4..8].copy_from_slice(acknowledged);
        self.send(reset)
    }

    fn send(&self, mut frame: Frame) -> Result<()> {
        frame.seal();
        let mut bytes = frame.build();
        bytes[..6].copy_from_slice(&self.gateway);
        bytes[6..12].copy_from_slice(&self.wire.mac);
        self.wire.send(&bytes).context("the wire takes a frame")
    }
}

fn is_from(frame: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> bool {
    let address = |at: usize| frame.get(ETHERNET + at..ETHERNET + at + 4);
    address(12) == Some(&from.octets()) && address(16) == Some(&to.octets())
}

fn seen(frame: &[u8]) -> Option<Seen> {
    let flags = *frame.get(FLAGS)?;
    if flags & flag::RST != 0 {
        return Some(Seen::Refusal);
    }
    let both = flag::SYN | flag::ACK;
    (flags & both == both).then_some(Seen::Answer)
}
