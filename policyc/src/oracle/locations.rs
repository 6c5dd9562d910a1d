//! Where a request carries tokens.

use super::http::HttpFacts;
use crate::ast::JwtRule;

/// A token and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    pub place: Place,
    pub token: String,
}

/// In the order in which tokens count: headers, query parameters, cookies, each by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// In lower case.
    Header(String),
    Param(String),
    Cookie(String),
}

/// All tokens at the places where the rule looks, in the order of the places.
pub fn tokens(rule: &JwtRule, request: &HttpFacts) -> Vec<Found> {
    let places = places(rule);
    let mut tokens = Vec::new();
    let mut add = |place: Place, token| tokens.push(Found { place, token });
    for (name, prefix) in &places.headers {
        for token in request
            .values(name)
            .iter()
            .filter_map(|v| behind(v, prefix))
        {
            add(Place::Header(name.to_ascii_lowercase()), token);
        }
    }
    for name in &places.params {
        let first = query_pairs(&request.target).find(|(key, _)| key == name);
        if let Some((name, token)) = first {
            add(Place::Param(name), token);
        }
    }
    for name in &places.cookies {
        if let Some((name, token)) = cookies(request).find(|(key, _)| key == name) {
            add(Place::Cookie(name), token);
        }
    }
    tokens
}

/// Takes a token out of a header or the query, with all that stands there under the same name.
/// Cookies stay as they are.
pub fn remove(place: &Place, request: &mut HttpFacts) {
    match place {
        Place::Header(name) => {
            request.headers.remove(name);
        }
        Place::Param(name) => {
            let Some((path, query)) = request.target.split_once('?') else {
                return;
            };
            let kept: Vec<&str> = query
                .split('&')
                .filter(|pair| !pair.is_empty() && decoded(name_of(pair)) != *name)
                .collect();
            request.target = match kept[..] {
                [] => path.into(),
                _ => format!("{path}?{}", kept.join("&")),
            };
        }
        Place::Cookie(_) => {}
    }
}

/// Where a rule looks.
struct Places<'a> {
    /// Name, and the text before the token.
    headers: Vec<(&'a str, &'a str)>,
    params: Vec<&'a str>,
    cookies: Vec<&'a str>,
}

/// Where a rule names no place at all, tokens are looked for in `Authorization: Bearer` and in the
/// query parameter `access_token`; where it names any, nowhere else.
fn places(rule: &JwtRule) -> Places<'_> {
    let headers = rule.from_headers.iter();
    let mut places = Places {
        headers: headers
            .map(|h| (h.name.as_str(), h.prefix.as_str()))
            .collect(),
        params: rule.from_params.iter().map(String::as_str).collect(),
        cookies: rule.from_cookies.iter().map(String::as_str).collect(),
    };
    if places.headers.is_empty() && places.params.is_empty() && places.cookies.is_empty() {
        places.headers.push(("authorization", "Bearer "));
        places.params.push("access_token");
    }
    places
        .headers
        .sort_by_key(|(name, prefix)| (name.to_ascii_lowercase(), *prefix));
    places.params.sort();
    places.cookies.sort();
    places
}

/// The token behind its prefix, wherever in the line that stands. What no token begins with is
/// skipped.
fn behind(line: &str, prefix: &str) -> Option<String> {
    let (_, rest) = line.split_once(prefix)?;
    let begins_token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    Some(match prefix {
        "" => line.to_owned(),
        _ => rest.trim_start_matches(|c| !begins_token(c)).to_owned(),
    })
}

/// Names and values of the query, decoded.
fn query_pairs(target: &str) -> impl Iterator<Item = (String, String)> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let value = pair.split_once('=').map_or("", |(_, value)| value);
        (decoded(name_of(pair)), decoded(value))
    })
}

fn name_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

/// Every `%41` is an `A`; an escape that is none stays.
fn decoded(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut out: Vec<u8> = pieces.next().unwrap_or("").into();
    for piece in pieces {
        let byte = piece
            .get(..2)
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                out.extend_from_slice(&piece.as_bytes()[2..]);
            }
            None => {
                out.push(b'%');
                out.extend_from_slice(piece.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Quotes belong to the value unless they stand on both sides of it.
fn cookies(request: &HttpFacts) -> impl Iterator<Item = (String, String)> {
    let lines = request.values("cookie").join(";");
    let pairs: Vec<(String, String)> = lines
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
        .map(|(name, value)| {
            let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            (name.to_owned(), inner.unwrap_or(value).to_owned())
        })
        .collect();
    pairs.into_iter()
}
