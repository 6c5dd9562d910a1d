//! Path templates: `{*}` is one segment, `{**}` is any number of them.

/// Whether the value is a template rather than a plain pattern.
pub fn is_template(value: &str) -> bool {
    value.contains("{*}") || value.contains("{**}")
}

/// Whether the whole path has the form of the template.
///
/// `{*}` is one or more characters of a segment; `{**}` is any of those and of slashes, or nothing.
pub fn matches(template: &str, path: &str) -> bool {
    if template.is_empty() {
        return path.is_empty();
    }
    if let Some(rest) = template.strip_prefix("{**}") {
        return ends(beginning(path, |c| c == '/' || is_in_segments(c)))
            .any(|end| matches(rest, &path[end..]));
    }
    if let Some(rest) = template.strip_prefix("{*}") {
        return ends(beginning(path, is_in_segments))
            .skip(1)
            .any(|end| matches(rest, &path[end..]));
    }
    let mut template = template.chars();
    let mut path = path.chars();
    template.next() == path.next() && matches(template.as_str(), path.as_str())
}

/// RFC 3986: `pchar`. Anything else in a path is matched by the template's own text alone.
fn is_in_segments(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~%!$&'()*+,;:=@".contains(c)
}

/// The longest beginning of which every character is of that kind.
fn beginning(text: &str, is_of_kind: impl Fn(char) -> bool) -> &str {
    let end = text.find(|c| !is_of_kind(c)).unwrap_or(text.len());
    &text[..end]
}

/// Every place where a text can be cut in two, from its beginning to its end.
fn ends(text: &str) -> impl Iterator<Item = usize> {
    text.char_indices().map(|(at, _)| at).chain([text.len()])
}
