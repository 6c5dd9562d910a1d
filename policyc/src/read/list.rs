//! A large YAML List taken apart into its items, so that each is read and dropped by itself.
//!
//! `kubectl get -o yaml` writes all objects as one document. Read whole it would take many times its
//! size in memory. Its shape is simple enough to be cut by indentation; what is not of that shape is
//! left whole.

use std::ops::Range;

/// A List without its items, and the items, each a YAML sequence of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    pub header: String,
    pub items: Vec<Range<usize>>,
}

/// Cuts a document with `items:` at its top level. `None`: read it whole.
pub fn split(text: &str) -> Option<List> {
    // An alias may stand in another item than its anchor.
    if has_anchor(text) {
        return None;
    }
    let mut lines = Lines { text, at: 0 };
    let items_line = lines.find(|line| line.trim_end() == "items:")?;
    let first = lines.find(|line| !is_blank(line))?;
    let line = text[first.clone()].trim_end_matches('\n');
    let indent = line.len() - line.trim_start_matches(' ').len();
    if !is_item(line, indent) {
        return None;
    }
    let mut starts = vec![first.start];
    let mut end = text.len();
    for range in lines {
        let line = text[range.clone()].trim_end_matches('\n');
        let depth = line.len() - line.trim_start_matches(' ').len();
        if is_item(line, indent) {
            starts.push(range.start);
        } else if depth <= indent && !is_blank(line) {
            end = range.start;
            break;
        }
    }
    let rest = &text[end..];
    // A second `items`, or a tab that could hide indentation: leave it to the real reader.
    if rest.lines().any(|l| l.trim_end() == "items:") {
        return None;
    }
    let ends = starts.iter().skip(1).copied().chain([end]);
    let items = starts
        .iter()
        .copied()
        .zip(ends)
        .map(|(a, b)| a..b)
        .collect();
    Some(List {
        header: format!("{}{rest}", &text[..items_line.start]),
        items,
    })
}

fn is_item(line: &str, indent: usize) -> bool {
    let rest = line.get(indent..).unwrap_or("");
    line.bytes().take(indent).all(|b| b == b' ')
        && (rest.trim_end() == "-" || rest.starts_with("- "))
}

/// Blank lines and comments belong to whatever is around them.
fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn has_anchor(text: &str) -> bool {
    let mut marks = text.match_indices(['&', '*']);
    marks.any(|(at, _)| {
        let before = text[..at].trim_end_matches(' ');
        before.ends_with([':', '-', '[', ',', '{'])
    })
}

/// The byte range of each line, its end included.
struct Lines<'t> {
    text: &'t str,
    at: usize,
}

impl Lines<'_> {
    fn find(&mut self, wanted: impl Fn(&str) -> bool) -> Option<Range<usize>> {
        let text = self.text;
        Iterator::find(self, |range| wanted(&text[range.clone()]))
    }
}

impl Iterator for Lines<'_> {
    type Item = Range<usize>;
    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        let rest = self.text.get(start..).filter(|rest| !rest.is_empty())?;
        self.at = rest
            .find('\n')
            .map_or(self.text.len(), |end| start + end + 1);
        Some(start..self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn items_are_cut_and_the_rest_is_the_header() {
        let text =
            "apiVersion: v1\nitems:\n- a: 1\n  b: |\n    - text\n\n# note\n- c: 2\nkind: List\n";
        let list = split(text).expect("a List as kubectl writes it");
        assert_eq!(list.header, "apiVersion: v1\nkind: List\n");
        let items: Vec<&str> = list.items.into_iter().map(|r| &text[r]).collect();
        assert_eq!(
            items,
            ["- a: 1\n  b: |\n    - text\n\n# note\n", "- c: 2\n"]
        );
    }

    #[test]
    fn indented_items_and_windows_lines() {
        let text = "items:\r\n  - a: 1\r\n  -\r\n    b: 2\r\nkind: List\r\n";
        let list = split(text).expect("items indented");
        assert_eq!(list.items.len(), 2);
        assert_eq!(list.header, "kind: List\r\n");
    }

    #[test]
    fn what_is_not_of_that_shape_is_left_whole() {
        for text in [
            "kind: List\nitems: []\n",
            "kind: List\nitems:\n  a: 1\n",
            "kind: List\nitems:\n- a: &x 1\n- b: *x\n",
            "items:\n- a\nitems:\n- b\n",
            "kind: Pod\n",
        ] {
            assert_eq!(split(text), None, "{text:?}");
        }
    }
}
