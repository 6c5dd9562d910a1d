//! Diagnostics as a JUnit report, which pipelines show as tests: a suite for each file, a failed case
//! for each problem, and one that passed for a file without any.

use std::collections::BTreeMap;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{Diagnostic, Severity, render::in_order};
use crate::read::{Place, Sources};

/// All diagnostics as a report, files in the order of their names. `deny_warnings`: a warning is a
/// failure too; else warnings and notes stand in the output of a case that passed.
pub fn junit(diagnostics: &[Diagnostic], sources: &Sources, deny_warnings: bool) -> String {
    let mut suites: BTreeMap<&str, Vec<TestCase>> =
        sources.files().map(|file| (file, Vec::new())).collect();
    for (diagnostic, place) in in_order(diagnostics, sources) {
        let file = place.as_ref().map_or("policies", |place| place.file);
        let cases = suites.entry(file).or_default();
        cases.push(case(diagnostic, place.as_ref(), deny_warnings));
    }
    let mut report = Report::new("policyc check");
    for (file, cases) in suites {
        let mut suite = TestSuite::new(file);
        if cases.is_empty() {
            suite.add_test_case(TestCase::new("no problems", TestCaseStatus::success()));
        }
        suite.add_test_cases(cases);
        report.add_test_suite(suite);
    }
    // INVARIANT: text that was read as UTF-8 can be written as XML.
    report.to_string().unwrap_or_default()
}

fn case(diagnostic: &Diagnostic, place: Option<&Place<'_>>, deny_warnings: bool) -> TestCase {
    let failed = match diagnostic.severity {
        Severity::Error => true,
        Severity::Warning => deny_warnings,
        Severity::Note => false,
    };
    let at = match place {
        Some(place) => format!("{}:{}:{}", place.file, place.line, place.column),
        None => String::from("unknown place"),
    };
    let line = place.map_or(0, |place| place.line);
    let name = format!("{} line {line}: {}", diagnostic.code, diagnostic.message);
    let policy = diagnostic.policy.as_deref();
    let text = format!(
        "{at}\n{}{}\nhelp: {}",
        policy.map_or(String::new(), |policy| format!("policy {policy}: ")),
        diagnostic.message,
        diagnostic.help
    );
    let mut status = match failed {
        true => TestCaseStatus::non_success(NonSuccessKind::Failure),
        false => TestCaseStatus::success(),
    };
    if failed {
        status.set_message(diagnostic.message.clone());
        status.set_type(diagnostic.code.as_str());
        status.set_description(text.clone());
    }
    let mut case = TestCase::new(name, status);
    case.set_classname(place.map_or("policies", |place| place.file));
    if !failed {
        case.set_system_out(text);
    }
    case
}
