//! Where tokens may stand: headers, query parameters and cookies. A token anywhere else is not seen.

use crate::{
    headers::is_joined,
    ir::JwtRule,
    l7::request::{self, HeaderLines},
};

/// The places that one issuer names.
#[derive(Debug)]
pub(super) struct Locations {
    /// Name in lower case, and the text before the token; sorted, which fixes the order of tokens.
    headers: Vec<(String, String)>,
    params: Vec<String>,
    cookies: Vec<String>,
}

/// A token, and where it stood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub token: String,
    pub place: Place,
}

/// By name; tokens count in the order of their places.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Place {
    Header(String),
    Param(String),
    Cookie(String),
}

impl Locations {
    pub fn new(rule: &JwtRule) -> Self {
        let mut locations = Self {
            headers: rule
                .from_headers
                .iter()
                .map(|(name, prefix)| (name.to_ascii_lowercase(), prefix.clone()))
                .collect(),
            params: rule.from_params.clone(),
            cookies: rule.from_cookies.clone(),
        };
        // ISTIO: "If no explicit location is specified, the following default locations are tried
        // in order: 1) The Authorization header using the Bearer schema, 2) access_token query
        // parameter."
        let named = [
            locations.headers.is_empty(),
            locations.params.is_empty(),
            locations.cookies.is_empty(),
        ];
        if named == [true; 3] {
            locations
                .headers
                .push(("authorization".into(), "Bearer ".into()));
            locations.params.push("access_token".into());
        }
        locations.headers.sort();
        locations.headers.dedup();
        locations.params.sort();
        locations.params.dedup();
        locations.cookies.sort();
        locations.cookies.dedup();
        locations
    }

    /// All tokens of a request; `query` with its `?`.
    pub fn find(&self, headers: &dyn HeaderLines, query: &str) -> Vec<Found> {
        let mut found = Vec::new();
        for (name, prefix) in &self.headers {
            let mut look = |line: &[u8]| {
                let line = String::from_utf8_lossy(line);
                if let Some(token) = after_prefix(&line, prefix) {
                    found.push(Found {
                        token: token.into(),
                        place: Place::Header(name.clone()),
                    });
                }
                false
            };
            if is_joined(name) {
                request::value(headers, name, &mut look);
            } else {
                headers.any(name, &mut look);
            }
        }
        for name in &self.params {
            let value = params(query).find(|(n, _)| n == name);
            found.extend(value.map(|(_, token)| Found {
                token,
                place: Place::Param(name.clone()),
            }));
        }
        for name in &self.cookies {
            // The first of that name, in whichever line it stands.
            headers.any("cookie", &mut |line| {
                let line = String::from_utf8_lossy(line);
                let token = cookie(&line, name);
                let seen = token.is_some();
                found.extend(token.map(|token| Found {
                    token: token.into(),
                    place: Place::Cookie(name.clone()),
                }));
                seen
            });
        }
        found
    }
}

/// The token after its prefix, wherever in the line that stands; characters that no token begins
/// with are skipped.
fn after_prefix<'a>(line: &'a str, prefix: &str) -> Option<&'a str> {
    if prefix.is_empty() {
        return Some(line);
    }
    let (_, rest) = line.split_once(prefix)?;
    let starts = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    Some(rest.find(starts).map_or(line, |at| &rest[at..]))
}

/// Names and values of a query, decoded.
fn params(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    pieces(query).map(|piece| {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        (percent_decode(name), percent_decode(value))
    })
}

fn pieces(query: &str) -> impl Iterator<Item = &str> {
    let query = query.strip_prefix('?').unwrap_or("");
    query.split('&').filter(|piece| !piece.is_empty())
}

/// The query without some parameters; all others stay as they were written.
pub(in crate::l7) fn without_params(query: &str, names: &[String]) -> String {
    let mut out = String::with_capacity(query.len());
    for piece in pieces(query) {
        let name = percent_decode(piece.split('=').next().unwrap_or(""));
        if !names.contains(&name) {
            out.push(if out.is_empty() { '?' } else { '&' });
            out.push_str(piece);
        }
    }
    out
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = text.get(at + 1..at + 3).filter(|_| byte == b'%');
        let digits = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn cookie<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let pairs = line
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.into_iter().find(|(n, _)| *n == name)?;
    let unquoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    Some(unquoted.unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_case_sensitive() {
        assert_eq!(after_prefix("Bearer a.b.c", "Bearer "), Some("a.b.c"));
        assert_eq!(after_prefix("Bearer   a.b.c", "Bearer "), Some("a.b.c"));
        assert_eq!(after_prefix("bearer a.b.c", "Bearer "), None);
        assert_eq!(after_prefix("Basic a", "Bearer "), None);
        assert_eq!(after_prefix("a.b.c", ""), Some("a.b.c"));
    }

    #[test]
    fn parameters_are_found_and_taken_away() {
        let all: Vec<_> = params("?a=1&%62=x%20y&c").collect();
        let pair = |n: &str, v: &str| (n.to_string(), v.to_string());
        assert_eq!(all, [pair("a", "1"), pair("b", "x y"), pair("c", "")]);
        let names = ["b".to_string()];
        assert_eq!(without_params("?a=1&%62=x%20y&c=%7e", &names), "?a=1&c=%7e");
        assert_eq!(without_params("?b=1", &names), "");
        assert_eq!(without_params("", &names), "");
    }

    #[test]
    fn cookies() {
        assert_eq!(cookie("a=b; auth=\"t\"; auth=u", "auth"), Some("t"));
        assert_eq!(cookie("xauth=b; Auth=c", "auth"), None);
    }
}
