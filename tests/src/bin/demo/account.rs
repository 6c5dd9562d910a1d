//! What the reader sees: text and a table, in 80 columns.

use std::fmt::Write as _;

const COLUMNS: usize = 80;

/// One line of the closing table.
#[derive(Clone, Debug)]
pub struct Row {
    pub request: String,
    pub expected: &'static str,
    pub got: String,
    /// `kernel` or `userspace`
    pub decided: &'static str,
    /// Policy and rule, or the reason where none decided.
    pub by: String,
    pub as_expected: bool,
}

/// Breaks text into lines that begin with `indent`.
pub fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let length = indent.len() + line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && length > COLUMNS {
            let _ = writeln!(lines, "{indent}{line}"); // a string takes everything
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(lines, "{indent}{line}");
    lines
}

/// The table of all steps: a heading for each, a line for each request.
pub fn table(stages: &[(&str, Vec<Row>)]) -> String {
    let mut text = line(
        "request",
        "expected",
        "got",
        "decided",
        "by policy and rule",
    );
    let _ = writeln!(text, "{}", "-".repeat(COLUMNS));
    for (title, rows) in stages {
        let _ = writeln!(text, "{title}");
        for row in rows {
            let request = format!("{}{}", if row.as_expected { " " } else { "!" }, row.request);
            text += &line(&request, row.expected, &row.got, row.decided, &row.by);
        }
    }
    text
}

fn line(request: &str, expected: &str, got: &str, decided: &str, by: &str) -> String {
    let line = format!("{request:<27} {expected:<8} {got:<7} {decided:<9} {by}");
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let row = Row {
            request: "frontend POST /api/v1/data".into(),
            expected: "refused",
            got: "refused".into(),
            decided: "userspace",
            by: "allow-frontend-get-data 0".into(),
            as_expected: false,
        };
        let text = table(&[("Step 4", vec![row])]) + &wrapped(&"word ".repeat(60), "    ");
        for line in text.lines() {
            assert!(line.len() <= COLUMNS, "{} columns: {line}", line.len());
        }
        assert!(
            text.contains("\n!frontend POST"),
            "what went wrong is marked: {text}"
        );
    }

    #[test]
    fn words_are_kept_in_order() {
        assert_eq!(
            wrapped("a  b\nc", "> "),
            "> a b c\n",
            "white space is one space"
        );
    }
}
