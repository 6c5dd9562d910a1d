//! Servers and clients on real TCP.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{netns::Netns, topology::Pod};

/// How long a client waits where silence is not expected.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client waits where silence is the answer.
pub const SILENCE: Duration = Duration::from_millis(1500);

const ACCEPT_POLL: Duration = Duration::from_millis(2);

/// A server in a pod that echoes every byte, on all addresses. It ends with its owner.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    /// Connections that it has accepted.
    pub accepted: Arc<AtomicU64>,
}

impl Echo {
    /// Starts the server.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(pod: &Pod, port: u16) -> io::Result<Self> {
        let any = match enforcer::netns::has_ipv6() {
            true => IpAddr::from([0u16; 8]),
            false => IpAddr::from([0u8; 4]),
        };
        let listener = pod.netns.enter(|| TcpListener::bind((any, port)))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicU64::new(0));
        let (stopping, counting) = (stop.clone(), accepted.clone());
        thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) if stream.set_nonblocking(false).is_ok() => {
                        counting.fetch_add(1, Ordering::Relaxed);
                        thread::spawn(move || echo(stream));
                    }
                    _ => thread::sleep(ACCEPT_POLL),
                }
            }
        });
        Ok(Self { stop, accepted })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

/// What a connection met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Met {
    /// It was made, and its bytes came back.
    Answer,
    /// A reset, at once or later.
    Refusal,
    /// Nothing.
    Silence,
    /// No neighbour or no route: the network itself is broken.
    Unreachable,
}

/// Connects from a pod, sends a line and waits for it to come back.
#[must_use]
pub fn try_once(from: &Pod, to: IpAddr, port: u16, wait: Duration) -> Met {
    try_from(&from.netns, to, port, wait)
}

/// As [`try_once`], from any namespace.
#[must_use]
pub fn try_from(from: &Netns, to: IpAddr, port: u16, wait: Duration) -> Met {
    match connect_from(from, to, port, wait) {
        Ok(mut stream) => exchange(&mut stream, wait),
        Err(error) => met(&error),
    }
}

/// A connection from a pod, with time-outs.
///
/// # Errors
/// As the kernel says.
pub fn connect(from: &Pod, to: IpAddr, port: u16, wait: Duration) -> io::Result<TcpStream> {
    connect_from(&from.netns, to, port, wait)
}

/// As [`connect`], from any namespace.
///
/// # Errors
/// As the kernel says.
pub fn connect_from(from: &Netns, to: IpAddr, port: u16, wait: Duration) -> io::Result<TcpStream> {
    let at = SocketAddr::new(to, port);
    let stream = from.enter(|| TcpStream::connect_timeout(&at, wait))?;
    stream.set_read_timeout(Some(wait))?;
    stream.set_write_timeout(Some(wait))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a line on a connection and waits for it to come back.
#[must_use]
pub fn exchange(stream: &mut TcpStream, wait: Duration) -> Met {
    const LINE: &[u8; 6] = b"hello\n";
    let deadline = Instant::now() + wait;
    let mut back = [0; LINE.len()];
    let result = stream.set_read_timeout(Some(wait)).and_then(|()| {
        stream.write_all(LINE)?;
        stream.read_exact(&mut back)
    });
    match result {
        Ok(()) if &back == LINE => Met::Answer,
        Ok(()) => panic!("the server echoes what it is sent, not {back:?}"),
        Err(_) if Instant::now() >= deadline => Met::Silence,
        Err(error) => met(&error),
    }
}

fn met(error: &io::Error) -> Met {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Met::Refusal,
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Met::Silence,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Met::Unreachable,
        _ => panic!("a connection met something unforeseen: {error}"),
    }
}

/// Sends so many opening segments from a pod, to as many ports of an IPv4 address, and waits for no
/// answer.
pub fn openings(from: &Pod, to: IpAddr, count: u16) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    from.netns.enter(|| {
        for port in 1..=count {
            let socket = socket_with(
                AddressFamily::INET,
                SocketType::STREAM,
                SocketFlags::NONBLOCK,
                None,
            );
            if let Ok(socket) = socket {
                // Under way, or refused already.
                let _under_way = connect(&socket, &SocketAddr::new(to, port));
            }
        }
    });
}

/// A client that talks without a pause on one connection until it is stopped, and counts.
#[derive(Debug)]
pub struct Talker {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<(u64, Duration, Met)>>,
}

impl Talker {
    /// Starts to talk.
    #[must_use]
    pub fn start(mut stream: TcpStream) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = thread::spawn(move || {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !stopping.load(Ordering::Relaxed) {
                let start = Instant::now();
                match exchange(&mut stream, PATIENCE) {
                    Met::Answer => count += 1,
                    other => return (count, longest, other),
                }
                longest = longest.max(start.elapsed());
            }
            (count, longest, Met::Answer)
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Stops. Returns how often it was answered, the longest wait, and what it met last.
    #[must_use]
    pub fn stop(mut self) -> (u64, Duration, Met) {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(thread::JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => panic!("a talker is stopped once"),
        }
    }
}
