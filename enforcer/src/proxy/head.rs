//! The head of a request: what is refused before any policy is asked, because two servers might read
//! it in two ways, and what is taken away because it concerns one hop only. All of it happens before
//! the judgement, so that what is judged is what is sent.

use http::{
    HeaderMap, HeaderName, Method, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
        UPGRADE,
    },
    request::Parts,
};
use policyc::l7::HeaderLines;

/// Why a head is refused, with its status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum BadHead {
    #[error("CONNECT asks for a tunnel that nobody could judge")]
    Connect,
    #[error("more than one Host")]
    ManyHosts,
    #[error("no Host in HTTP/1.1")]
    NoHost,
    #[error("the target's authority and Host differ")]
    HostDiffers,
    #[error("an authority that is none")]
    Authority,
    #[error("several Content-Length, or one that is no number")]
    ContentLength,
    #[error("both Content-Length and Transfer-Encoding")]
    BothLengths,
    #[error("a Transfer-Encoding other than chunked")]
    TransferEncoding,
    #[error("Connection names a header that frames or routes the message")]
    Connection,
    #[error("a target that is neither a path nor an address")]
    Target,
}

impl BadHead {
    pub fn status(self) -> u16 {
        if self == Self::Connect { 405 } else { 400 }
    }
}

/// What is known of a head once it is clean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub target: String,
    pub authority: Option<String>,
    /// The client asks to speak WebSocket from here on.
    pub websocket: bool,
}

/// Refuses what is ambiguous, takes away what concerns this hop alone.
pub(super) fn clean(parts: &mut Parts) -> Result<Head, BadHead> {
    if parts.method == Method::CONNECT {
        return Err(BadHead::Connect);
    }
    check_framing(&parts.headers)?;
    let authority = authority(&parts.uri, &parts.headers, parts.version)?;
    let target = match parts.uri.path_and_query() {
        Some(target) => target.as_str().to_string(),
        None => return Err(BadHead::Target),
    };
    if named_by_connection(&parts.headers).any(|name| is_needed(&name)) {
        return Err(BadHead::Connection);
    }
    let websocket = wants_websocket(parts);
    remove_hop_by_hop(&mut parts.headers);
    if websocket {
        let headers = &mut parts.headers;
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    Ok(Head {
        target,
        authority,
        websocket,
    })
}

/// Adds what Istio's sidecar adds where a client has not sent it, before any rule is asked: a DENY rule
/// on the presence of one of these must match here, too. The pod sees them as well, for what is
/// judged is what is sent.
pub(super) fn identify(headers: &mut HeaderMap) {
    // ISTIO: the sidecar's connection manager generates a request id unless there is one.
    if !headers.contains_key("x-request-id") {
        let id = request_id(fastrand::u128(..));
        if let Ok(id) = HeaderValue::from_bytes(&id) {
            headers.insert(HeaderName::from_static("x-request-id"), id);
        }
    }
    if !headers.contains_key("x-forwarded-proto") {
        let name = HeaderName::from_static("x-forwarded-proto");
        headers.insert(name, HeaderValue::from_static("http"));
    }
}

/// A version 4 UUID in its usual text. It need be unlike others, not secret.
fn request_id(random: u128) -> [u8; 36] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (at, place) in text.iter_mut().enumerate() {
        if ![8, 13, 18, 23].contains(&at) {
            shift -= 4;
            *place = DIGITS[usize::try_from(bits >> shift & 0xf).unwrap_or(0)];
        }
    }
    text
}

/// The library resolves some of these by rule; where two readings exist, no reading is forwarded.
fn check_framing(headers: &HeaderMap) -> Result<(), BadHead> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    let digits = |v: &HeaderValue| !v.is_empty() && v.as_bytes().iter().all(u8::is_ascii_digit);
    if lengths.next().is_some() || length.is_some_and(|v| !digits(v)) {
        return Err(BadHead::ContentLength);
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(encoding) = encodings.next() else {
        return Ok(());
    };
    if length.is_some() {
        return Err(BadHead::BothLengths);
    }
    if encodings.next().is_some() || !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(BadHead::TransferEncoding);
    }
    Ok(())
}

fn authority(uri: &Uri, headers: &HeaderMap, version: Version) -> Result<Option<String>, BadHead> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(BadHead::ManyHosts);
    }
    let host = host.map(|h| h.to_str().map_err(|_| BadHead::Authority));
    let host = host.transpose()?;
    let named = uri.authority().map(http::uri::Authority::as_str);
    if let (Some(host), Some(named)) = (host, named)
        && !host.eq_ignore_ascii_case(named)
    {
        return Err(BadHead::HostDiffers);
    }
    let Some(authority) = host.or(named) else {
        return if version == Version::HTTP_10 {
            Ok(None)
        } else {
            Err(BadHead::NoHost)
        };
    };
    // `user@host` is read as two different hosts by different servers.
    if authority.contains(['@', ',', '/', ' ', '\\']) {
        return Err(BadHead::Authority);
    }
    Ok(Some(authority.into()))
}

/// Only WebSocket is carried. Any other upgrade, h2c above all, would open a tunnel in which requests
/// are never judged; without the offer the server goes on in HTTP/1.1.
fn wants_websocket(parts: &Parts) -> bool {
    let offers = |name: &HeaderName, word: &str| {
        let lines = parts.headers.get_all(name).iter();
        let mut words = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|l| l.split(','));
        words.any(|w| w.trim().eq_ignore_ascii_case(word))
    };
    let one_offer = parts.headers.get_all(UPGRADE).iter().count() == 1;
    let upgrade = parts.headers.get(UPGRADE);
    parts.version == Version::HTTP_11
        && one_offer
        && upgrade.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && offers(&CONNECTION, "upgrade")
}

/// The headers that `Connection` names.
fn named_by_connection(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let lines = headers.get_all(CONNECTION).iter();
    let words = lines.flat_map(|line| line.as_bytes().split(|b| *b == b','));
    words.filter_map(|word| HeaderName::from_bytes(word.trim_ascii()).ok())
}

/// Frames or routes the message: it concerns no hop alone, whatever `Connection` says.
fn is_needed(name: &HeaderName) -> bool {
    [HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name)
}

/// Takes away what concerns one hop. What `Connection` names goes too, of a request before the
/// judgement: a rule must not see a header that the pod will not.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = named_by_connection(headers).collect();
    // RFC 9110, 10.1.4: a proxy may pass on that it takes trailers, and gRPC insists on it.
    let trailers = headers.get_all(TE).iter().any(|v| v == "trailers");
    for name in named {
        if name != TRAILER && !is_needed(&name) {
            headers.remove(name);
        }
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authenticate"] {
        headers.remove(name);
    }
    // The library frames the message anew, and has told the client to go on by itself.
    for name in [CONNECTION, UPGRADE, TE, TRANSFER_ENCODING, EXPECT] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The library's headers, as rules see them.
pub(super) struct Lines<'a>(pub &'a HeaderMap);

impl HeaderLines for Lines<'_> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let mut lines = self.0.get_all(name).iter();
        lines.any(|line| test(line.as_bytes()))
    }

    fn visit(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        for (name, value) in self.0 {
            visit(name.as_str(), value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn refused(target: &str, headers: &[(&str, &str)]) -> Option<BadHead> {
        clean(&mut parts(target, headers)).err()
    }

    #[test]
    fn what_two_servers_might_read_in_two_ways() {
        let host = ("host", "a");
        for (target, headers, expected) in [
            ("/", &[host][..], None),
            ("/", &[], Some(BadHead::NoHost)),
            ("/", &[host, host], Some(BadHead::ManyHosts)),
            ("http://a/", &[host], None),
            ("http://a/", &[], None),
            ("http://b/", &[host], Some(BadHead::HostDiffers)),
            ("/", &[("host", "u@a")], Some(BadHead::Authority)),
            ("/", &[("host", "a,b")], Some(BadHead::Authority)),
            ("/", &[host, ("content-length", "5")], None),
            (
                "/",
                &[host, ("content-length", "+5")],
                Some(BadHead::ContentLength),
            ),
            (
                "/",
                &[host, ("content-length", "5, 5")],
                Some(BadHead::ContentLength),
            ),
            (
                "/",
                &[host, ("content-length", "5"), ("content-length", "5")],
                Some(BadHead::ContentLength),
            ),
            ("/", &[host, ("transfer-encoding", "Chunked")], None),
            (
                "/",
                &[host, ("transfer-encoding", "gzip, chunked")],
                Some(BadHead::TransferEncoding),
            ),
            (
                "/",
                &[
                    host,
                    ("transfer-encoding", "chunked"),
                    ("content-length", "5"),
                ],
                Some(BadHead::BothLengths),
            ),
            (
                "/",
                &[host, ("connection", "close, Host")],
                Some(BadHead::Connection),
            ),
            ("/", &[host, ("connection", "close, x-role")], None),
        ] {
            assert_eq!(refused(target, headers), expected, "{target} {headers:?}");
        }
        let mut connect = parts("a:80", &[host]);
        connect.method = Method::CONNECT;
        assert_eq!(clean(&mut connect), Err(BadHead::Connect));
    }

    #[test]
    fn what_concerns_one_hop_goes_before_the_judgement() {
        let mut parts = parts(
            "/",
            &[
                ("host", "a"),
                ("connection", "close, x-role"),
                ("x-role", "admin"),
                ("x-other", "1"),
                ("keep-alive", "5"),
                ("te", "trailers"),
                ("upgrade", "h2c"),
                ("expect", "100-continue"),
            ],
        );
        let head = clean(&mut parts).expect("a clean head");
        assert!(!head.websocket, "h2c is not carried");
        let mut names: Vec<&str> = parts.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "te", "x-other"]);
    }

    #[test]
    fn an_answer_loses_what_concerns_one_hop_whatever_its_connection_names() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "content-length, x-secret, keep-alive"),
            ("content-length", "5"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "5"),
            ("proxy-authenticate", "Basic"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
        ] {
            let name = HeaderName::from_static(name);
            headers.insert(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "x-other"]);
    }

    #[test]
    fn a_request_has_the_headers_that_the_sidecar_adds() {
        let mut headers = HeaderMap::new();
        identify(&mut headers);
        assert_eq!(headers["x-forwarded-proto"], "http");
        let id = headers["x-request-id"].clone();
        identify(&mut headers);
        assert_eq!(headers["x-request-id"], id, "what is there stays");
        assert_eq!(headers.len(), 2);
        let id = String::from_utf8(request_id(u128::MAX).into()).expect("text");
        assert_eq!(id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        let id = String::from_utf8(request_id(0).into()).expect("text");
        assert_eq!(id, "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn websocket_and_nothing_else() {
        let ask = |upgrade: &str, connection: &str| {
            let mut parts = parts(
                "/",
                &[
                    ("host", "a"),
                    ("upgrade", upgrade),
                    ("connection", connection),
                ],
            );
            let head = clean(&mut parts).expect("a clean head");
            assert_eq!(head.websocket, parts.headers.contains_key(UPGRADE));
            head.websocket
        };
        assert!(ask("WebSocket", "keep-alive, Upgrade"));
        assert!(!ask("websocket", "keep-alive"));
        assert!(!ask("websocket, h2c", "upgrade"));
        assert!(!ask("h2c", "upgrade"));
    }
}
