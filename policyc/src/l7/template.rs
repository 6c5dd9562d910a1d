//! Path templates: `{*}` is one segment that is not empty, `{**}` any characters, slashes included.
//! Both stand for characters that a URL's path may hold as they are, and for no others: `[` or `|`
//! is matched only by itself.

/// A template, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(Box<[u8]>),
    /// `{*}`
    Segment,
    /// `{**}`
    Rest,
}

impl Template {
    /// Reads a template; braces that are no operator are text.
    pub fn parse(template: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = template;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("{**}") {
                pieces.push(Piece::Rest);
                rest = after;
            } else if let Some(after) = rest.strip_prefix("{*}") {
                pieces.push(Piece::Segment);
                rest = after;
            } else {
                let next = ["{*}", "{**}"].iter().filter_map(|op| rest.find(op)).min();
                let (text, after) = rest.split_at(next.unwrap_or(rest.len()));
                pieces.push(Piece::Text(text.as_bytes().into()));
                rest = after;
            }
        }
        Self { pieces }
    }

    /// The text before the first operator: every path that matches begins with it.
    pub fn literal_prefix(&self) -> &[u8] {
        match self.pieces.first() {
            Some(Piece::Text(text)) => text,
            _ => b"",
        }
    }

    pub fn matches(&self, path: &[u8]) -> bool {
        matches(&self.pieces, path)
    }
}

/// What an operator stands for besides slashes: RFC 3986's `pchar`, a `%` whatever follows it.
fn is_path_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b':'
                | b'='
                | b'@'
        )
}

/// Tries the longest reach of an operator first. A `{*}` that fills its segment, the only form that
/// Istio accepts, is decided at the first try, because no shorter one leaves a slash to go on with.
fn matches(pieces: &[Piece], path: &[u8]) -> bool {
    let Some((piece, rest)) = pieces.split_first() else {
        return path.is_empty();
    };
    match piece {
        Piece::Text(text) => path
            .strip_prefix(&**text)
            .is_some_and(|path| matches(rest, path)),
        Piece::Segment => {
            let outside = |b: &u8| !is_path_character(*b);
            let segment = path.iter().position(outside).unwrap_or(path.len());
            let whole = match rest.first() {
                None => true,
                Some(Piece::Text(text)) => text.first() == Some(&b'/'),
                Some(_) => false,
            };
            if whole {
                return segment > 0 && matches(rest, &path[segment..]);
            }
            (1..=segment).rev().any(|end| matches(rest, &path[end..]))
        }
        Piece::Rest => {
            let outside = |b: &u8| *b != b'/' && !is_path_character(*b);
            let reach = path.iter().position(outside).unwrap_or(path.len());
            match rest {
                [] => reach == path.len(),
                [Piece::Text(text)] => path
                    .strip_suffix(&**text)
                    .is_some_and(|before| before.len() <= reach),
                _ => (0..=reach).rev().any(|end| matches(rest, &path[end..])),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_and_its_twin() {
        for (template, yes, no) in [
            (
                "/foo/{*}",
                &["/foo/a", "/foo/a%2fb"][..],
                &["/foo/", "/foo", "/foo/a/b", "/FOO/a"][..],
            ),
            ("/foo/{**}", &["/foo/", "/foo/a/b"], &["/foo", "/fo/"]),
            (
                "/foo/{**}/",
                &["/foo//", "/foo/a/", "/foo/a/b/"],
                &["/foo/bar/baz.txt", "/foo/"],
            ),
            (
                "/store/{**}/cart",
                &["/store//cart", "/store/a/b/cart"],
                &["/store/cart", "/store/a/cart/x"],
            ),
            (
                "/foo/{*}/bar/{**}",
                &["/foo/x/bar/", "/foo/x/bar/y/z"],
                &["/foo//bar/x", "/foo/x/bar"],
            ),
            ("/{*}/{*}", &["/a/b"], &["/a", "/a/", "/a/b/c"]),
            ("/{**}", &["/", "/a"], &[""]),
            (
                "/v{*}.txt",
                &["/va.txt", "/v1.txt.txt"],
                &["/v.txt", "/v/a.txt"],
            ),
            ("/s/{*}", &["/s/a!$&'()*+,;:=@%zz~"], &["/s/a[b", "/s/a|b"]),
            ("/s/{**}", &["/s/a/b;c"], &["/s/a[b", "/s/a/b]", "/s/{"]),
            ("/s/{**}/[t]", &["/s/a/b/[t]"], &["/s/[a/[t]"]),
            ("/s/{*}/t", &["/s/a/t"], &["/s/a\\b/t", "/s/a^/t"]),
        ] {
            let parsed = Template::parse(template);
            for path in yes {
                assert!(parsed.matches(path.as_bytes()), "{template} wants {path}");
            }
            for path in no {
                assert!(
                    !parsed.matches(path.as_bytes()),
                    "{template} refuses {path}"
                );
            }
        }
        assert_eq!(Template::parse("/a/{*}/b").literal_prefix(), b"/a/");
    }
}
