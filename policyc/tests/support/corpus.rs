//! A folder of YAML files, each with the diagnostics that it causes in comments at its end.

use std::{fs, path::PathBuf};

use policyc::{
    diagnostic::{Diagnostic, Severity},
    read::Sources,
};

pub struct Case {
    pub name: String,
    pub text: String,
}

impl Case {
    /// What the comments promise: `P112 error 12:17`, sorted by place.
    pub fn expected(&self) -> Vec<String> {
        let comments = self.text.lines();
        comments
            .filter_map(|line| line.strip_prefix("# expect: "))
            .map(str::to_owned)
            .collect()
    }
}

/// All cases of a folder, by name; at least `count_min` of them.
pub fn cases(folder: &str, count_min: usize) -> Vec<Case> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let mut cases = Vec::new();
    for entry in fs::read_dir(&path).expect("the corpus is part of the repository") {
        let path = entry.expect("the corpus can be listed").path();
        if path.extension().is_some_and(|e| e == "yaml") {
            cases.push(Case {
                name: path.file_name().expect("a file").to_string_lossy().into(),
                text: fs::read_to_string(&path).expect("a case is UTF-8"),
            });
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(
        cases.len() >= count_min,
        "{folder} has {} cases",
        cases.len()
    );
    cases
}

/// `P112 error 12:17` for each diagnostic, sorted.
pub fn found(diagnostics: &[Diagnostic], sources: &Sources) -> Vec<String> {
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
