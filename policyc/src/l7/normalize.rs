//! From the raw request target to the path that rules are asked about, which is also the path that
//! is forwarded. What a server behind might read differently must not differ here: the judged form
//! is the sent form.

use std::borrow::Cow;

use crate::cluster::PathNormalization;

/// A request target taken apart: the path as judged, and the query as it came, `?` included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target<'a> {
    pub path: Cow<'a, str>,
    /// Empty, or begins with `?`.
    pub query: &'a str,
}

impl Target<'_> {
    /// The target to send: borrowed while nothing changed.
    pub fn is_unchanged(&self) -> bool {
        matches!(self.path, Cow::Borrowed(_))
    }
}

/// Why a target is answered with 400 before any policy is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadTarget {
    #[error("the request target does not start with `/`")]
    NotAPath,
    #[error("the request target holds a byte that no target may hold")]
    BadByte,
    #[error("the request target holds an encoded NUL")]
    EncodedNul,
}

/// Normalises the target of a request. `NONE` changes nothing; every other mode resolves dot
/// segments (`/a/../b`, `%2e`, and `..;x` as Envoy reads it), turns `\` into `/`, decodes unreserved
/// characters and encodes those that no path may hold; the two last also merge slashes, the very
/// last after decoding `%2f` and `%5c`.
pub fn normalize(target: &str, mode: PathNormalization) -> Result<Target<'_>, BadTarget> {
    if !target.starts_with('/') {
        return Err(BadTarget::NotAPath);
    }
    if target.bytes().any(|b| b <= b' ' || b >= 0x7f || b == b'#') {
        return Err(BadTarget::BadByte);
    }
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    if mode == PathNormalization::None || is_normal(path, mode) {
        let path = Cow::Borrowed(path);
        return Ok(Target { path, query });
    }
    if path.contains("%00") {
        return Err(BadTarget::EncodedNul);
    }
    let mut plain = Cow::Borrowed(path);
    if mode == PathNormalization::DecodeAndMergeSlashes {
        plain = Cow::Owned(decode_slashes(path));
    }
    let mut resolved = resolve_dots(&decode(&without_dot_params(&plain)));
    if mode != PathNormalization::Base {
        resolved = merge_slashes(&resolved);
    }
    let path = if resolved == path {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(resolved)
    };
    Ok(Target { path, query })
}

/// Whether nothing in the path could change: no escape, no backslash, nothing to be escaped, no
/// segment that begins with a dot and, where slashes are merged, no two of them.
fn is_normal(path: &str, mode: PathNormalization) -> bool {
    let merges = mode != PathNormalization::Base;
    let mut before = 0u8;
    path.bytes().all(|b| {
        let after_slash = before == b'/';
        before = b;
        match b {
            b'%' | b'\\' => false,
            _ if is_encoded(b) => false,
            b'.' => !after_slash,
            b'/' => !(merges && after_slash),
            _ => true,
        }
    })
}

/// Characters that Envoy escapes in a path, as a URL has to be written.
fn is_encoded(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// Escaped slashes become slashes, escaped backslashes backslashes.
fn decode_slashes(path: &str) -> String {
    let mut out = path.to_owned();
    for (escape, decoded) in [("%2f", "/"), ("%2F", "/"), ("%5c", "\\"), ("%5C", "\\")] {
        out = out.replace(escape, decoded);
    }
    out
}

/// Takes path parameters from dot segments (`..;x=1`), which would hide them. As in Envoy this comes
/// before anything is decoded: `%2e%2e;` and `\..;` are no such segments, and stay.
fn without_dot_params(path: &str) -> String {
    let segment = |segment: &'_ str| match segment.split_once(';') {
        Some((dots @ ("." | ".."), _)) => dots.to_owned(),
        _ => segment.to_owned(),
    };
    let segments: Vec<String> = path.split('/').map(segment).collect();
    segments.join("/")
}

/// Decodes what stands for an unreserved character, turns backslashes into slashes, and escapes what
/// has to be. Only one round: `%252e` stays.
fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%').then(|| hex(bytes.get(at + 1), bytes.get(at + 2)));
        match escaped.flatten() {
            Some(c) if c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~') => {
                out.push(char::from(c));
                at += 3;
                continue;
            }
            _ if byte == b'\\' => out.push('/'),
            _ if is_encoded(byte) => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char::from(byte)),
        }
        at += 1;
    }
    out
}

fn hex(high: Option<&u8>, low: Option<&u8>) -> Option<u8> {
    let digit = |b: &u8| char::from(*b).to_digit(16);
    u8::try_from(digit(high?)? * 16 + digit(low?)?).ok()
}

/// Removes `.` and `..` segments; a `..` above the root stays at the root. Empty segments count, so
/// `/a//../b` is `/a/b`.
fn resolve_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            _ => {
                segments.push(segment);
                continue;
            }
        }
        if last {
            segments.push("");
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in segments {
        out.push('/');
        out.push_str(segment);
    }
    out
}

/// A path of slashes alone keeps two of them, as in Envoy.
fn merge_slashes(path: &str) -> String {
    if path.len() > 1 && path.bytes().all(|b| b == b'/') {
        return "//".into();
    }
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None as Nothing};

    fn path(target: &str, mode: PathNormalization) -> String {
        let target = normalize(target, mode).expect("a target that can be normalised");
        target.path.into_owned()
    }

    #[test]
    fn base_resolves_dots_and_unreserved_escapes() {
        for (raw, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/app/../admin", "/admin"),
            ("/app/%2e%2E/admin", "/admin"),
            ("/app\\..\\admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/%30%7E", "/0~"),
            ("/../../x", "/x"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a/./b", "/a/b"),
            ("/app//../admin", "/app/admin"),
            ("/a/..;/admin", "/admin"),
            ("/a/..;x=1/admin", "/admin"),
            ("/a/.;/b", "/a/b"),
            ("/a/..;", "/"),
            ("/a/..;x\\c", "/"),
            ("/a/%2e%2e;/c", "/a/..;/c"),
            ("/a/.%2e;x=%2e/c", "/a/..;x=./c"),
            ("/a\\..;/c", "/a/..;/c"),
            ("/a\"<>^`{|}b", "/a%22%3C%3E%5E%60%7B%7C%7Db"),
            ("/a%7cb|c", "/a%7cb%7Cc"),
        ] {
            assert_eq!(path(raw, Base), normal, "{raw} under BASE");
        }
    }

    #[test]
    fn base_leaves_what_is_not_its_business() {
        for raw in [
            "/a//b",
            "/a%2fb",
            "/a%5Cb",
            "/ADMIN",
            "/admin;x",
            "/%252e%252e/x",
            "/..a",
            "/a..",
            "/...",
            "/.well-known",
            "/%zz",
            "/%2",
            "/%",
        ] {
            assert_eq!(path(raw, Base), raw, "{raw} under BASE");
            assert!(
                normalize(raw, Base).expect("legal").is_unchanged(),
                "{raw} needs no copy"
            );
        }
    }

    #[test]
    fn the_other_modes() {
        assert_eq!(path("//a///b", MergeSlashes), "/a/b");
        assert_eq!(path("/app//..//admin", MergeSlashes), "/app/admin");
        assert_eq!(path("/%2fadmin", MergeSlashes), "/%2fadmin");
        assert_eq!(path("/%2Fadmin%5c..%5Cx", DecodeAndMergeSlashes), "/x");
        assert_eq!(path("/a/..;%2fc", DecodeAndMergeSlashes), "/c");
        assert_eq!(path("/a/..;%5cc", DecodeAndMergeSlashes), "/");
        assert_eq!(path("//", MergeSlashes), "//", "as Envoy has it");
        assert_eq!(path("///", MergeSlashes), "//");
        assert_eq!(path("/a/../%2e/b\\|", Nothing), "/a/../%2e/b\\|");
    }

    #[test]
    fn the_query_is_kept_and_never_judged() {
        let target = normalize("/a/../b?x=/../%2e", Base).expect("legal");
        assert_eq!((&*target.path, target.query), ("/b", "?x=/../%2e"));
        let target = normalize("/a?", Base).expect("legal");
        assert_eq!((&*target.path, target.query), ("/a", "?"));
    }

    #[test]
    fn what_no_target_may_be() {
        for bad in ["", "*", "a", "http://h/", "?a"] {
            assert_eq!(normalize(bad, Base), Err(BadTarget::NotAPath), "{bad}");
        }
        for bad in ["/a#b", "/a b", "/\u{e9}", "/a\n", "/\u{7f}", "/?\t"] {
            assert_eq!(normalize(bad, Nothing), Err(BadTarget::BadByte), "{bad:?}");
        }
        assert_eq!(normalize("/a%00", Base), Err(BadTarget::EncodedNul));
        assert_eq!(
            path("/a%00", Nothing),
            "/a%00",
            "NONE changes and refuses nothing"
        );
        assert_eq!(path("/a?%00", Base), "/a", "the query is not normalised");
    }
}
