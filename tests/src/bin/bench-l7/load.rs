//! The backend, and clients that ask again as soon as they are answered. Both run on one processor,
//! the proxy on another.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::mpsc::sync_channel,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::policies::{DENIED, PATH};

/// What is done over and over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// A request that is answered with 200.
    Allowed,
    /// A request that is answered with 403.
    Denied,
    /// A connection, eight bytes there and back, and its end.
    Connect,
}

/// What was done in a slice of time.
pub struct Slice {
    pub count: usize,
    pub time: Duration,
    /// Microseconds, sorted.
    times: Vec<u32>,
}

impl Slice {
    pub fn percentile_us(&self, percent: usize) -> f64 {
        let at = self.times.len() * percent / 100;
        let last = self.times.len().saturating_sub(1);
        self.times.get(at.min(last)).copied().unwrap_or(0).into()
    }
}

/// The processor of the proxies: the last, where there is more than one.
pub fn proxy_cpu() -> usize {
    thread::available_parallelism().map_or(0, |count| count.get() - 1)
}

/// Keeps this thread off the proxies' processor.
fn stay_away() {
    let mut first = rustix::thread::CpuSet::new();
    first.set(0);
    // Without the right to choose, the figures are noisier, and no less true.
    let _chosen = rustix::thread::sched_setaffinity(None, &first);
}

/// Starts a backend that answers every head with 200, and echoes what is none.
pub fn backend() -> Result<SocketAddr> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        stay_away();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await else {
                return;
            };
            let Ok(at) = listener.local_addr() else {
                return;
            };
            if sender.send(at).is_err() {
                return;
            }
            while let Ok((stream, _)) = listener.accept().await {
                let _nodelay = stream.set_nodelay(true);
                tokio::spawn(answer(stream));
            }
        });
    });
    receiver.recv().context("the backend does not start")
}

async fn answer(mut stream: TcpStream) {
    let mut buffer = [0; 4_096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let reply: &[u8] = match buffer[0].is_ascii_alphabetic() {
            true => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            false => &buffer[..count],
        };
        if stream.write_all(reply).await.is_err() {
            return;
        }
    }
}

/// Asks for some time.
pub fn slice(load: Load, at: SocketAddr, connections: usize, time: Duration) -> Result<Slice> {
    let worker = thread::spawn(move || {
        stay_away();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(run(load, at, connections, time))
    });
    worker.join().ok().context("the clients have failed")?
}

async fn run(load: Load, at: SocketAddr, connections: usize, time: Duration) -> Result<Slice> {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn(async move {
            match load {
                Load::Allowed => requests(at, PATH, b"HTTP/1.1 200", start + time).await,
                Load::Denied => requests(at, DENIED, b"HTTP/1.1 403", start + time).await,
                Load::Connect => connects(at, start + time).await,
            }
        });
    }
    let mut times = Vec::new();
    while let Some(done) = clients.join_next().await {
        times.extend(done??);
    }
    times.sort_unstable();
    Ok(Slice {
        count: times.len(),
        time: start.elapsed(),
        times,
    })
}

async fn requests(at: SocketAddr, path: &str, expected: &[u8], until: Instant) -> Result<Vec<u32>> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\naccept: */*\r\n\r\n");
    let mut stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4_096];
    let mut times = Vec::new();
    loop {
        let start = Instant::now();
        if start >= until {
            return Ok(times);
        }
        stream.write_all(request.as_bytes()).await?;
        let mut count = 0;
        // Answers are shorter than the buffer, and end in their body.
        while !is_whole(&buffer[..count]) {
            let more = stream.read(&mut buffer[count..]).await?;
            ensure!(more > 0, "the connection has ended");
            count += more;
        }
        ensure!(
            buffer.starts_with(expected),
            "{path}: {}",
            String::from_utf8_lossy(&buffer[..count])
        );
        times.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    answer.len() >= end + 4 + length.unwrap_or(0)
}

async fn connects(at: SocketAddr, until: Instant) -> Result<Vec<u32>> {
    let mut times = Vec::new();
    loop {
        let start = Instant::now();
        if start >= until {
            return Ok(times);
        }
        let mut stream = TcpStream::connect(at).await?;
        let mut back = [0; 8];
        stream
            .write_all(b"\x00\x01\x02\x03\x04\x05\x06\x07")
            .await?;
        stream.read_exact(&mut back).await?;
        // Not one port of ours lingers: there are not enough of them.
        stream.set_zero_linger()?;
        times.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}
