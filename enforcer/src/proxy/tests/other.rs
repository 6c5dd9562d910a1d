//! What is not HTTP, limits, and the client's own address.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use policyc::{ir::Otherwise, request::Expected};

use super::world::{Bed, deny_admin, pod, settled};

fn echo() -> SocketAddr {
    pod(|mut stream| {
        thread::spawn(move || {
            let mut buffer = [0; 1_024];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        });
    })
}

#[test]
fn bytes_that_are_not_http_are_judged_as_a_connection() {
    let bed = Bed::before(echo(), |_| {});
    let mut back = [0; 8];
    let mut client = bed.client();
    client.write_all(b"\x00\x01binary").expect("sent");
    assert_eq!(
        client.read(&mut back).unwrap_or(0),
        0,
        "refused: reset, no byte comes back"
    );
    assert_eq!(bed.world.opened.load(Ordering::SeqCst), 0);
    bed.world.decide(deny_admin(Otherwise::Allow));
    let mut client = bed.client();
    client.write_all(b"\x00\x01binary").expect("sent");
    client.read_exact(&mut back).expect("allowed: an echo");
    assert_eq!(&back, b"\x00\x01binary");
    bed.world.decide(settled(Expected::Deny));
    assert_eq!(
        client.read(&mut back).unwrap_or(0),
        0,
        "a change of policy ends it"
    );
}

#[test]
fn a_pod_that_speaks_first_is_heard() {
    let banner = pod(|mut stream| {
        stream.write_all(b"220 hello\r\n").expect("sent");
    });
    let bed = Bed::before(banner, |_| {});
    bed.world.decide(deny_admin(Otherwise::Allow));
    let mut text = String::new();
    bed.client().read_to_string(&mut text).expect("a banner");
    assert_eq!(text, "220 hello\r\n");
    bed.world.decide(deny_admin(Otherwise::Deny));
    let mut text = String::new();
    let _reset = bed.client().read_to_string(&mut text);
    assert_eq!(text, "", "refused: not a byte of it");
}

#[test]
fn a_half_closed_connection_still_carries_the_answer() {
    let late = pod(|mut stream| {
        thread::spawn(move || {
            let mut all = Vec::new();
            stream
                .read_to_end(&mut all)
                .expect("until the client's end");
            stream.write_all(&all).expect("sent");
        });
    });
    let bed = Bed::before(late, |_| {});
    bed.world.decide(deny_admin(Otherwise::Allow));
    let mut client = bed.client();
    client.write_all(b"\x00\x01all of it").expect("sent");
    client
        .shutdown(std::net::Shutdown::Write)
        .expect("half closed");
    let mut back = Vec::new();
    client.read_to_end(&mut back).expect("the answer");
    assert_eq!(back, b"\x00\x01all of it");
}

#[test]
fn an_idle_tunnel_ends() {
    let bed = Bed::before(echo(), |config| {
        config.idle_timeout = Duration::from_millis(200)
    });
    bed.world.decide(deny_admin(Otherwise::Allow));
    let mut client = bed.client();
    client.write_all(b"\x00\x01").expect("sent");
    let start = Instant::now();
    let mut back = Vec::new();
    let _reset = client.read_to_end(&mut back);
    assert_eq!(back, b"\x00\x01");
    assert!(
        start.elapsed() >= Duration::from_millis(200),
        "not before its time"
    );
}

#[test]
fn limits_are_kept() {
    let bed = Bed::before(echo(), |config| config.connections_per_source_max = 2);
    bed.world.decide(deny_admin(Otherwise::Allow));
    let mut kept = Vec::new();
    let mut back = [0; 2];
    for _ in 0..2 {
        let mut client = bed.client();
        client.write_all(b"\x00\x01").expect("sent");
        client.read_exact(&mut back).expect("within the limit");
        kept.push(client);
    }
    let mut third = bed.client();
    let _sent = third.write_all(b"\x00\x01");
    assert_eq!(third.read(&mut back).unwrap_or(0), 0, "over the limit");
    assert_eq!(bed.proxy.stats().over_limit(), 1);
    let clients = || bed.world.clients.load(Ordering::SeqCst);
    assert_eq!(
        clients(),
        2,
        "what goes over the limit takes no room anywhere"
    );
    drop(kept);
    let deadline = Instant::now() + Duration::from_secs(10);
    while bed.proxy.stats().open.load(Ordering::Relaxed) != 0 {
        assert!(Instant::now() < deadline, "seats are given back");
        thread::yield_now();
    }
    assert_eq!(clients(), 0, "and each end is told before its seat is free");
}

#[test]
fn a_proxy_without_its_namespace_does_not_start() {
    let config = crate::proxy::ProxyConfig {
        listen: TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("it"),
        ..crate::proxy::ProxyConfig::default()
    };
    let bed = Bed::before(echo(), |_| {});
    let world = &bed.world;
    let (judge, flows, reporter) = (world.clone(), world.clone(), world.clone());
    let fails = || Err(std::io::Error::other("no such namespace"));
    let proxy = crate::proxy::start(config, judge, flows, reporter, fails, |_| Ok(()));
    assert!(proxy.is_err(), "it must not listen where it is");
}
