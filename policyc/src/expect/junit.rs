//! Outcomes as JUnit XML, which every CI system reads.

use std::fmt::Write;

use super::{Expectation, Outcome};

/// The report of one run. Times are left out: the same input gives the same bytes.
pub fn report(results: &[(&Expectation, &Outcome)]) -> String {
    let count = |wanted: fn(&Outcome) -> bool| results.iter().filter(|(_, o)| wanted(o)).count();
    let failures = count(|o| matches!(o, Outcome::Failed(_)));
    let errors = count(|o| matches!(o, Outcome::Error(_)));
    let all = results.len();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a string cannot fail.
    let _ = writeln!(
        xml,
        "<testsuites name=\"policyc test\" tests=\"{all}\" failures=\"{failures}\" errors=\"{errors}\">\n\
         <testsuite name=\"policies\" tests=\"{all}\" failures=\"{failures}\" errors=\"{errors}\">"
    );
    for (expectation, outcome) in results {
        let (file, id) = (escape(&expectation.place), escape(&expectation.request.id));
        let _ = write!(xml, "<testcase classname=\"{file}\" name=\"{id}\"");
        let _ = match outcome {
            Outcome::Passed => writeln!(xml, "/>"),
            Outcome::Failed(why) => {
                let why = escape(&why.join("; "));
                writeln!(xml, "><failure message=\"{why}\"/></testcase>")
            }
            Outcome::Error(why) => {
                writeln!(xml, "><error message=\"{}\"/></testcase>", escape(why))
            }
        };
    }
    xml + "</testsuite>\n</testsuites>\n"
}

/// Text as it may stand in an attribute. XML has no way to write most control characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' => escaped += "&#10;",
            '\t' => escaped += "&#9;",
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                escaped.push(char::REPLACEMENT_CHARACTER);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_well_formed() {
        assert_eq!(
            escape("a<b>&\"c\"\n\u{1}"),
            "a&lt;b&gt;&amp;&quot;c&quot;&#10;\u{fffd}"
        );
        let line =
            r#"{"id":"<1>","src":"a/x","dst":"a/y","port":1,"protocol":"tcp","expect":"deny"}"#;
        let read = super::super::read("t.jsonl", line).expect("one expectation");
        let failed = Outcome::Failed(vec!["a \"b\"".into(), "c".into()]);
        let xml = report(&[(&read[0], &Outcome::Passed), (&read[0], &failed)]);
        assert!(
            xml.contains("tests=\"2\" failures=\"1\" errors=\"0\""),
            "{xml}"
        );
        assert!(xml.contains("name=\"&lt;1&gt;\"/>"), "{xml}");
        assert!(
            xml.contains("<failure message=\"a &quot;b&quot;; c\"/>"),
            "{xml}"
        );
    }
}
