//! One request to Envoy.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use policyc::request::Http;

use super::matchers::PEER;

const PATIENCE: Duration = Duration::from_secs(20);

/// Says who connects from where, and to which port.
pub fn proxy_line(from: &str, to: &str, port: u16) -> String {
    let family = if from.contains(':') { "TCP6" } else { "TCP4" };
    format!("PROXY {family} {from} {to} 40000 {port}\r\n")
}

pub fn head(
    http: &Http,
    target: &str,
    token: &str,
    peer: Option<&str>,
) -> Result<String, &'static str> {
    let mut lines = token.to_owned();
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
    if !has_host {
        return Err("a request without a host, which Envoy takes from nobody");
    }
    if let Some(peer) = peer {
        lines += &format!("{PEER}: {peer}\r\n");
    }
    Ok(format!("{} {target} HTTP/1.1\r\n{lines}\r\n", http.method))
}

/// The status of the answer.
pub fn ask(at: SocketAddr, bytes: &[u8]) -> io::Result<u16> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
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
    status.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
