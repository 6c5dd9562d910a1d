//! The corpus in `validation/`: one YAML file a case, named by what it teaches. Comments at its end
//! say which diagnostics it causes, and where:
//!
//! ```yaml
//! # expect: P112 error 12:17
//! ```
//!
//! A file without such a comment must be accepted without a word. Snapshots beside hold the whole
//! text and JSON that people and programs get to see.

#[path = "support/corpus.rs"]
mod corpus;

use corpus::{Case, found};
use policyc::{diagnostic, read::load_str};

fn cases() -> Vec<Case> {
    corpus::cases("validation", 60)
}

#[test]
fn each_case_causes_what_it_says() {
    let mut wrong = Vec::new();
    for case in cases() {
        let expected = case.expected();
        let (loaded, diagnostics) = load_str(&case.name, &case.text, None);
        let found = found(&diagnostics, &loaded.sources);
        if found != expected {
            wrong.push(format!(
                "{}\n  expected {expected:?}\n  found    {found:?}",
                case.name
            ));
        }
        if case.name.starts_with("accepted-") != expected.is_empty() {
            wrong.push(format!(
                "{}: accepted cases, and only they, are named so",
                case.name
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} cases differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn each_code_of_reading_and_validity_has_a_case() {
    // These need a file system, or a text that is too large to keep here; other tests cause them.
    let elsewhere = ["P001", "P002", "P003", "P007", "P203"];
    let all: String = cases().into_iter().map(|c| c.text).collect();
    for code in diagnostic::Code::all() {
        let text = code.as_str();
        if text < "P300" && !elsewhere.contains(&text) {
            assert!(
                all.contains(&format!("# expect: {text} ")),
                "{text} has no case"
            );
        }
    }
}

#[test]
fn what_people_see() {
    let mut text = String::new();
    for case in cases() {
        let (loaded, diagnostics) = load_str(&case.name, &case.text, None);
        text += &diagnostic::human(&diagnostics, &loaded.sources, false);
    }
    for line in text.lines() {
        // Source lines are shown as they are, up to the width.
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line}");
    }
    insta::assert_snapshot!(text);
}

#[test]
fn what_programs_see() {
    let mut text = String::new();
    for case in cases() {
        let (loaded, diagnostics) = load_str(&case.name, &case.text, None);
        if !diagnostics.is_empty() {
            text += &diagnostic::json(&diagnostics, &loaded.sources);
            text += "\n";
        }
    }
    insta::assert_snapshot!(text);
}
