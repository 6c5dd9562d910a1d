//! What becomes of a request's path before policies see it.

use crate::cluster::PathNormalization;

/// Whether the request is answered 400 before any policy is asked.
///
/// A target that does not begin with `/`, a fragment, a space, or a byte that is not printable ASCII
/// is never well formed; an encoded NUL is not wherever paths are normalised.
pub fn is_malformed(target: &str, mode: PathNormalization) -> bool {
    !target.starts_with('/')
        || target.contains('#')
        || !target.bytes().all(|b| b.is_ascii_graphic())
        || (mode != PathNormalization::None && without_query(target).contains("%00"))
}

/// The path of a request target, normalised, without its query.
pub fn path(target: &str, mode: PathNormalization) -> String {
    let path = without_query(target);
    match mode {
        PathNormalization::None => path.into(),
        PathNormalization::Base => base(path),
        PathNormalization::MergeSlashes => merge_slashes(&base(path)),
        PathNormalization::DecodeAndMergeSlashes => merge_slashes(&base(&decode_slashes(path))),
    }
}

/// The query is no part of the path.
fn without_query(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// RFC 3986, section 6.2.2: unreserved characters are decoded, dot segments removed; and `\` is `/`.
fn base(path: &str) -> String {
    let bare = without_dot_parameters(path);
    let decoded = decode_unreserved(&bare).replace('\\', "/");
    remove_dot_segments(&encode(&decoded))
}

/// Parameters do not hide a dot segment: `..;x` is `..`, if that is how it is written; `%2e.;x` is
/// a name like any other.
fn without_dot_parameters(path: &str) -> String {
    let bare = |segment| match str::split_once(segment, ';') {
        Some(("..", _)) => "..",
        Some((".", _)) => ".",
        _ => segment,
    };
    path.split('/').map(bare).collect::<Vec<_>>().join("/")
}

/// Some characters must not stand in a path as they are.
fn encode(path: &str) -> String {
    let mut out = String::new();
    for character in path.chars() {
        match character {
            '"' => out.push_str("%22"),
            '<' => out.push_str("%3C"),
            '>' => out.push_str("%3E"),
            '^' => out.push_str("%5E"),
            '`' => out.push_str("%60"),
            '{' => out.push_str("%7B"),
            '|' => out.push_str("%7C"),
            '}' => out.push_str("%7D"),
            other => out.push(other),
        }
    }
    out
}

/// `%41` is `A`, `%2e` is `.`; all other escapes stay as they are, so nothing is decoded twice.
fn decode_unreserved(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some(character) = rest.chars().next() {
        match escaped(rest).filter(|c| c.is_ascii_alphanumeric() || "-._~".contains(*c)) {
            Some(decoded) => {
                out.push(decoded);
                rest = &rest[3..];
            }
            None => {
                out.push(character);
                rest = &rest[character.len_utf8()..];
            }
        }
    }
    out
}

/// The ASCII character that an escape at the beginning of the text stands for.
fn escaped(text: &str) -> Option<char> {
    let hex = text.strip_prefix('%')?.get(..2)?;
    if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16)
        .ok()
        .filter(u8::is_ascii)
        .map(char::from)
}

fn decode_slashes(path: &str) -> String {
    path.replace("%2f", "/")
        .replace("%2F", "/")
        .replace("%5c", "\\")
        .replace("%5C", "\\")
}

/// Of a path that is nothing but slashes two are left, where there are two: so Envoy has it.
fn merge_slashes(path: &str) -> String {
    let mut out = path.to_owned();
    if path.len() > 1 && path.chars().all(|c| c == '/') {
        return "//".into();
    }
    while out.contains("//") {
        out = out.replace("//", "/");
    }
    out
}

/// `/a/./b` is `/a/b`, `/a/../b` is `/b`; a dot segment at the end leaves its slash.
fn remove_dot_segments(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let mut kept: Vec<&str> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let is_last = index + 1 == segments.len();
        match *segment {
            ".." => {
                kept.pop();
            }
            "." => {}
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}
