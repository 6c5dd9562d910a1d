//! Requests: judged one by one, forwarded as judged.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use policyc::{
    ir::Otherwise,
    request::{Cause, Expected},
};

use super::world::{Bed, deny_admin, lock, pod, read_head, response, settled};

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n").into_bytes()
}

#[test]
fn a_refusal_is_answered_here_and_the_connection_lives_on() {
    let bed = Bed::new();
    let mut client = bed.client();
    client.write_all(&get("/admin/x")).expect("sent");
    let refused = response(&mut client).expect("an answer");
    assert_eq!(refused.status, 403);
    assert_eq!(refused.body, b"RBAC: access denied");
    assert_eq!(refused.headers["content-type"], "text/plain");
    assert!(bed.heads().is_empty(), "the pod hears nothing of it");
    assert_eq!(bed.world.opened.load(Ordering::SeqCst), 0);
    client.write_all(&get("/a/../shop?q=/../")).expect("sent");
    let allowed = response(&mut client).expect("an answer");
    assert_eq!((allowed.status, &*allowed.body), (200, &b"ok"[..]));
    let head = bed.heads().join("");
    assert!(head.starts_with("GET /shop?q=/../ HTTP/1.1\r\n"), "{head}");
    assert!(
        head.to_ascii_lowercase().contains("host: shop\r\n"),
        "{head}"
    );
    client.write_all(&get("/x/%2e%2e/admin")).expect("sent");
    assert_eq!(response(&mut client).expect("an answer").status, 403);
    let events = lock(&bed.world.events).clone();
    let deny = (Expected::Deny, Cause::DenyRule, Some("ns/p0".to_string()));
    let allow = (Expected::Allow, Cause::NoAllowPolicy, None);
    assert_eq!(events, [deny.clone(), allow, deny]);
    assert_eq!(
        bed.world.opened.load(Ordering::SeqCst),
        1,
        "one way to the pod"
    );
    drop(client);
    let deadline = Instant::now() + Duration::from_secs(10);
    while bed.world.open.load(Ordering::SeqCst) != 0 {
        assert!(
            Instant::now() < deadline,
            "the way to the pod is closed with the client's"
        );
        thread::yield_now();
    }
}

#[test]
fn a_change_of_policy_reaches_the_next_request() {
    let bed = Bed::new();
    let mut client = bed.client();
    for (decision, status) in [
        (deny_admin(Otherwise::Deny), 200),
        (settled(Expected::Deny), 403),
        (settled(Expected::Allow), 200),
    ] {
        bed.world.decide(decision);
        client.write_all(&get("/")).expect("sent");
        assert_eq!(response(&mut client).expect("an answer").status, status);
    }
}

#[test]
fn the_way_to_the_pod_is_opened_again_when_the_pod_closed_it() {
    let once = pod(|mut stream| {
        let _head = read_head(&mut stream).expect("a request");
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).expect("the proxy reads");
    });
    let bed = Bed::before(once, |_| {});
    let mut client = bed.client();
    for _ in 0..3 {
        client.write_all(&get("/")).expect("sent");
        assert_eq!(response(&mut client).expect("an answer").status, 200);
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(bed.world.opened.load(Ordering::SeqCst), 3);
}

#[test]
fn a_pod_that_does_not_listen_is_503() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("it");
    let bed = Bed::before(closed, |_| {});
    assert_eq!(bed.status(&get("/")), Some(503));
    assert_eq!(bed.world.open.load(Ordering::SeqCst), 0);
}

#[test]
fn bodies_stream_both_ways_without_being_kept() {
    const SIZE: usize = 32 << 20;
    let echo = pod(|mut stream| {
        thread::spawn(move || {
            let head = read_head(&mut stream).expect("a request");
            assert!(
                head.to_ascii_lowercase()
                    .contains(&format!("content-length: {SIZE}"))
            );
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").expect("sent");
            let mut buffer = vec![0; 64 << 10];
            let mut left = SIZE;
            while left > 0 {
                let count = stream.read(&mut buffer).expect("more");
                stream.write_all(&buffer[..count]).expect("sent");
                left -= count;
            }
        });
    });
    let bed = Bed::before(echo, |_| {});
    let mut client = bed.client();
    let mut writer = client.try_clone().expect("a second handle");
    let sending = thread::spawn(move || {
        write!(
            writer,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\n\r\n"
        )
        .expect("sent");
        for i in 0..SIZE >> 16 {
            let byte = u8::try_from(i % 251).expect("below 251");
            writer.write_all(&[byte; 1 << 16]).expect("sent");
        }
    });
    let head = read_head(&mut client).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut chunk = vec![0; 1 << 16];
    for i in 0..SIZE >> 16 {
        client.read_exact(&mut chunk).expect("the body comes back");
        assert!(
            chunk.iter().all(|b| usize::from(*b) == i % 251),
            "chunk {i}"
        );
    }
    sending.join().expect("all was sent");
}

#[test]
fn websocket_is_carried_until_policies_forbid_it() {
    let echo = pod(|mut stream| {
        thread::spawn(move || {
            let head = read_head(&mut stream)
                .expect("a request")
                .to_ascii_lowercase();
            assert!(head.contains("upgrade: websocket"), "{head}");
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(answer).expect("sent");
            let mut buffer = [0; 64];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                stream.write_all(&buffer[..count]).expect("sent");
            }
        });
    });
    let bed = Bed::before(echo, |_| {});
    let mut client = bed.client();
    let ask = b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write_all(ask).expect("sent");
    let head = read_head(&mut client).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut back = [0; 5];
    client.write_all(b"hello").expect("sent");
    client.read_exact(&mut back).expect("an echo");
    assert_eq!(&back, b"hello");
    bed.world.decide(deny_admin(Otherwise::Deny));
    client.write_all(b"again").expect("sent");
    client.read_exact(&mut back).expect("still allowed");
    bed.world.decide(settled(Expected::Deny));
    assert_eq!(
        client.read(&mut back).unwrap_or(0),
        0,
        "the tunnel is closed"
    );
}

#[test]
fn h2c_is_judged_per_request_and_grpc_is_told_in_headers() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        use http_body_util::{BodyExt, Empty};
        use hyper::body::{Bytes, Incoming};
        use hyper_util::rt::{TokioExecutor, TokioIo};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let service =
                hyper::service::service_fn(|request: http::Request<Incoming>| async move {
                    let text = format!(
                        "{} {}",
                        request.uri(),
                        request.version() == http::Version::HTTP_2
                    );
                    Ok::<_, std::convert::Infallible>(http::Response::new(text))
                });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder
                .serve_connection(TokioIo::new(stream), service)
                .await
                .expect("served");
        });
        let bed = Bed::before(address, |_| {});
        let stream = tokio::net::TcpStream::connect(bed.proxy.address)
            .await
            .expect("it listens");
        let io = TokioIo::new(stream);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = handshake.expect("HTTP/2");
        tokio::spawn(connection);
        let request = |path: &str, kind: &str| {
            let uri = format!("http://shop{path}");
            let request = http::Request::builder()
                .uri(uri)
                .header("content-type", kind);
            request.body(Empty::<Bytes>::new()).expect("a request")
        };
        let allowed = sender
            .send_request(request("/a/../b", "x"))
            .await
            .expect("an answer");
        let body = allowed
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        assert_eq!(body, "http://shop/b true");
        let refused = sender
            .send_request(request("/admin", "x"))
            .await
            .expect("an answer");
        assert_eq!(refused.status(), 403);
        let grpc = request("/admin/Method", "application/grpc");
        let grpc = sender.send_request(grpc).await.expect("an answer");
        assert_eq!(
            (grpc.status().as_u16(), &grpc.headers()["grpc-status"]),
            (200, &"7".parse().expect("a value"))
        );
        drop(bed);
    });
}
