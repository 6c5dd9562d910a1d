//! What a client speaks, from its first bytes. What is not certainly HTTP is judged as TCP, which
//! never lets more through: without HTTP an ALLOW rule with HTTP fields is void and a DENY rule wider.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

/// What is spoken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    Tls {
        sni: Option<String>,
    },
    Tcp,
}

/// Bytes looked at before the answer is TCP.
const BYTES_MAX: usize = 16 << 10;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// No method in use is longer.
const METHOD_MAX: usize = 32;

/// Reads until it is certain what is spoken, or the time is over (the pod may speak first). Gives
/// the bytes read, too.
pub(super) async fn sniff<R: AsyncRead + Unpin>(
    stream: &mut R,
    within: Duration,
) -> std::io::Result<(Protocol, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(1_024);
    let reading = async {
        loop {
            if let Some(protocol) = protocol(&bytes) {
                return Ok::<_, std::io::Error>(protocol);
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(Protocol::Tcp);
            }
        }
    };
    let protocol = match timeout(within, reading).await {
        Ok(result) => result?,
        Err(_elapsed) => Protocol::Tcp,
    };
    Ok((protocol, bytes))
}

/// What the bytes are the beginning of; `None`: not certain yet.
fn protocol(bytes: &[u8]) -> Option<Protocol> {
    if bytes.len() >= BYTES_MAX {
        return Some(Protocol::Tcp);
    }
    if bytes.starts_with(&[0x16, 0x03]) {
        return client_hello(bytes);
    }
    if bytes == [0x16] {
        return None;
    }
    if bytes.starts_with(PREFACE) {
        return Some(Protocol::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    http1(bytes)
}

/// A method, a space, a target, a space, `HTTP/1.`: anything else is not HTTP/1.
fn http1(bytes: &[u8]) -> Option<Protocol> {
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let method = bytes.iter().take_while(|b| is_token(b)).count();
    if method == bytes.len() && method <= METHOD_MAX {
        return None;
    }
    let rest = bytes.get(method..).unwrap_or(b"");
    if method == 0 || method > METHOD_MAX || rest.first() != Some(&b' ') {
        return Some(Protocol::Tcp);
    }
    let line = match rest.iter().position(|b| *b == b'\n') {
        Some(end) => &rest[1..end],
        None if rest.contains(&0) => return Some(Protocol::Tcp),
        None => return None,
    };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line
        .iter()
        .rposition(|b| *b == b' ')
        .map(|at| &line[at + 1..]);
    Some(match version {
        Some(b"HTTP/1.1" | b"HTTP/1.0") => Protocol::Http1,
        _ => Protocol::Tcp,
    })
}

/// Reads the server name of a ClientHello; bytes that are none are TLS without a name.
fn client_hello(bytes: &[u8]) -> Option<Protocol> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return Some(Protocol::Tls { sni: None });
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let sni = accepted.client_hello().server_name().map(String::from);
                return Some(Protocol::Tls { sni });
            }
            Err(_) => return Some(Protocol::Tls { sni: None }),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines() {
        for (bytes, expected) in [
            (&b""[..], None),
            (b"GET", None),
            (b"GET / HT", None),
            (b"GET / HTTP/1.1\r\n", Some(Protocol::Http1)),
            (b"X-ODD / HTTP/1.0\n", Some(Protocol::Http1)),
            (b"GET /\r\n", Some(Protocol::Tcp)),
            (b"GET / HTTP/2.0\r\n", Some(Protocol::Tcp)),
            (b"\r\nGET / HTTP/1.1\r\n", Some(Protocol::Tcp)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Protocol::Tcp)),
            (b"\x00\x00\x00\x08", Some(Protocol::Tcp)),
            (b"PRI * HTTP", None),
            (PREFACE, Some(Protocol::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Some(Protocol::Tcp)),
            (b"\x16", None),
            (b"\x16\x01\x00", Some(Protocol::Tcp)),
            (
                b"\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff",
                Some(Protocol::Tls { sni: None }),
            ),
        ] {
            assert_eq!(
                protocol(bytes),
                expected,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
        assert_eq!(protocol(&vec![b'a'; BYTES_MAX]), Some(Protocol::Tcp));
        assert_eq!(protocol(&[b'a'; METHOD_MAX + 1]), Some(Protocol::Tcp));
    }

    #[test]
    fn the_server_name_of_a_client_hello() {
        let hello = hello("Shop.example");
        for cut in 2..hello.len() {
            assert_eq!(protocol(&hello[..cut]), None, "cut at {cut}");
        }
        let sni = Some("Shop.example".to_string());
        match protocol(&hello) {
            Some(Protocol::Tls { sni: found }) => {
                assert_eq!(
                    found.map(|s| s.to_lowercase()),
                    sni.map(|s| s.to_lowercase())
                );
            }
            other => panic!("a ClientHello is TLS, not {other:?}"),
        }
    }

    /// A TLS 1.2 ClientHello with one cipher suite and a server name.
    fn hello(name: &str) -> Vec<u8> {
        let len16 = |n: usize| u16::try_from(n).expect("short").to_be_bytes();
        let mut server_name = vec![0];
        server_name.extend(len16(name.len()));
        server_name.extend(name.as_bytes());
        let mut extensions = Vec::new();
        for (kind, body) in [
            (0u16, [&len16(server_name.len())[..], &server_name].concat()),
            (13, vec![0, 2, 4, 3]),
            (10, vec![0, 2, 0, 29]),
        ] {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(len16(body.len()));
            extensions.extend(body);
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
        body.extend(len16(extensions.len()));
        body.extend(extensions);
        let mut handshake = vec![1, 0];
        handshake.extend(len16(body.len()));
        handshake.extend(body);
        let mut record = vec![0x16, 3, 1];
        record.extend(len16(handshake.len()));
        record.extend(handshake);
        record
    }
}
