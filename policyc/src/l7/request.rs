//! What is judged, as views: nothing is copied from the request that the proxy or the command line
//! holds.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::{headers, request::Http};

/// Header lines of a request, in the order of arrival. Names are compared without case.
pub trait HeaderLines {
    /// Calls `test` with the value of each line called `name` (lower case) until it says yes.
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;
    /// Calls `visit` with each line.
    fn visit(&self, visit: &mut dyn FnMut(&str, &[u8]));
}

/// Calls `test` with the value of a header whose lines are joined, where it has a line.
pub fn value(lines: &dyn HeaderLines, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    // One line, as nearly always, needs no copy.
    let mut count = 0;
    lines.any(name, &mut |_| {
        count += 1;
        false
    });
    match count {
        0 => false,
        1 => lines.any(name, test),
        _ => {
            let mut all: Vec<Vec<u8>> = Vec::with_capacity(count);
            lines.any(name, &mut |line| {
                all.push(line.to_vec());
                false
            });
            let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
            test(&headers::join(&all))
        }
    }
}

/// A connection: what is known whatever is spoken on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connection<'a> {
    /// Address of the TCP peer; never an IPv4 address in IPv6 form.
    pub peer: Option<IpAddr>,
    /// TLS server name, where a ClientHello carried one.
    pub sni: Option<&'a str>,
}

/// One HTTP request.
#[derive(Clone, Copy)]
pub struct HttpRequest<'a> {
    pub method: &'a str,
    /// The raw request target in origin form, query included.
    pub target: &'a str,
    /// `:authority`, else `Host`.
    pub authority: Option<&'a str>,
    pub headers: &'a dyn HeaderLines,
    /// The payload of a token that was verified before, if any; a token in the request itself goes
    /// first.
    pub claims: Option<&'a Map<String, Value>>,
    /// Seconds since 1970.
    pub now: u64,
}

impl HeaderLines for Http {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .flat_map(|(_, values)| values.lines())
            .any(|line| test(line.as_bytes()))
    }

    fn visit(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        for (name, values) in &self.headers {
            for line in values.lines() {
                visit(name, line.as_bytes());
            }
        }
    }
}

impl<'a> HttpRequest<'a> {
    /// The view of a request as the command line reads it. `now` in seconds since 1970.
    pub fn from_json(http: &'a Http, now: u64) -> Self {
        Self {
            method: &http.method,
            target: &http.path,
            authority: http.host.as_deref(),
            headers: http,
            claims: http.claims.as_ref(),
            now,
        }
    }
}
