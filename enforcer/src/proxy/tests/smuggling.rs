//! Requests that two servers might read in two ways: refused, or forwarded in one reading only.

use std::{io::Write, sync::atomic::Ordering};

use super::world::{Bed, response};

#[test]
fn ambiguous_heads_are_refused_and_never_reach_the_pod() {
    let bed = Bed::new();
    let long_target = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(70 << 10));
    let long_header = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "a".repeat(70 << 10)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
        "x: y\r\n".repeat(200)
    );
    for (bytes, statuses) in [
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            &[400][..],
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 2\r\n\r\nab",
            &[400],
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab",
            &[400],
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2, 2\r\n\r\nab",
            &[400],
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400],
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
            &[400],
        ),
        ("GET / HTTP/1.1\nhost: a\nx: 1\n\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: a\nx: 1\r\n\r\n", &[400]),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n\tfolded\r\n\r\n",
            &[400],
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na",
            &[400],
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x1\r\n\r\na",
            &[400],
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\na",
            &[400],
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n",
            &[400],
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n",
            &[400],
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400],
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
            &[400],
        ),
        (
            "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400],
        ),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\n\r\n", &[400]),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n folded\r\n\r\n",
            &[400],
        ),
        ("GET / HTTP/1.1\r\nhost: a\r\nx\0: 1\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\0\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\rhost: b\r\n\r\n", &[400]),
        ("GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("GET http://u@a/ HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: content-length\r\n\r\n",
            &[400],
        ),
        ("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n", &[405]),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("GET a HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        ("GET /\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n", &[400]),
        (&long_target, &[400, 414, 431]),
        (&long_header, &[400, 431]),
        (&many, &[400, 431]),
    ] {
        let shown = &bytes[..bytes.len().min(120)];
        // An answer that a reset overtakes is a refusal too.
        if let Some(status) = bed.status(bytes.as_bytes()) {
            assert!(statuses.contains(&status), "{shown:?} got {status}");
        }
        assert!(bed.heads().is_empty(), "{shown:?} reached the pod");
    }
    assert_eq!(bed.world.opened.load(Ordering::SeqCst), 0);
}

#[test]
fn what_is_forwarded_is_framed_anew() {
    for (bytes, has, lacks) in [
        (
            "GET http://a/x HTTP/1.1\r\nhost: A\r\n\r\n",
            "get /x http/1.1\r\n",
            "http://",
        ),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: x-role\r\nx-role: admin\r\n\r\n",
            "host: a\r\n",
            "x-role",
        ),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n",
            "host: a\r\n",
            "h2c",
        ),
    ] {
        let bed = Bed::new();
        assert_eq!(bed.status(bytes.as_bytes()), Some(200), "{bytes:?}");
        let head = bed.heads().join("").to_ascii_lowercase();
        assert!(head.contains(has), "{bytes:?} became {head:?}");
        assert!(!head.contains(lacks), "{bytes:?} became {head:?}");
    }
}

#[test]
fn each_of_several_requests_in_one_segment_is_judged() {
    let bed = Bed::new();
    let mut client = bed.client();
    let bytes = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc\
        GET /admin HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(bytes.as_bytes()).expect("sent");
    for status in [200, 403, 200] {
        assert_eq!(response(&mut client).expect("an answer").status, status);
    }
    let lines: Vec<String> = bed
        .heads()
        .iter()
        .map(|h| h.lines().next().unwrap_or("").into())
        .collect();
    assert_eq!(lines, ["POST /a HTTP/1.1", "GET /b HTTP/1.1"]);
}
