//! Which headers are one value however many lines they take.
//!
//! Envoy keeps well-known headers in a field of their own, and joins their lines with `,` as they
//! arrive; every other header keeps its lines, and a rule asks each. The list was found by sending
//! each header twice to Envoy 1.40.

use std::borrow::Cow;

/// In lower case, sorted.
const JOINED: &[&str] = &[
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "access-control-request-private-network",
    "authentication",
    "authorization",
    "cache-control",
    "cdn-loop",
    "content-encoding",
    "content-type",
    "grpc-accept-encoding",
    "grpc-timeout",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "x-client-trace-id",
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-external-address",
    "x-envoy-is-timeout-retry",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

/// Whether the lines of the header, named in lower case, are one value.
pub fn is_joined(name: &str) -> bool {
    JOINED.binary_search(&name).is_ok()
}

/// The one value of a header whose lines are joined. An empty line adds nothing, no comma either.
pub fn join<'a>(lines: &[&'a [u8]]) -> Cow<'a, [u8]> {
    let mut filled = lines.iter().filter(|line| !line.is_empty());
    match (filled.next(), filled.next()) {
        (None, _) => Cow::Borrowed(b""),
        (Some(one), None) => Cow::Borrowed(one),
        (Some(first), Some(second)) => {
            let mut joined = [first, b",".as_slice(), second].concat();
            for line in filled {
                joined.push(b',');
                joined.extend_from_slice(line);
            }
            Cow::Owned(joined)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_can_be_searched() {
        assert!(JOINED.is_sorted(), "a binary search needs an order");
        assert!(is_joined("x-forwarded-for"));
        assert!(!is_joined("cookie"), "each cookie line stays by itself");
    }

    #[test]
    fn empty_lines_add_nothing() {
        let joined = |lines: &[&str]| {
            let lines: Vec<&[u8]> = lines.iter().map(|l| l.as_bytes()).collect();
            String::from_utf8(join(&lines).into_owned()).expect("text")
        };
        assert_eq!(joined(&["a", "", "b", "c"]), "a,b,c");
        assert_eq!(joined(&["", "a"]), "a");
        assert_eq!(joined(&["a,"]), "a,", "what a line says itself stays");
        assert_eq!(joined(&["", ""]), "");
    }
}
