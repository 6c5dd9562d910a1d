//! What a refused client is told, byte for byte as Envoy tells it.

use std::borrow::Cow;

/// A local answer to a request that is not let through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case; content-length is the sender's business.
    pub headers: Vec<(&'static str, String)>,
    pub body: Cow<'static, str>,
}

const DENIED: &str = "RBAC: access denied";

impl Answer {
    /// A rule, or the lack of one, refused the request.
    pub fn denied(grpc: bool) -> Self {
        Self::new(403, Cow::Borrowed(DENIED), grpc)
    }

    /// The request is malformed.
    pub fn bad_request(grpc: bool) -> Self {
        Self::new(400, Cow::Borrowed(""), grpc)
    }

    /// An answer with a text of its own. To gRPC it is made of headers alone, with the status that
    /// gRPC maps the HTTP status to.
    pub fn new(status: u16, body: Cow<'static, str>, grpc: bool) -> Self {
        if grpc {
            let headers = vec![
                ("content-type", "application/grpc".into()),
                ("grpc-status", grpc_status(status).to_string()),
                ("grpc-message", percent_encode(&body)),
            ];
            return Self {
                status: 200,
                headers,
                body: Cow::Borrowed(""),
            };
        }
        let mut headers = Vec::new();
        if !body.is_empty() {
            headers.push(("content-type", "text/plain".into()));
        }
        Self {
            status,
            headers,
            body,
        }
    }
}

/// Whether a content type is gRPC's.
pub fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// gRPC's own mapping of HTTP statuses.
fn grpc_status(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// gRPC wants bytes outside the printable ASCII range, and `%`, escaped in its message.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_nineteen_bytes_of_text() {
        let answer = Answer::denied(false);
        assert_eq!((answer.status, answer.body.len()), (403, 19));
        assert_eq!(answer.headers, [("content-type", "text/plain".to_string())]);
        let bad = Answer::bad_request(false);
        assert_eq!((bad.status, &*bad.body, bad.headers.len()), (400, "", 0));
    }

    #[test]
    fn grpc_is_told_in_headers() {
        let answer = Answer::denied(true);
        assert_eq!((answer.status, &*answer.body), (200, ""));
        assert!(answer.headers.contains(&("grpc-status", "7".into())));
        assert!(answer.headers.contains(&("grpc-message", DENIED.into())));
        assert_eq!(percent_encode("a%\u{e9}"), "a%25%C3%A9");
    }

    #[test]
    fn what_is_grpc() {
        assert!(is_grpc(b"application/grpc"));
        assert!(is_grpc(b"application/grpc+proto"));
        assert!(!is_grpc(b"application/grpc-web"));
        assert!(!is_grpc(b"application/json"));
    }
}
