//! What is measured in a slice, and how a slice is compared with those around it.

use std::{
    collections::BTreeMap,
    io::{IoSlice, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::{
    Variant,
    filter::{self, Traffic},
    pin,
    triplet::{CLIENT, FLOODS, PORT, REQUESTS, SERVER, Triplet},
};

/// Packets given to the kernel in one call.
const BATCH: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Metric {
    Request,
    Connect,
    Hot,
    Random,
    Denied,
}

impl Metric {
    pub const ALL: [Self; 5] = [
        Self::Request,
        Self::Connect,
        Self::Hot,
        Self::Random,
        Self::Denied,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Connect => "connect",
            Self::Hot => "hot",
            Self::Random => "random",
            Self::Denied => "denied",
        }
    }

    pub fn what(self) -> &'static str {
        match self {
            Self::Request => "one byte there and back; median time without a filter / with it",
            Self::Connect => {
                "connect, one byte there and back, reset; median time without a filter / with it"
            }
            Self::Hot => "one source; nanoseconds that the filter adds to a packet",
            Self::Random => "all entries as sources, at random; nanoseconds added to a packet",
            Self::Denied => {
                "packets refused in a second / packets delivered to a socket of the server without a filter"
            }
        }
    }

    pub fn show(self, value: f64) -> String {
        match self {
            Self::Request | Self::Connect => format!("{value:.3}"),
            Self::Hot | Self::Random => format!("{value:.0}"),
            Self::Denied => format!("{value:.2}"),
        }
    }
}

#[derive(Default)]
pub struct Samples(BTreeMap<Metric, Vec<f64>>);

/// Median and quartiles.
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Samples {
    pub fn of(&self, metric: Metric) -> &[f64] {
        self.0.get(&metric).map_or(&[], Vec::as_slice)
    }

    pub fn spread(&self, metric: Metric) -> Option<Spread> {
        let mut sorted = self.of(metric).to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |quarter: usize| sorted[last * quarter / 4];
        Some(Spread {
            low: at(1),
            median: at(2),
            high: at(3),
        })
    }
}

/// One slice of every variant that the metric is about, each between two of the base.
pub fn round(
    metric: Metric,
    base: &Triplet,
    variants: &mut [Variant],
    slice: Duration,
) -> Result<()> {
    // Sources of the base are as many as the variant's own: the node looks nothing up by them.
    let reference = |traffic: &Traffic| match metric {
        // What is refused is compared with what is forwarded, all the way.
        Metric::Denied => delivered(base, slice),
        _ => run(metric, base, traffic, slice),
    };
    let mut before = reference(&Traffic::default())?;
    for variant in variants {
        let Some(traffic) = variant.filter.traffic(metric) else {
            continue;
        };
        let measured = run(metric, &variant.triplet, &traffic, slice)?;
        let after = reference(&traffic)?;
        let nothing = f64::midpoint(before, after);
        let value = match metric {
            Metric::Request | Metric::Connect => nothing / measured,
            Metric::Hot | Metric::Random => measured - nothing,
            // Both are nanoseconds a packet.
            Metric::Denied => nothing / measured,
        };
        variant.samples.0.entry(metric).or_default().push(value);
        before = after;
    }
    Ok(())
}

/// Median nanoseconds: of a request, or of a packet.
fn run(metric: Metric, triplet: &Triplet, traffic: &Traffic, slice: Duration) -> Result<f64> {
    let mut times: Vec<u64> = Vec::with_capacity(1 << 16);
    let before = triplet.received()?;
    triplet.client.enter(|| match metric {
        Metric::Request => requests(slice, &mut times),
        Metric::Connect => connections(slice, &mut times),
        Metric::Hot => flood(&|_| filter::source(0), &segment(ACK), slice, &mut times),
        Metric::Random => {
            let sources = traffic.sources;
            flood(
                &|random| filter::source(random % sources),
                &segment(ACK),
                slice,
                &mut times,
            )
        }
        Metric::Denied => flood(&|_| filter::DENIED, &segment(SYN), slice, &mut times),
    })?;
    ensure!(times.len() > 10, "a slice holds too little to speak of");
    let (sent, received) = (times.len() * BATCH, triplet.received()? - before);
    let received = usize::try_from(received)?;
    // Packets are lost between the two when a queue of the node is full: a few.
    match metric {
        Metric::Hot | Metric::Random => ensure!(
            received > sent / 10 * 9,
            "of {sent} packets that are allowed {received} came through"
        ),
        Metric::Denied => ensure!(
            received < sent / 100,
            "{received} refused packets came through"
        ),
        Metric::Request | Metric::Connect => {}
    }
    times.sort_unstable();
    let median = times[times.len() / 2] as f64;
    Ok(match metric {
        Metric::Request | Metric::Connect => median,
        Metric::Hot | Metric::Random | Metric::Denied => median / BATCH as f64,
    })
}

/// Median nanoseconds of a datagram from the client to a socket of the server.
fn delivered(triplet: &Triplet, slice: Duration) -> Result<f64> {
    let mut times: Vec<u64> = Vec::with_capacity(1 << 16);
    let before = triplet.sunk();
    triplet
        .client
        .enter(|| flood(&|_| CLIENT, &datagram(), slice, &mut times))?;
    let (sent, received) = (times.len() * BATCH, triplet.sunk() - before);
    // The socket's reader may not keep pace, and its queue is long; what it leaves is delivered, too.
    ensure!(
        received > 0 && times.len() > 10,
        "of {sent} datagrams the server took {received}"
    );
    times.sort_unstable();
    Ok(times[times.len() / 2] as f64 / BATCH as f64)
}

fn requests(slice: Duration, times: &mut Vec<u64>) -> Result<()> {
    pin::to(REQUESTS)?;
    let mut stream = connect()?;
    // The server answers one connection after the other: the first byte may have to wait.
    exchange(&mut stream)?;
    let end = Instant::now() + slice;
    loop {
        let start = Instant::now();
        exchange(&mut stream)?;
        times.push(nanoseconds(start));
        if start > end {
            return Ok(());
        }
    }
}

fn connections(slice: Duration, times: &mut Vec<u64>) -> Result<()> {
    pin::to(REQUESTS)?;
    let end = Instant::now() + slice;
    loop {
        let start = Instant::now();
        exchange(&mut connect()?)?;
        times.push(nanoseconds(start));
        if start > end {
            return Ok(());
        }
    }
}

fn connect() -> Result<TcpStream> {
    let limit = Duration::from_secs(5);
    let stream = TcpStream::connect_timeout(&SocketAddr::from((SERVER, PORT)), limit)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(limit))?;
    // Closed by a reset, so that no port waits for its old connection to be forgotten.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    let mut byte = [1];
    stream.write_all(&byte)?;
    Ok(stream.read_exact(&mut byte)?)
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const HEADERS: usize = 40;
const DATAGRAM: usize = 20 + 8 + 18;

/// Packets from other people's addresses, as fast as they go.
fn flood<const N: usize>(
    source: &dyn Fn(u32) -> Ipv4Addr,
    packet: &[u8; N],
    slice: Duration,
    times: &mut Vec<u64>,
) -> Result<()> {
    pin::to(FLOODS)?;
    let socket = Socket::new(
        Domain::IPV4,
        Type::RAW,
        Some(Protocol::from(libc::IPPROTO_RAW)),
    )?;
    socket.connect(&SockAddr::from(SocketAddr::from((SERVER, 0))))?;
    let mut packets = [*packet; BATCH];
    let mut random = fastrand::Rng::with_seed(7);
    let end = Instant::now() + slice;
    loop {
        for packet in &mut packets {
            packet[12..16].copy_from_slice(&source(random.u32(..)).octets());
        }
        let slices = packets.each_ref().map(|packet| [IoSlice::new(packet)]);
        let mut nothing: [SendAncillaryBuffer; BATCH] =
            std::array::from_fn(|_| SendAncillaryBuffer::default());
        let mut messages: Vec<MMsgHdr> = slices
            .iter()
            .zip(&mut nothing)
            .map(|(slice, nothing)| MMsgHdr::new(slice, nothing))
            .collect();
        let start = Instant::now();
        let sent = sendmmsg(&socket, &mut messages, SendFlags::empty())?;
        let time = nanoseconds(start);
        ensure!(sent == BATCH, "the kernel took {sent} packets of {BATCH}");
        times.push(time);
        if start > end {
            return Ok(());
        }
    }
}

/// An IPv4 header, whose checksum and identification the kernel fills in, and a TCP header. Nobody
/// looks at its checksum: no filter does, and the server drops it.
fn segment(flags: u8) -> [u8; HEADERS] {
    let mut packet: [u8; HEADERS] = ipv4(libc::IPPROTO_TCP);
    packet[20..22].copy_from_slice(&40_000_u16.to_be_bytes());
    packet[22..24].copy_from_slice(&PORT.to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = flags;
    packet[34..36].copy_from_slice(&1_024_u16.to_be_bytes());
    packet
}

/// The same with a UDP header and eighteen bytes, which make the shortest Ethernet frame. It has no
/// checksum, as UDP may.
fn datagram() -> [u8; DATAGRAM] {
    let mut packet: [u8; DATAGRAM] = ipv4(libc::IPPROTO_UDP);
    packet[20..22].copy_from_slice(&40_000_u16.to_be_bytes());
    packet[22..24].copy_from_slice(&PORT.to_be_bytes());
    packet[25] = 8 + 18;
    packet
}

fn ipv4<const N: usize>(protocol: libc::c_int) -> [u8; N] {
    let mut packet = [0; N];
    packet[0] = 0x45;
    packet[3] = u8::try_from(N).expect("short packets");
    packet[8] = 64;
    packet[9] = u8::try_from(protocol).expect("a protocol is a byte");
    packet[16..20].copy_from_slice(&SERVER.octets());
    packet
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
