//! SARIF, JUnit, and what an editor asks for.

use std::collections::BTreeSet;

use serde_json::Value;
use serde_sarif::sarif::{ResultLevel, Sarif};

use crate::{ALLOW, WARNED, WRONG, folder, output};

#[test]
fn sarif_is_what_the_standard_says_and_points_at_the_words() {
    let folder = folder(&[
        ("policies/a b.yaml", WRONG),
        ("policies/warned.yaml", WARNED),
        (
            "policies/umlaut.yaml",
            "# \u{e4}\napiVersion: v1\nkind: [\n",
        ),
    ]);
    let text = output(
        folder.path(),
        &["check", "-f", "policies", "--format", "sarif"],
        "",
        1,
    );
    // The crate's types are made from the standard's schema: what it requires must be there.
    let log: Sarif = serde_json::from_str(&text).expect("SARIF");
    assert_eq!(log.version, serde_json::json!("2.1.0"));
    let run = &log.runs[0];
    let rules = run.tool.driver.rules.as_ref().expect("rules");
    let results = run.results.as_ref().expect("results");
    assert_eq!(results.len(), 3);
    for result in results {
        let index = result.rule_index.expect("an index");
        let rule = &rules[usize::try_from(index).expect("not negative")];
        assert_eq!(
            result.rule_id.as_ref(),
            Some(&rule.id),
            "the index names its rule"
        );
        assert!(rule.help.is_some() && rule.short_description.is_some());
    }
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let places: BTreeSet<String> = json["runs"][0]["results"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|result| {
            let place = &result["locations"][0]["physicalLocation"];
            let region = &place["region"];
            format!(
                "{} {} {}:{}-{}:{}",
                result["ruleId"].as_str().unwrap_or_default(),
                place["artifactLocation"]["uri"]
                    .as_str()
                    .unwrap_or_default(),
                region["startLine"],
                region["startColumn"],
                region["endLine"],
                region["endColumn"],
            )
        })
        .collect();
    let wrong = "P101 policies/a%20b.yaml 7:11-7:16";
    assert!(places.contains(wrong), "`BLOCK` is marked: {places:?}");
    assert!(
        places
            .iter()
            .any(|p| p.starts_with("P104 policies/warned.yaml 7:3")),
        "{places:?}"
    );
    let levels: Vec<_> = results.iter().map(|r| r.level).collect();
    assert_eq!(
        levels
            .iter()
            .filter(|l| **l == Some(ResultLevel::Error))
            .count(),
        2
    );
    assert_eq!(
        levels
            .iter()
            .filter(|l| **l == Some(ResultLevel::Warning))
            .count(),
        1
    );
}

#[test]
fn a_finding_keeps_its_fingerprint_when_lines_move() {
    let fingerprints = |text: &str| {
        let folder = folder(&[("a.yaml", text)]);
        let text = output(
            folder.path(),
            &["check", "-f", "a.yaml", "--format", "sarif"],
            "",
            1,
        );
        let json: Value = serde_json::from_str(&text).expect("JSON");
        let results = json["runs"][0]["results"]
            .as_array()
            .expect("a list")
            .clone();
        let of = |result: &Value| result["partialFingerprints"]["policyc/v1"].clone();
        results.iter().map(of).collect::<Vec<Value>>()
    };
    let before = fingerprints(WRONG);
    assert_eq!(before, fingerprints(&format!("# moved\n\n{WRONG}")));
    assert_ne!(before, fingerprints(&WRONG.replace("BLOCK", "BLOCKED")));
    let twice =
        format!("{WRONG}  rules: [{{from: [{{}}]}}, {{from: [{{}}]}}]\n").replace("BLOCK", "ALLOW");
    let twice = fingerprints(&twice);
    let distinct: BTreeSet<String> = twice.iter().map(Value::to_string).collect();
    assert_eq!(twice.len(), 2, "the same mistake in two rules");
    assert_eq!(distinct.len(), 2, "{twice:?}");
}

#[test]
fn without_findings_sarif_still_says_that_it_looked() {
    let folder = folder(&[("a.yaml", ALLOW)]);
    let text = output(
        folder.path(),
        &["check", "-f", "a.yaml", "--format", "sarif"],
        "",
        0,
    );
    let log: Sarif = serde_json::from_str(&text).expect("SARIF");
    // A run without `results` would mean that nobody has looked.
    assert_eq!(log.runs[0].results.as_ref().map(Vec::len), Some(0));
}

#[test]
fn junit_has_a_suite_for_each_file_and_escapes_what_xml_would_read() {
    let nasty = WRONG.replace("BLOCK", "\"]]><&'\\\"x\"");
    let folder = folder(&[("a.yaml", &nasty), ("b.yaml", ALLOW), ("c.yaml", WARNED)]);
    let junit = |more: &[&str], code| {
        let args = [&["check", "-f", ".", "--format", "junit"], more].concat();
        let text = output(folder.path(), &args, "", code);
        quick_junit::Report::deserialize_from_str(&text).expect("JUnit")
    };
    let report = junit(&[], 1);
    let names: Vec<&str> = report.test_suites.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["./a.yaml", "./b.yaml", "./c.yaml"]);
    let failures: Vec<usize> = report.test_suites.iter().map(|s| s.failures).collect();
    assert_eq!(failures, [1, 0, 0], "a warning is no failure");
    let case = &report.test_suites[0].test_cases[0];
    assert!(
        case.name.as_str().contains("]]><&'\"x"),
        "{}",
        case.name.as_str()
    );
    let strict: Vec<usize> = junit(&["--deny-warnings"], 1)
        .test_suites
        .iter()
        .map(|s| s.failures)
        .collect();
    assert_eq!(strict, [1, 0, 1], "unless it is asked for");
}

#[test]
fn an_unsaved_text_stands_for_its_file() {
    let folder = folder(&[("p/a.yaml", WRONG), ("p/b.yaml", ALLOW)]);
    let check = |path: &str, text: &str, code| {
        let args = [
            "check",
            "-f",
            "p",
            "-f",
            "-",
            "--stdin-path",
            path,
            "--format",
            "json",
        ];
        let found: Vec<Value> =
            serde_json::from_str(&output(folder.path(), &args, text, code)).expect("JSON");
        found
            .iter()
            .map(|d| format!("{} {}:{}", d["code"], d["file"], d["line"]).replace('"', ""))
            .collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    // The file is mended in the editor, and what is on the disk is not looked at.
    assert_eq!(check("p/a.yaml", &WRONG.replace("BLOCK", "ALLOW"), 0), none);
    assert_eq!(
        check("p/a.yaml", &format!("\n{WRONG}"), 1),
        ["P101 p/a.yaml:8"]
    );
    // A file that is not there yet: with the rest of the folder it is wrong, as it would be then.
    assert_eq!(
        check("p/new.yaml", ALLOW, 1),
        ["P101 p/a.yaml:7", "P014 p/new.yaml:4"]
    );
    // Its name says that it is JSON.
    assert_eq!(
        check("p/a.json", "kind: Pod", 1),
        ["P101 p/a.yaml:7", "P004 p/a.json:1"]
    );
}

#[test]
fn what_standard_input_stands_for_must_be_read() {
    let folder = folder(&[("a.yaml", ALLOW)]);
    let args = ["check", "-f", "a.yaml", "--stdin-path", "a.yaml"];
    assert_eq!(
        crate::policyc(folder.path(), &args, "").status.code(),
        Some(2)
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = folder(&[]);
    output(folder.path(), &["man", "pages/man1"], "", 0);
    let help = output(folder.path(), &["--help"], "", 0);
    let commands = help.split("Commands:").nth(1).expect("commands");
    let names: Vec<&str> = commands
        .lines()
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(
        names.contains(&"graph") && names.contains(&"schema"),
        "{names:?}"
    );
    for name in names {
        let page = folder.path().join(format!("pages/man1/policyc-{name}.1"));
        let text = std::fs::read_to_string(&page).expect("each command has a page");
        assert!(text.contains(".SH SYNOPSIS"), "{name}");
    }
}
