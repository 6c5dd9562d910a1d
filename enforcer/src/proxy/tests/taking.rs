//! Who is given bytes and does not take them.

use std::{
    convert::Infallible,
    future::pending,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{atomic::Ordering, mpsc::sync_channel},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::world::{Bed, lock, pod, read_head};
use crate::proxy::Refusal;

const SHORT: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);
/// Of an answer, some pieces long.
const LENGTH: usize = 40_000;

/// Answers over HTTP/2 with a body; to POST with the beginning of one, and reads nothing.
fn pod_of_http2() -> SocketAddr {
    async fn answer(
        request: Request<Incoming>,
    ) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
        if request.method() != Method::POST {
            let body = Full::new(Bytes::from(vec![b'x'; LENGTH]));
            return Ok(Response::new(body.boxed()));
        }
        let begun = futures_util::stream::once(async { Ok(Frame::data(Bytes::from("x"))) });
        let never = futures_util::stream::once(async move {
            let _unread = request;
            pending().await
        });
        let body = futures_util::StreamExt::chain(begun, never);
        Ok(Response::new(BodyExt::boxed(StreamBody::new(body))))
    }
    let (sender, address) = sync_channel(1);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
            let listener = listener.expect("a port");
            sender
                .send(listener.local_addr().expect("an address"))
                .expect("somebody waits");
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(
                    http2::Builder::new(TokioExecutor::new())
                        .initial_stream_window_size(1_000)
                        .serve_connection(TokioIo::new(stream), service_fn(answer)),
                );
            }
        });
    });
    address.recv().expect("the pod listens")
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend(payload);
    frame
}

/// Of streams that begin from now on, and of those that are open.
fn window(bytes: u32) -> Vec<u8> {
    let mut setting = vec![0, 4];
    setting.extend(bytes.to_be_bytes());
    frame(SETTINGS, 0, 0, &setting)
}

fn request(method: u8, path: &str, flags: u8, stream: u8) -> Vec<u8> {
    let mut block = vec![method, 0x86, 0x44];
    block.push(u8::try_from(path.len()).expect("short"));
    block.extend(path.as_bytes());
    block.extend(b"\x41\x01a");
    frame(HEADERS, END_HEADERS | flags, stream, &block)
}
/// Places in the table that both sides know.
const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// A client that has said so much of its window.
fn client_of_http2(bed: &Bed, window_bytes: u32) -> TcpStream {
    let mut client = bed.client();
    client
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .and_then(|()| client.write_all(&window(window_bytes)))
        .expect("sent");
    client
}

/// Reads up to the end of a stream: how many bytes of a body came, and the code of its reset.
fn end_of(client: &mut TcpStream, stream: u8) -> (usize, Option<Vec<u8>>) {
    let mut bytes = 0;
    loop {
        let (kind, flags, payload) = next(client, stream);
        match kind {
            RST_STREAM => return (bytes, Some(payload)),
            DATA => bytes += payload.len(),
            _ => {}
        }
        if flags & END_STREAM != 0 {
            return (bytes, None);
        }
    }
}

/// The next frame of a stream: kind, flags, payload.
fn next(client: &mut TcpStream, stream: u8) -> (u8, u8, Vec<u8>) {
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        client.read_exact(&mut payload).expect("a whole frame");
        if head[8] == stream {
            return (head[3], head[4], payload);
        }
    }
}

#[test]
fn a_stream_whose_window_stays_closed_is_reset_and_others_are_served() {
    // The pod's answer and our own.
    for (path, length) in [("/", LENGTH), ("/admin", 19)] {
        let bed = Bed::before(pod_of_http2(), |config| config.body_timeout = SHORT);
        let mut client = client_of_http2(&bed, 0);
        let start = Instant::now();
        client
            .write_all(&request(GET, path, END_STREAM, 1))
            .expect("sent");
        assert_eq!(end_of(&mut client, 1), (0, Some(CANCEL.into())), "{path}");
        assert!(start.elapsed() >= SHORT, "not before its time");
        assert_eq!(*lock(&bed.world.refusals), [Refusal::BodyTimeout], "{path}");
        assert_eq!(bed.proxy.stats().refusals(Refusal::BodyTimeout), 1);
        client
            .write_all(&window(65_535))
            .and_then(|()| client.write_all(&request(GET, path, END_STREAM, 3)))
            .expect("the connection lives on");
        assert_eq!(end_of(&mut client, 3), (length, None), "{path}");
        assert_eq!(bed.proxy.stats().refusals(Refusal::BodyTimeout), 1);
    }
}

#[test]
fn a_client_that_takes_little_by_little_is_served_to_the_end() {
    let bed = Bed::before(pod_of_http2(), |config| config.body_timeout = 4 * SHORT);
    let mut client = client_of_http2(&bed, 0);
    client
        .write_all(&request(GET, "/", END_STREAM, 1))
        .expect("sent");
    for part in 1..=5 {
        thread::sleep(SHORT);
        client.write_all(&window(part * 10_000)).expect("sent");
    }
    assert_eq!(end_of(&mut client, 1), (LENGTH, None));
    assert!(lock(&bed.world.refusals).is_empty());
}

#[test]
fn signs_of_life_keep_no_connection_without_requests() {
    let bed = Bed::before(pod_of_http2(), |config| config.idle_timeout = 2 * SHORT);
    let mut client = client_of_http2(&bed, 65_535);
    let ping = frame(6, 0, 0, &[7; 8]);
    let start = Instant::now();
    while client.write_all(&ping).is_ok() {
        assert!(start.elapsed() < PATIENCE, "it is kept for ever");
        thread::sleep(SHORT / 4);
    }
    assert!(start.elapsed() >= 2 * SHORT, "not before its time");
    assert!(lock(&bed.world.refusals).is_empty(), "it is nobody's fault");
}

#[test]
fn a_pod_whose_window_stays_closed_is_not_waited_for() {
    let bed = Bed::before(pod_of_http2(), |config| config.idle_timeout = SHORT);
    let mut client = client_of_http2(&bed, 65_535);
    client.write_all(&request(POST, "/", 0, 1)).expect("sent");
    // The pod's answer begins; its window is known by then.
    while next(&mut client, 1).0 != DATA {}
    for _ in 0..2 {
        client
            .write_all(&frame(DATA, 0, 1, &[b'x'; 10_000]))
            .expect("sent");
    }
    let (bytes, reset) = end_of(&mut client, 1);
    assert_eq!(bytes, 0, "nothing more");
    assert!(reset.is_some(), "that is no end");
    assert_eq!(*lock(&bed.world.refusals), [Refusal::UpstreamTimeout]);
}

#[test]
fn an_http1_client_that_takes_nothing_is_reset() {
    let endless = pod(|mut stream| {
        thread::spawn(move || {
            let _head = read_head(&mut stream);
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n";
            stream.write_all(head).expect("sent");
            while stream.write_all(&[b'x'; 4_096]).is_ok() {}
        });
    });
    let bed = Bed::before(endless, |config| config.body_timeout = SHORT);
    let mut client = bed.client();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("sent");
    wait_for(|| bed.proxy.stats().refusals(Refusal::BodyTimeout) == 1);
    assert_eq!(*lock(&bed.world.refusals), [Refusal::BodyTimeout]);
    wait_for(|| bed.world.open.load(Ordering::SeqCst) == 0);
    let read = io::copy(&mut client, &mut io::sink());
    assert!(read.is_err(), "a reset, not an end: {read:?}");
}

#[test]
fn an_http1_pod_that_takes_nothing_is_not_waited_for() {
    let hasty = pod(|mut stream| {
        thread::spawn(move || {
            let _head = read_head(&mut stream);
            let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
            stream.write_all(begun).expect("sent");
            thread::sleep(PATIENCE);
        });
    });
    let bed = Bed::before(hasty, |config| config.idle_timeout = SHORT);
    let mut client = bed.client();
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n")
        .expect("sent");
    let mut upload = client.try_clone().expect("a second handle");
    let uploading = thread::spawn(move || {
        loop {
            if let Err(error) = upload.write_all(&[b'x'; 4_096]) {
                return error.kind();
            }
        }
    });
    let read = io::copy(&mut client, &mut io::sink());
    let written = uploading.join().expect("the connection is reset");
    // Whoever of the two asks first is told, and the other one sees an end.
    assert!(
        read.is_err() || written == io::ErrorKind::ConnectionReset,
        "a reset, not an end: {read:?}, {written}"
    );
    assert_eq!(*lock(&bed.world.refusals), [Refusal::UpstreamTimeout]);
}

fn wait_for(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "it does not happen");
        thread::sleep(Duration::from_millis(10));
    }
}
