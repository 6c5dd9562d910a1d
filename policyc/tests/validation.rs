//! The corpus in `validation/`: one YAML file a case, named by what it teaches. Comments at its end
//! say which diagnostics it causes, and where:
//!
//! ```yaml
//! # expect: P112 error 12:17
//! ```
//!
//! A file without such a comment must be accepted without a word. Snapshots beside hold the whole
//! text and JSON that people and programs get to see.

use std::{fs, path::PathBuf};

use policyc::{
    diagnostic::{self, Diagnostic, Severity},
    read::{Sources, load_str},
};

struct Case {
    name: String,
    text: String,
}

/// All cases, by name.
fn cases() -> Vec<Case> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/validation");
    let mut cases = Vec::new();
    for entry in fs::read_dir(&folder).expect("the corpus is part of the repository") {
        let path = entry.expect("the corpus can be listed").path();
        if path.extension().is_some_and(|e| e == "yaml") {
            cases.push(Case {
                name: path.file_name().expect("a file").to_string_lossy().into(),
                text: fs::read_to_string(&path).expect("a case is UTF-8"),
            });
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() >= 60, "the corpus has {} cases", cases.len());
    cases
}

/// `P112 error 12:17` for each diagnostic, sorted.
fn found(diagnostics: &[Diagnostic], sources: &Sources) -> Vec<String> {
    let mut lines: Vec<_> = diagnostics
        .iter()
        .map(|d| {
            let about_key = d.code.is_about_key();
            let place = sources
                .place(d.at.document, &d.at.path, about_key)
                .expect("a diagnostic of a text has a place");
            let severity = match d.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "note",
            };
            (place.line, place.column, format!("{} {severity}", d.code))
        })
        .collect();
    lines.sort();
    lines
        .into_iter()
        .map(|(line, column, what)| format!("{what} {line}:{column}"))
        .collect()
}

#[test]
fn each_case_causes_what_it_says() {
    let mut wrong = Vec::new();
    for case in cases() {
        let expected: Vec<String> = case
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("# expect: "))
            .map(str::to_owned)
            .collect();
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
