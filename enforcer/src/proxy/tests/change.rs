//! A change of policy reaches what is being carried.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use policyc::{ir::Otherwise, request::Expected};

use super::world::{Bed, deny_admin, pod, read_head, response, settled};

/// How long the loaded machine of a test may take for what takes no time.
const SOON: Duration = Duration::from_secs(5);

/// Begins an answer that never ends, after `before` bytes of it.
fn endless() -> SocketAddr {
    pod(|mut stream| {
        thread::spawn(move || {
            let _head = read_head(&mut stream);
            let begun = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n7\r\ndata: 1\r\n";
            stream.write_all(begun).expect("sent");
            // Until the other side goes.
            let _gone = stream.read(&mut [0; 64]);
        });
    })
}

#[test]
fn a_stream_that_lost_its_permission_is_reset_and_one_that_kept_it_goes_on() {
    let bed = Bed::before(endless(), |_| {});
    let ask = |path: &str| {
        let mut client = bed.client();
        write!(client, "GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").expect("sent");
        let head = read_head(&mut client).expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut chunk = [0; 12];
        client.read_exact(&mut chunk).expect("the first event");
        client
    };
    bed.world.decide(settled(Expected::Allow));
    let mut lost = ask("/admin");
    let mut kept = ask("/shop");
    bed.world.decide(deny_admin(Otherwise::Deny));
    let start = Instant::now();
    let read = lost.read(&mut [0; 8]);
    assert!(read.is_err(), "a reset, not an end: {read:?}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    kept.set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a socket");
    let silence = kept.read(&mut [0; 8]).expect_err("nothing new");
    let waits = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
    assert!(waits.contains(&silence.kind()), "it goes on: {silence}");
    let stats = bed.proxy.stats();
    let broken = stats.broken_off.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(broken, 1);
}

#[test]
fn a_long_poll_that_lost_its_permission_is_told_so() {
    let silent = pod(|mut stream| {
        thread::spawn(move || {
            let _head = read_head(&mut stream);
            let _gone = stream.read(&mut [0; 64]);
        });
    });
    let bed = Bed::before(silent, |_| {});
    bed.world.decide(settled(Expected::Allow));
    let mut client = bed.client();
    let get = b"GET /admin HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(get).expect("sent");
    let deadline = Instant::now() + SOON;
    while bed.world.opened.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        assert!(Instant::now() < deadline, "the request reaches the pod");
        thread::yield_now();
    }
    bed.world.decide(deny_admin(Otherwise::Deny));
    let refused = response(&mut client).expect("an answer");
    assert_eq!(
        (refused.status, &*refused.body),
        (403, &b"RBAC: access denied"[..])
    );
}

#[test]
fn a_connection_that_lost_its_permission_is_reset() {
    let echo = pod(|mut stream| {
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        });
    });
    let bed = Bed::before(echo, |_| {});
    bed.world.decide(deny_admin(Otherwise::Allow));
    let mut client = bed.client();
    client.write_all(b"\x00\x01").expect("sent");
    client.read_exact(&mut [0; 2]).expect("an echo");
    bed.world.decide(settled(Expected::Deny));
    let read = client.read(&mut [0; 8]);
    assert!(read.is_err(), "a reset, not an end: {read:?}");
}

#[test]
fn what_one_side_breaks_off_is_no_end_to_the_other() {
    let (ended, end) = std::sync::mpsc::channel();
    let pod = pod(move |mut stream| {
        let ended = ended.clone();
        thread::spawn(move || {
            let mut bytes = [0; 2];
            stream.read_exact(&mut bytes).expect("the first bytes");
            stream.write_all(&bytes).expect("sent");
            let read = stream.read(&mut bytes);
            ended
                .send(read.map_err(|error| error.kind()))
                .expect("heard");
        });
    });
    let bed = Bed::before(pod, |_| {});
    bed.world.decide(deny_admin(Otherwise::Allow));
    let begin = || {
        let mut client = bed.client();
        client.write_all(b"\x00\x01").expect("sent");
        client.read_exact(&mut [0; 2]).expect("an echo");
        client
    };
    let client = begin();
    let reset = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
    reset.expect("a socket of ours");
    drop(client);
    let broken = Err(std::io::ErrorKind::ConnectionReset);
    assert_eq!(
        end.recv_timeout(SOON),
        Ok(broken),
        "the client has reset it"
    );
    drop(begin());
    assert_eq!(end.recv_timeout(SOON), Ok(Ok(0)), "the client has ended it");
    let _client = begin();
    bed.world.decide(settled(Expected::Deny));
    assert_eq!(end.recv_timeout(SOON), Ok(broken), "policies have ended it");
}

#[test]
fn of_an_http2_connection_only_the_streams_that_lost_it() {
    use http_body_util::{BodyExt, Empty, StreamBody};
    use hyper::body::{Bytes, Frame, Incoming};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let service = hyper::service::service_fn(|_: http::Request<Incoming>| async move {
                let first = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(
                    Frame::data(Bytes::from_static(b"1")),
                )]);
                let more = futures_util::StreamExt::chain(first, futures_util::stream::pending());
                Ok::<_, std::convert::Infallible>(http::Response::new(StreamBody::new(more)))
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ended = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        let bed = Bed::before(address, |_| {});
        bed.world.decide(settled(Expected::Allow));
        let stream = tokio::net::TcpStream::connect(bed.proxy.address)
            .await
            .expect("it listens");
        let io = TokioIo::new(stream);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = handshake.expect("HTTP/2");
        tokio::spawn(connection);
        let mut open = Vec::new();
        for path in ["/admin", "/shop"] {
            let request = http::Request::get(format!("http://a{path}"));
            let request = request.body(Empty::<Bytes>::new()).expect("a request");
            let mut body = sender
                .send_request(request)
                .await
                .expect("an answer")
                .into_body();
            let first = body.frame().await.expect("a frame").expect("of data");
            assert_eq!(first.into_data().expect("data"), "1");
            open.push(body);
        }
        bed.world.decide(deny_admin(Otherwise::Deny));
        let lost = tokio::time::timeout(SOON, open[0].frame()).await;
        let lost = lost.expect("at once").expect("an end");
        assert!(lost.is_err(), "the stream is reset");
        let kept = tokio::time::timeout(Duration::from_millis(300), open[1].frame()).await;
        assert!(kept.is_err(), "the other goes on");
        let again = http::Request::get("http://a/shop").body(Empty::<Bytes>::new());
        let again = sender.send_request(again.expect("a request")).await;
        assert_eq!(again.expect("the connection lives").status(), 200);
    });
}
