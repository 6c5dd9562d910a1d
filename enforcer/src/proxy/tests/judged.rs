//! Whatever bytes a client sends: what reaches the pod was judged, and nothing else reaches it.
//!
//! The bytes are mutations of requests that servers have been known to read in two ways. The pod reads
//! strictly, and by itself: what it cannot read is a mistake of the proxy's.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use policyc::{cluster::PathNormalization, l7::normalize::normalize, request::Expected};

use super::world::{Bed, lock, pod};

const INPUTS: usize = 1_500;
const LENGTH_MAX: usize = 4 << 10;

const SEEDS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /admin HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 34\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n123",
    "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /admin/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a/../admin HTTP/1.1\r\nHost: a\r\nConnection: close, Content-Length\r\n\r\n",
    "GET http://a/x?y HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
    "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nGET /admin HTTP/1.1\r\n\r\n",
    "HEAD /h HTTP/1.0\r\nConnection: keep-alive\r\n\r\nOPTIONS /o HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
];

const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    ",",
    ";",
    "/admin",
    "/./",
    "%2e%2e/",
    "%2f",
    "\\",
    "..;/",
    "?",
    "#",
    "HTTP/1.1",
    "HTTP/1.0",
    "Host: b\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 10\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Connection: close\r\n",
    "0\r\n\r\n",
    "ffffffffffffffff\r\n",
    "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
];

fn mutated(rng: &mut Rng) -> Vec<u8> {
    let pick = |rng: &mut Rng, from: &[&'static str]| from[rng.usize(..from.len())].as_bytes();
    let mut bytes = pick(rng, SEEDS).to_vec();
    for _ in 0..rng.usize(..5) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(..6) {
            0 => {
                bytes.splice(at..at, pick(rng, WORDS).iter().copied());
            }
            1 => {
                let end = (at + rng.usize(..8)).min(bytes.len());
                bytes.drain(at..end);
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.u8(..);
                }
            }
            3 => {
                let end = (at + rng.usize(..40)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => bytes.extend_from_slice(pick(rng, SEEDS)),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 0x20;
                }
            }
        }
    }
    bytes.truncate(LENGTH_MAX);
    bytes
}

/// What a pod has read: methods and targets, or why it could not.
type Heard = Arc<Mutex<Vec<Result<(String, String), String>>>>;

/// Answers requests as long as they are written exactly as RFC 9112 says.
fn strict(mut stream: TcpStream, heard: &Heard) -> io::Result<()> {
    loop {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte)? == 0 {
                // Between two requests, or broken off because the client was.
                return Ok(());
            }
            head.push(byte[0]);
        }
        let read = parse(&head);
        let body = match &read {
            Ok((_, _, body)) => *body,
            Err(_) => Body::Length(0),
        };
        lock(heard).push(read.map(|(method, target, _)| (method, target)));
        match body {
            Body::Length(length) => stream.read_exact(&mut vec![0; length])?,
            Body::Chunked => {
                let mut tail = Vec::new();
                while !tail.ends_with(b"0\r\n\r\n") {
                    stream.read_exact(&mut byte)?;
                    tail.push(byte[0]);
                }
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}

#[derive(Clone, Copy)]
enum Body {
    Length(usize),
    Chunked,
}

fn parse(head: &[u8]) -> Result<(String, String, Body), String> {
    let text = std::str::from_utf8(head).map_err(|_| "bytes that are no text".to_owned())?;
    let whole = |why: &str| format!("{why}: {text:?}");
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let first: Vec<&str> = lines.next().unwrap_or("").split(' ').collect();
    let [method, target, "HTTP/1.1" | "HTTP/1.0"] = first[..] else {
        return Err(whole("the first line"));
    };
    let (mut lengths, mut encodings) = (Vec::new(), Vec::new());
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| whole("a line"))?;
        if line.contains(['\r', '\n', '\0']) || name.contains([' ', '\t']) || name.is_empty() {
            return Err(whole("a line"));
        }
        match &*name.to_ascii_lowercase() {
            "content-length" => lengths.push(value.parse().map_err(|_| whole("a length"))?),
            "transfer-encoding" => encodings.push(value.to_owned()),
            _ => {}
        }
    }
    let body = match (&lengths[..], &encodings[..]) {
        ([], []) => Body::Length(0),
        ([length], []) => Body::Length(*length),
        ([], [encoding]) if encoding == "chunked" => Body::Chunked,
        _ => return Err(whole("the framing")),
    };
    Ok((method.into(), target.into(), body))
}

#[test]
fn what_reaches_the_pod_was_judged_whatever_the_client_sends() {
    let heard = Heard::default();
    let hearing = Arc::clone(&heard);
    let ended = Arc::new(AtomicI64::new(0));
    let ending = Arc::clone(&ended);
    let pod = pod(move |stream| {
        let (heard, ended) = (Arc::clone(&hearing), Arc::clone(&ending));
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a time-out");
        thread::spawn(move || {
            // A connection that breaks off is the client's business.
            let _broken = strict(stream, &heard);
            ended.fetch_add(1, Ordering::SeqCst);
        });
    });
    let bed = Bed::before(pod, |config| {
        config.sniff_timeout = Duration::from_millis(50);
    });
    let mut rng = Rng::with_seed(7);
    let mut forwarded = 0;
    for number in 0..INPUTS {
        let bytes = mutated(&mut rng);
        let mut client = bed.client();
        for part in bytes.chunks(rng.usize(1..200)) {
            // A refusal may come before the last byte.
            if client.write_all(part).is_err() {
                break;
            }
        }
        let _half = client.shutdown(Shutdown::Write);
        let _answers = client.read_to_end(&mut Vec::new());
        drop(client);
        // What this input has begun is over before the next one begins.
        let deadline = Instant::now() + Duration::from_secs(30);
        while bed.world.clients.load(Ordering::SeqCst) != 0
            || bed.world.opened.load(Ordering::SeqCst) != ended.load(Ordering::SeqCst)
        {
            assert!(Instant::now() < deadline, "input {number} does not end");
            thread::yield_now();
        }
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let judged = std::mem::take(&mut *lock(&bed.world.judged));
        let allowed: Vec<(String, String)> = judged
            .into_iter()
            .filter(|(verdict, ..)| *verdict == Expected::Allow)
            .map(|(_, method, target)| {
                let normal = normalize(&target, PathNormalization::Base).expect("it was judged");
                (method, format!("{}{}", normal.path, normal.query))
            })
            .collect();
        let reached = std::mem::take(&mut *lock(&heard));
        forwarded += reached.len();
        let mut waiting = allowed.iter();
        for request in &reached {
            let request = request
                .as_ref()
                .unwrap_or_else(|why| panic!("input {number}: {why}\n{shown:?}"));
            assert!(
                !request.1.starts_with("/admin"),
                "input {number} reached what is denied\n{shown:?}"
            );
            assert!(
                waiting.any(|allowed| allowed == request),
                "input {number}: {request:?} was not judged; allowed were {allowed:?}\n{shown:?}"
            );
        }
    }
    assert!(
        forwarded > INPUTS / 4,
        "only {forwarded} requests came through"
    );
}
