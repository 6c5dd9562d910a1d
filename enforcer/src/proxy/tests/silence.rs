//! Who is silent for too long, and in the middle of what.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::world::{Bed, lock, pod, read_head, response};
use crate::proxy::Refusal;

const SHORT: Duration = Duration::from_millis(300);

/// What comes until the end; the time until then.
fn until_the_end(client: &mut TcpStream) -> (Vec<u8>, Duration) {
    let start = Instant::now();
    let mut all = Vec::new();
    let _reset = client.read_to_end(&mut all);
    (all, start.elapsed())
}

#[test]
fn a_head_that_drips_is_not_waited_for() {
    let bed = Bed::before(pod(|_| {}), |config| config.head_timeout = SHORT);
    let mut client = bed.client();
    client.write_all(b"GET / HTTP/1.1\r\n").expect("sent");
    let mut dripping = client.try_clone().expect("a second handle");
    let drips = thread::spawn(move || {
        // Each byte comes in time; all of them together do not.
        while dripping.write_all(b"x").is_ok() {
            thread::sleep(SHORT / 10);
        }
    });
    let (all, time) = until_the_end(&mut client);
    assert_eq!(all, b"");
    assert!(time >= SHORT / 2, "not before its time: {time:?}");
    drop(client);
    drips.join().expect("the connection is reset");
    assert_eq!(*lock(&bed.world.refusals), [Refusal::HeadTimeout]);
    assert_eq!(bed.proxy.stats().refusals(Refusal::HeadTimeout), 1);
}

#[test]
fn a_body_that_stops_is_not_waited_for_and_one_that_drips_is() {
    let echo = pod(|mut stream| {
        thread::spawn(move || {
            while read_head(&mut stream).is_ok() {
                let mut body = [0; 8];
                if stream.read_exact(&mut body).is_err() {
                    return;
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).expect("sent");
            }
        });
    });
    let bed = Bed::before(echo, |config| config.body_timeout = 3 * SHORT);
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\n";
    let mut client = bed.client();
    client.write_all(head).expect("sent");
    for _ in 0..8 {
        thread::sleep(SHORT);
        client.write_all(b"x").expect("sent");
    }
    assert_eq!(response(&mut client).expect("an answer").status, 200);
    client.write_all(head).expect("sent");
    client.write_all(b"half").expect("sent");
    let (all, time) = until_the_end(&mut client);
    let all = String::from_utf8_lossy(&all);
    assert!(all.is_empty() || all.starts_with("HTTP/1.1 408 "), "{all}");
    assert!(time >= SHORT, "not before its time: {time:?}");
    assert_eq!(*lock(&bed.world.refusals), [Refusal::BodyTimeout]);
}

#[test]
fn between_requests_a_connection_ends_in_peace() {
    let bed = Bed::with(|config| config.idle_timeout = SHORT);
    let mut client = bed.client();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("sent");
    assert_eq!(response(&mut client).expect("an answer").status, 200);
    let mut rest = Vec::new();
    let count = client.read_to_end(&mut rest).expect("no reset");
    assert_eq!(count, 0);
    assert!(lock(&bed.world.refusals).is_empty(), "it is nobody's fault");
}

#[test]
fn a_pod_that_does_not_answer_is_504_and_one_that_breaks_off_503() {
    let hung = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = hung.local_addr().expect("it");
    let bed = Bed::before(address, |config| config.idle_timeout = SHORT);
    let get = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(bed.status(get), Some(504));
    assert_eq!(*lock(&bed.world.refusals), [Refusal::UpstreamTimeout]);
    let rude = pod(|mut stream| {
        let _head = read_head(&mut stream);
    });
    let bed = Bed::before(rude, |_| {});
    assert_eq!(bed.status(get), Some(503));
    assert_eq!(*lock(&bed.world.refusals), [Refusal::UpstreamFailed]);
}

#[test]
fn an_answer_that_breaks_off_does_not_look_like_one_that_ends() {
    let rude = pod(|mut stream| {
        let _head = read_head(&mut stream);
        let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
        stream.write_all(begun).expect("sent");
    });
    let bed = Bed::before(rude, |_| {});
    let mut client = bed.client();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("sent");
    let _head = read_head(&mut client).expect("a head");
    let mut all = Vec::new();
    let read = client.read_to_end(&mut all);
    assert!(read.is_err(), "a reset, not an end: {all:?}");
}
