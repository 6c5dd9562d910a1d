//! Istio's own validation cases: what it accepts, rejects and warns about, so does the loader.
//!
//! The cases are not part of this repository. `CONFORMANCE_VALIDATION` names a folder with
//! `cases.json`; without it the project's own corpus (`validation.rs`) is what holds the loader.

use std::{env, fs, path::Path};

use policyc::{
    diagnostic::{Diagnostic, Severity},
    read::load_str,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    id: String,
    valid: bool,
    warning: bool,
    manifest: serde_json::Value,
}

#[test]
fn manifests_are_judged_as_istio_judges_them() {
    let Some(folder) = env::var_os("CONFORMANCE_VALIDATION") else {
        println!("skipped: CONFORMANCE_VALIDATION names no folder with cases.json");
        return;
    };
    let text = fs::read_to_string(Path::new(&folder).join("cases.json"))
        .expect("CONFORMANCE_VALIDATION must hold cases.json");
    let cases: Vec<Case> = serde_json::from_str(&text).expect("cases.json is a list of cases");
    assert!(!cases.is_empty(), "cases.json holds no case");
    let mut wrong = Vec::new();
    for case in &cases {
        let yaml = serde_yaml::to_string(&case.manifest).expect("JSON is YAML");
        let json = case.manifest.to_string();
        let pretty = serde_json::to_string_pretty(&case.manifest).expect("JSON is JSON");
        for (name, text) in [("a.yaml", yaml), ("a.json", json), ("b.yaml", pretty)] {
            let (_, found) = load_str(name, &text, None);
            if let Some(difference) = difference(case, &found) {
                wrong.push(format!("{} as {name}: {difference}", case.id));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        cases.len() * 3,
        wrong.join("\n")
    );
    println!("{} manifests, each in three forms", cases.len());
}

fn difference(case: &Case, found: &[Diagnostic]) -> Option<String> {
    let has = |severity| found.iter().any(|d| d.severity == severity);
    let (errors, warnings) = (has(Severity::Error), has(Severity::Warning));
    let listed: Vec<String> = found
        .iter()
        .map(|d| format!("{} {} at {}", d.code, d.message, d.at.path))
        .collect();
    let as_expected = match case.valid {
        true => !errors && warnings == case.warning,
        // Beside an error, Istio's warnings are of no consequence.
        false => errors,
    };
    (!as_expected).then(|| {
        format!(
            "expected valid={} warning={}, got [{}]",
            case.valid,
            case.warning,
            listed.join("; ")
        )
    })
}
