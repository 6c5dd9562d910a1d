//! Where a request carries tokens.

use super::http::HttpFacts;
use crate::ast::JwtRule;

/// All tokens at the places where the rule looks: headers, then query parameters, then cookies, each
/// in the order of their names.
pub fn tokens(rule: &JwtRule, request: &HttpFacts) -> Vec<String> {
    let places = places(rule);
    let mut tokens = Vec::new();
    for (name, prefix) in &places.headers {
        let lines = request.lines(name);
        tokens.extend(lines.iter().filter_map(|line| behind(line, prefix)));
    }
    for name in &places.params {
        tokens.extend(
            query_pairs(&request.target)
                .find(|(key, _)| key == name)
                .map(|(_, v)| v),
        );
    }
    for name in &places.cookies {
        tokens.extend(
            cookies(request)
                .find(|(key, _)| key == name)
                .map(|(_, v)| v.to_owned()),
        );
    }
    tokens
}

/// Takes the tokens out of headers and query. Cookies stay as they are.
pub fn remove(rule: &JwtRule, request: &mut HttpFacts) {
    let places = places(rule);
    for (name, prefix) in &places.headers {
        if request.lines(name).iter().any(|line| line.contains(prefix)) {
            request.headers.remove(&name.to_ascii_lowercase());
        }
    }
    let Some((path, query)) = request.target.split_once('?') else {
        return;
    };
    let is_token = |pair: &&str| places.params.contains(&decoded(name_of(pair)).as_str());
    if query.split('&').any(|pair| is_token(&pair)) {
        let kept: Vec<&str> = query.split('&').filter(|pair| !is_token(pair)).collect();
        request.target = match kept[..] {
            [] => path.into(),
            _ => format!("{path}?{}", kept.join("&")),
        };
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

fn cookies(request: &HttpFacts) -> impl Iterator<Item = (&str, &str)> {
    request
        .lines("cookie")
        .into_iter()
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .map(|(name, value)| (name, value.trim_matches('"')))
}
