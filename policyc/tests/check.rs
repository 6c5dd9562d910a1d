//! `policyc check` and `policyc explain CODE` as a user runs them: output, streams, exit codes.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

const GOOD: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: good
spec: {}
";
const WARNED: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: warned
spec:
  selector: {}
";
const BAD: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: bad
spec:
  action: BLOCK
";

fn policyc(folder: &Path, args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_policyc"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("policyc starts");
    let mut input = child.stdin.take().expect("a pipe");
    // A command that does not read its input closes the pipe early.
    let _ = input.write_all(stdin.as_bytes());
    drop(input);
    child.wait_with_output().expect("policyc ends")
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (text(&output.stdout), text(&output.stderr))
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in [
        ("good.yaml", GOOD),
        ("warned.yaml", WARNED),
        ("bad.yaml", BAD),
    ] {
        fs::write(folder.path().join(name), text).expect("a file");
    }
    folder
}

#[test]
fn exit_codes_tell_good_from_bad_from_broken() {
    let folder = folder();
    for (args, code) in [
        (&["check", "-f", "good.yaml"][..], 0),
        (&["check", "-f", "warned.yaml"], 0),
        (&["check", "-f", "warned.yaml", "--deny-warnings"], 1),
        (&["check", "-f", "good.yaml", "--deny-warnings"], 0),
        (&["check", "-f", "bad.yaml"], 1),
        (&["check", "-f", "."], 1),
        (&["check", "-f", "missing.yaml"], 2),
        (&["check", "-f", "good.yaml", "--mesh", "missing.yaml"], 2),
        (&["check"], 2),
        (&["check", "-f", "good.yaml", "--format", "xml"], 2),
        (&["explain", "P101"], 0),
        (&["explain", "P999"], 2),
        (&["completions", "bash"], 0),
        (&["chekc"], 2),
    ] {
        let output = policyc(folder.path(), args, "");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    }
}

#[test]
fn people_get_diagnostics_on_standard_error_and_the_account_on_standard_output() {
    let folder = folder();
    let (out, err) = texts(&policyc(folder.path(), &["check", "-f", "bad.yaml"], ""));
    assert_eq!(
        out,
        "checked 0 policies and 0 pods and workloads: 1 error\n"
    );
    let expected = "error[P101]: there is no action `BLOCK`
 --> bad.yaml:6:11
  |
6 |   action: BLOCK
  |           ^^^^^
  |
  = note: policy default/bad
  = help: write one of ALLOW, DENY, AUDIT, CUSTOM

";
    assert_eq!(err, expected, "no colour where this is not a terminal");
    let (out, err) = texts(&policyc(folder.path(), &["check", "-f", "-"], GOOD));
    assert_eq!(
        out,
        "checked 1 policy and 0 pods and workloads: no problems\n"
    );
    assert_eq!(err, "");
}

#[test]
fn programs_get_one_json_array_whatever_happens() {
    let folder = folder();
    for (file, count) in [
        ("good.yaml", 0),
        ("bad.yaml", 1),
        ("missing.yaml", 1),
        (".", 2),
    ] {
        let args = ["check", "--format", "json", "-f", file];
        let (out, err) = texts(&policyc(folder.path(), &args, ""));
        let list: Vec<serde_json::Value> = serde_json::from_str(&out).expect("one JSON array");
        assert_eq!(list.len(), count, "{file}: {out}");
        assert_eq!(err, "", "nothing beside it");
    }
    let args = ["check", "--format", "json", "-f", "bad.yaml"];
    let (out, _) = texts(&policyc(folder.path(), &args, ""));
    let expected = r#"[
  {
    "code": "P101",
    "severity": "error",
    "message": "there is no action `BLOCK`",
    "file": "bad.yaml",
    "line": 6,
    "column": 11,
    "help": "write one of ALLOW, DENY, AUDIT, CUSTOM",
    "policy": "default/bad"
  }
]
"#;
    assert_eq!(out, expected);
}

#[test]
fn people_see_how_each_rule_is_lowered() {
    let folder = folder();
    let rules = GOOD.replace(
        "spec: {}",
        "spec: {rules: [{to: [{operation: {ports: ['80']}}]}, {to: [{operation: {methods: [GET]}}]}]}",
    );
    let (out, _) = texts(&policyc(folder.path(), &["check", "-f", "-"], &rules));
    let expected =
        "rule                                     http port    tcp port      undeclared port
default/good rule 0                      exact        exact         exact
default/good rule 1                      redirect     never-matches redirect

checked 1 policy and 0 pods and workloads: no problems
";
    assert_eq!(out, expected, "as `compile` reports it");
}

#[test]
fn what_istio_would_deny_and_we_would_not_is_never_compiled() {
    let folder = folder();
    let policy = GOOD.replace(
        "spec: {}",
        "spec: {action: DENY, rules: [{from: [{source: {namespaces: ['*sa']}}]}]}",
    );
    for args in [
        &["check", "-f", "-"][..],
        &["compile", "-f", "-", "-o", "bundle.bin"],
    ] {
        let output = policyc(folder.path(), args, &policy);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(texts(&output).1.contains("error[P403]"), "{output:?}");
    }
    assert!(
        !folder.path().join("bundle.bin").exists(),
        "nothing written"
    );
}

#[test]
fn a_code_is_explained_with_example_reason_and_fix() {
    let folder = folder();
    let (out, _) = texts(&policyc(folder.path(), &["explain", "p301"], ""));
    for part in [
        "P301: An ALLOW policy can never take effect",
        "Example:",
        "Why:",
        "Fix:",
    ] {
        assert!(out.contains(part), "{part} is missing:\n{out}");
    }
    assert!(
        out.lines().all(|line| line.chars().count() <= 80),
        "80 columns:\n{out}"
    );
}

#[test]
fn the_demo_says_what_is_wrong_at_each_step() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo");
    let check = |step: &str, more: &[&str]| {
        let args: Vec<&str> = [&["check", "--format", "json", "-f", step], more].concat();
        let (out, _) = texts(&policyc(&demo, &args, ""));
        let list: Vec<serde_json::Value> = serde_json::from_str(&out).expect("one JSON array");
        let about = |key: &str, d: &serde_json::Value| d[key].as_str().expect("a text").to_owned();
        let codes: Vec<String> = list.iter().map(|d| about("code", d)).collect();
        let texts = list.iter().map(|d| about("message", d) + &about("help", d));
        (codes, texts.collect::<String>())
    };
    let (codes, text) = check("step-3", &[]);
    assert_eq!(codes, ["P301", "P304"]);
    assert!(
        text.contains("default/deny-all-backend"),
        "the DENY that shadows: {text}"
    );
    assert!(
        text.contains("--catch-all-deny=default-deny"),
        "the fix: {text}"
    );
    let (codes, _) = check("step-3", &["--catch-all-deny=default-deny"]);
    assert_eq!(
        codes,
        ["P304"],
        "read as the default, the DENY shadows nothing"
    );
    let (codes, _) = check("step-4", &[]);
    assert!(codes.is_empty(), "nothing is wrong: {codes:?}");
    let (codes, text) = check("step-5", &[]);
    assert_eq!(codes, ["P304"]);
    assert!(
        text.contains("Deployment `frontend`"),
        "who was meant: {text}"
    );
    assert!(
        text.contains("serviceAccountName: frontend"),
        "the fix: {text}"
    );
}
