//! Path templates: `{*}` is one segment, `{**}` is anything.

/// Whether the value is a template rather than a plain pattern.
pub fn is_template(value: &str) -> bool {
    value.contains("{*}") || value.contains("{**}")
}

/// Whether the whole path has the form of the template.
///
/// `{*}` is one or more characters other than `/`; `{**}` is any characters at all, or none.
pub fn matches(template: &str, path: &str) -> bool {
    if template.is_empty() {
        return path.is_empty();
    }
    if let Some(rest) = template.strip_prefix("{**}") {
        return ends(path).any(|end| matches(rest, &path[end..]));
    }
    if let Some(rest) = template.strip_prefix("{*}") {
        let segment = path.find('/').unwrap_or(path.len());
        return ends(&path[..segment])
            .skip(1)
            .any(|end| matches(rest, &path[end..]));
    }
    let mut template = template.chars();
    let mut path = path.chars();
    template.next() == path.next() && matches(template.as_str(), path.as_str())
}

/// Every place where a text can be cut in two, from its beginning to its end.
fn ends(text: &str) -> impl Iterator<Item = usize> {
    text.char_indices().map(|(at, _)| at).chain([text.len()])
}
