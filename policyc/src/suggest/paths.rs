//! What a recorded path stands for.

/// How paths are generalised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Paths {
    /// Not at all.
    #[default]
    Exact,
    /// A segment that looks like an identifier (digits alone, a UUID, 16 hexadecimal digits or more)
    /// stands for any segment: `/orders/17` becomes `/orders/{*}`.
    Ids,
    /// A method seen on a port is allowed on every path.
    Any,
}

impl Paths {
    /// The path as a policy names it, `Some(None)` for any; `None` where no policy can.
    pub(super) fn of(self, path: &str) -> Option<Option<String>> {
        match self {
            Self::Any => Some(None),
            Self::Ids => match generalised(path) {
                Some(template) => Some(Some(template)),
                None => exact(path),
            },
            Self::Exact => exact(path),
        }
    }
}

/// A value that matches this path alone.
fn exact(path: &str) -> Option<Option<String>> {
    let pattern = path.ends_with('*') || path.starts_with('*');
    let template = path.contains("{*}") || path.contains("{**}");
    (!pattern && !template).then(|| Some(path.to_owned()))
}

/// A template, where some segment looks like an identifier and all others may stand in a template.
fn generalised(path: &str) -> Option<String> {
    let segments: Vec<&str> = path.split('/').collect();
    let plain = |segment: &&str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b);
        segment.bytes().all(allowed)
    };
    if !segments.iter().all(plain) || !segments.iter().any(|s| is_id(s)) {
        return None;
    }
    let shown = segments.iter().map(|s| if is_id(s) { "{*}" } else { s });
    Some(shown.collect::<Vec<_>>().join("/"))
}

fn is_id(segment: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let digits = !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit());
    let groups: Vec<usize> = segment.split('-').map(str::len).collect();
    let uuid = groups == [8, 4, 4, 4, 12] && segment.split('-').all(hex);
    digits || uuid || (segment.len() >= 16 && hex(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_identifiers_are_generalised() {
        let of = |path: &str| Paths::Ids.of(path).flatten();
        for (path, wanted) in [
            ("/orders/17", "/orders/{*}"),
            ("/orders/17/items/2", "/orders/{*}/items/{*}"),
            ("/u/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "/u/{*}"),
            ("/blobs/0123456789abcdef", "/blobs/{*}"),
            ("/orders/17a", "/orders/17a"),
            ("/cafe", "/cafe"),
            ("/", "/"),
            ("/a|b/17", "/a|b/17"),
        ] {
            assert_eq!(of(path).as_deref(), Some(wanted), "{path}");
        }
    }

    #[test]
    fn what_would_be_a_pattern_is_not_named() {
        for path in ["/a*", "/*", "/a/{*}/b", "/a/{**}"] {
            assert_eq!(Paths::Exact.of(path), None, "{path}");
            assert_eq!(Paths::Ids.of(path), None, "{path}");
        }
        assert_eq!(
            Paths::Exact.of("/a*b"),
            Some(Some("/a*b".into())),
            "a literal star"
        );
        assert_eq!(Paths::Any.of("/a*"), Some(None));
    }
}
