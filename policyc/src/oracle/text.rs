//! The five forms of a string pattern.

/// What `*` alone stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Star {
    /// Any value but the empty one: principals, paths, claims, server names.
    NotEmpty,
    /// Any value that is there, the empty one too: headers, methods, hosts.
    Present,
}

/// Whether `value` has the form `pattern`. Case matters; nothing is escaped.
///
/// ISTIO: "Exact match: "abc" will match on value "abc". Prefix match: "abc*" will match on value
/// "abc" and "abcd". Suffix match: "*abc" will match on value "abc" and "xabc". Presence match: "*"
/// will match when value is not empty."
pub fn matches(pattern: &str, value: &str, star: Star) -> bool {
    if pattern == "*" {
        star == Star::Present || !value.is_empty()
    } else if let Some(suffix) = pattern.strip_prefix('*') {
        // A leading star is seen first: `*a*` is the suffix `a*`.
        value.ends_with(suffix)
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        value.starts_with(prefix)
    } else {
        // A star in the middle is a star.
        value == pattern
    }
}

/// Whether `value` has the form `pattern` when every `*`, wherever it stands, is any text, the empty
/// one too.
pub fn matches_everywhere(pattern: &str, value: &str) -> bool {
    let Some((first, after)) = pattern.split_once('*') else {
        return value == pattern;
    };
    let Some(mut rest) = value.strip_prefix(first) else {
        return false;
    };
    // What lies between two stars is taken where it first occurs: that leaves the most for what
    // follows. What lies after the last star must be the end.
    let mut pieces: Vec<&str> = after.split('*').collect();
    let last = pieces.pop().unwrap_or("");
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}
