//! A text into documents, as kubectl splits it: at lines that begin with `---`.

use std::ops::Range;

/// The byte ranges of `text` between document markers. Parts without content are left out.
///
/// YAML forbids a line that begins with `---` or `...` and a blank inside of any document, quoted
/// and block scalars included, so looking at the beginning of each line is exact.
pub fn documents(text: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let end = offset + line.len();
        if let Some(rest) = after_marker(line) {
            push(&mut parts, text, start..offset);
            // `--- {kind: Pod}` puts content behind the marker: the marker itself is skipped.
            start = match is_nothing(rest) {
                true => end,
                false => end - rest.len(),
            };
        }
        offset = end;
    }
    push(&mut parts, text, start..text.len());
    parts
}

fn after_marker(line: &str) -> Option<&str> {
    let rest = line
        .strip_prefix("---")
        .or_else(|| line.strip_prefix("..."))?;
    (rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])).then_some(rest)
}

fn push(parts: &mut Vec<Range<usize>>, text: &str, bytes: Range<usize>) {
    if !text[bytes.clone()].split(is_break).all(is_nothing) {
        parts.push(bytes);
    }
}

/// Blank, or a comment.
fn is_nothing(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// Whether a line ends here, as libyaml has it: a comment does not go on behind a lone carriage
/// return, and neither behind the line ends that only Unicode has.
fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::documents;

    fn parts(text: &str) -> Vec<&str> {
        let found = documents(text).into_iter();
        found.map(|range| text[range].trim()).collect()
    }

    #[test]
    fn markers_separate_and_comments_alone_are_nothing() {
        let text = "# only a comment\n---\na: 1\n---\n\n---\r\nb: 2\r\n...\nc: 3\n--- {d: 4}\n";
        assert_eq!(parts(text), ["a: 1", "b: 2", "c: 3", "{d: 4}"]);
    }

    #[test]
    fn what_follows_a_comment_is_content_whatever_ends_its_line() {
        for end in ["\r", "\u{85}", "\u{2028}"] {
            let text = format!("# a comment{end}a: 1{end}");
            assert_eq!(parts(&text), [text.trim()], "{end:?}");
        }
        assert_eq!(parts("# one\r# two\r"), [""; 0]);
    }

    #[test]
    fn blanks_behind_a_marker_are_not_content() {
        assert_eq!(parts("---\t\na: 1\n---\t# b\nb: 2\n"), ["a: 1", "b: 2"]);
    }

    #[test]
    fn a_longer_run_of_dashes_is_content() {
        assert_eq!(parts("a: |\n ---\n----\n"), ["a: |\n ---\n----"]);
    }
}
