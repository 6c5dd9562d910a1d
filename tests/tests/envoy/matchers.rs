//! Values of policies as Envoy's matchers, as Istio writes them.

use serde_json::{Value, json};

/// Stands for the peer's certificate, which would say the same: without TLS there is none.
pub const PEER: &str = "x-conformance-peer";

/// All of a list, one of a list.
pub fn rules_and(rules: Vec<Value>) -> Value {
    json!({"and_rules": {"rules": rules}})
}

pub fn rules_or(rules: Vec<Value>) -> Value {
    json!({"or_rules": {"rules": rules}})
}

pub fn ids_and(ids: Vec<Value>) -> Value {
    json!({"and_ids": {"ids": ids}})
}

pub fn ids_or(ids: Vec<Value>) -> Value {
    json!({"or_ids": {"ids": ids}})
}

/// `*`, `*end`, `begin*` or the whole text.
pub fn text(pattern: &str) -> Value {
    if pattern == "*" {
        return regex(".+");
    }
    if let Some(end) = pattern.strip_prefix('*') {
        return json!({"suffix": end});
    }
    match pattern.strip_suffix('*') {
        Some(begin) => json!({"prefix": begin}),
        None => json!({"exact": pattern}),
    }
}

/// The same of a whole identity, which policies write without its scheme.
pub fn identity(pattern: &str) -> Value {
    match pattern.strip_prefix('*') {
        Some("") => regex(".+"),
        Some(end) => regex(&format!("spiffe://.*{}", escaped(end))),
        None => text(&format!("spiffe://{pattern}")),
    }
}

pub fn regex(pattern: &str) -> Value {
    json!({"safe_regex": {"regex": pattern}})
}

pub fn header(name: &str, matcher: Value) -> Value {
    json!({"header": {"name": name, "string_match": matcher}})
}

/// A header that is there is enough for `*`.
pub fn header_value(name: &str, pattern: &str, ignore_case: bool) -> Value {
    if pattern == "*" {
        return json!({"header": {"name": name, "present_match": true}});
    }
    let mut matcher = text(pattern);
    if ignore_case {
        matcher["ignore_case"] = true.into();
    }
    header(name, matcher)
}

pub fn peer(matcher: Value) -> Value {
    header(PEER, matcher)
}

/// What of a namespace pattern stands in an identity: anything for each star.
pub fn in_identity(pattern: &str) -> String {
    let parts: Vec<String> = pattern.split('*').map(escaped).collect();
    parts.join(".*")
}

pub fn escaped(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        if !letter.is_ascii_alphanumeric() && letter != '_' && letter != '-' {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

/// An address or a block.
pub fn block(text: &str) -> Value {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, length.parse().expect("a length")),
        None if text.contains(':') => (text, 128u32),
        None => (text, 32),
    };
    json!({"address_prefix": address, "prefix_len": length})
}

pub fn metadata(filter: &str, path: &[&str], value: Value) -> Value {
    let path: Vec<Value> = path.iter().map(|key| json!({"key": key})).collect();
    json!({"metadata": {"filter": filter, "path": path, "value": value}})
}

/// A claim that is a text, or a list with one.
pub fn claim(path: &[&str], matcher: &Value) -> Value {
    let path: Vec<&str> = std::iter::once("payload")
        .chain(path.iter().copied())
        .collect();
    let value = json!({"or_match": {"value_matchers": [
        {"string_match": matcher},
        {"list_match": {"one_of": {"string_match": matcher}}},
    ]}});
    metadata("envoy.filters.http.jwt_authn", &path, value)
}

fn claim_text(name: &str, matcher: Value) -> Value {
    let value = json!({"string_match": matcher});
    metadata("envoy.filters.http.jwt_authn", &["payload", name], value)
}

/// `issuer/subject`, of which each is a claim of its own. The last slash of the pattern is the one
/// between them. Who writes no slash means the subject behind a star, and the issuer otherwise.
pub fn request_principal(pattern: &str) -> Value {
    let exact = |text: &str| json!({"exact": text});
    let some_or = |text: &str, how: &str| match text {
        "" => regex(".+"),
        text => json!({how: text}),
    };
    let (issuer, subject) = match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => {
            let (issuer, subject) = end.rsplit_once('/').unwrap_or(("", end));
            let subject = match end.contains('/') {
                true => exact(subject),
                false => some_or(subject, "suffix"),
            };
            (some_or(issuer, "suffix"), subject)
        }
        (None, Some(begin)) => match begin.rsplit_once('/') {
            Some((issuer, subject)) => (exact(issuer), some_or(subject, "prefix")),
            None => (some_or(begin, "prefix"), regex(".+")),
        },
        (None, None) => {
            let (issuer, subject) = pattern.rsplit_once('/').unwrap_or((pattern, ""));
            (exact(issuer), exact(subject))
        }
    };
    ids_and(vec![claim_text("iss", issuer), claim_text("sub", subject)])
}
