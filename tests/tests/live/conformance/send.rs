//! One request of a case on the wire, and the server that it may reach.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::Mutex,
    thread,
    time::Duration,
};

use policyc::request::{Http, Request, Wire};
use socket2::{Domain, Protocol, Socket, Type};
use tests::netns::Netns;

use super::manifests::Token;

const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// No HTTP, and no beginning of it.
const BINARY: &[u8] = b"\x00\x01\x02binary\n";

/// Servers by namespace and port.
#[derive(Default)]
pub struct Served(Mutex<BTreeSet<(String, u16)>>);

impl Served {
    /// Makes a pod listen, unless it does: heads are answered with 200, everything else comes back.
    pub fn listen(&self, netns: &Netns, port: u16) {
        let mut known = self.0.lock().expect("whole");
        if !known.insert((netns.name().to_owned(), port)) {
            return;
        }
        let any = (IpAddr::from([0u16; 8]), port);
        let listener = netns.enter(|| TcpListener::bind(any));
        let listener = listener.expect("the port is free");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(stream));
            }
        });
    }
}

fn answer(mut stream: TcpStream) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..count]);
        let is_http = seen.first().is_some_and(u8::is_ascii_alphabetic);
        let reply = match is_http {
            true if seen.ends_with(b"\r\n\r\n") => ANSWER.to_vec(),
            true => continue,
            false => std::mem::take(&mut seen),
        };
        seen.clear();
        if stream.write_all(&reply).is_err() {
            return;
        }
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Sent {
    /// HTTP, with that status.
    Answered(u16),
    /// Bytes that came back.
    Echoed,
    Refused(io::ErrorKind),
}

impl Sent {
    /// It is neither what a server answers nor what a refusal looks like.
    pub fn is_odd(&self) -> bool {
        match self {
            Self::Answered(status) => ![200, 400, 401, 403].contains(status),
            Self::Echoed => false,
            Self::Refused(kind) => ![
                io::ErrorKind::ConnectionRefused,
                io::ErrorKind::ConnectionReset,
                io::ErrorKind::UnexpectedEof,
            ]
            .contains(kind),
        }
    }
}

/// Sends a request from an address, and waits for what comes of it.
pub fn send(
    from: &Netns,
    source: IpAddr,
    to: IpAddr,
    request: &Request,
    token: Option<Token>,
) -> Sent {
    let bytes = match (&request.http, request.protocol) {
        (Some(http), Wire::Http) => head(http, token),
        _ => match &request.sni {
            Some(name) => hello(name),
            None => BINARY.to_vec(),
        },
    };
    let http = request.protocol == Wire::Http;
    match exchange(
        from,
        source,
        SocketAddr::new(to, request.port),
        &bytes,
        http,
    ) {
        Ok(sent) => sent,
        Err(error) => Sent::Refused(error.kind()),
    }
}

fn exchange(
    from: &Netns,
    source: IpAddr,
    to: SocketAddr,
    bytes: &[u8],
    http: bool,
) -> io::Result<Sent> {
    let mut stream = from.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        // The address need not be one of a device.
        match source {
            IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
        }
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        io::Result::Ok(TcpStream::from(socket))
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    if !http {
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back)?;
        return Ok(Sent::Echoed);
    }
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        answer.extend(byte);
    }
    let line = String::from_utf8_lossy(&answer);
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    status
        .map(Sent::Answered)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The request as HTTP/1.1, or 1.0 where it names no host.
fn head(http: &Http, token: Option<Token>) -> Vec<u8> {
    let mut path = http.path.clone();
    let mut lines = String::new();
    match token {
        Some(Token::Header(name, value)) => lines += &format!("{name}: {value}\r\n"),
        Some(Token::Param(name, value)) => {
            path.push(if path.contains('?') { '&' } else { '?' });
            path += &format!("{name}={value}");
        }
        None => {}
    }
    let mut has_host = false;
    for (name, values) in &http.headers {
        has_host |= name.eq_ignore_ascii_case("host");
        for value in values.lines() {
            lines += &format!("{name}: {value}\r\n");
        }
    }
    if let (Some(host), false) = (&http.host, has_host) {
        has_host = true;
        lines += &format!("host: {host}\r\n");
    }
    let version = if has_host { "1.1" } else { "1.0" };
    format!("{} {path} HTTP/{version}\r\n{lines}\r\n", http.method).into_bytes()
}

/// A TLS 1.2 ClientHello with a server name.
fn hello(name: &str) -> Vec<u8> {
    let length = |n: usize| u16::try_from(n).expect("short").to_be_bytes();
    let entry = [&[0][..], &length(name.len()), name.as_bytes()].concat();
    let list = [&length(entry.len())[..], &entry].concat();
    let mut extensions = Vec::new();
    for (kind, body) in [(0u16, &list[..]), (13, &[0, 2, 4, 3]), (10, &[0, 2, 0, 29])] {
        extensions.extend(kind.to_be_bytes());
        extensions.extend(length(body.len()));
        extensions.extend(body);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    body.extend(length(extensions.len()));
    body.extend(extensions);
    let handshake = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[0x16, 3, 1][..], &length(handshake.len()), &handshake].concat()
}
