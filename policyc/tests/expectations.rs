//! `policyc test` as a user runs it: outcomes, coverage with its places, formats and exit codes.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shop");

fn folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    for name in [
        "manifests/cluster.yaml",
        "manifests/policies.yaml",
        "tests.yaml",
    ] {
        let from = Path::new(SHOP).join(name);
        let to = folder.path().join(from.file_name().expect("a file"));
        fs::copy(from, to).expect("the example is part of the repository");
    }
    folder
}

fn test(folder: &TempDir, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_policyc"))
        .current_dir(folder.path())
        .args(["test", "-f", "cluster.yaml", "-f", "policies.yaml"])
        .args(arguments)
        .output()
        .expect("policyc should start")
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr]
        .map(String::from_utf8_lossy)
        .concat()
}

/// Writes a file of expectations and runs it.
fn run(folder: &TempDir, text: &str, arguments: &[&str]) -> Output {
    fs::write(folder.path().join("t.jsonl"), text).expect("it can be written");
    test(folder, &[&["t.jsonl"][..], arguments].concat())
}

const READS: &str = r#"{"id":"reads","src":"shop/frontend","dst":"shop/cart","port":8080,"protocol":"http","http":{"method":"GET","path":"/cart"},"expect":"allow"}"#;

#[test]
fn the_example_passes_with_every_engine_and_touches_everything() {
    let folder = folder();
    for engine in ["tables", "oracle", "both"] {
        let output = test(
            &folder,
            &["tests.yaml", "--engine", engine, "--min-coverage", "100%"],
        );
        assert_eq!(output.status.code(), Some(0), "{engine}: {}", said(&output));
        assert!(
            said(&output).contains("5 passed, 0 failed; coverage 100.0 %"),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn what_is_other_than_expected_is_told_and_is_a_no() {
    let folder = folder();
    let wrong = READS.replace(
        "\"allow\"",
        r#"{"verdict":"deny","layer":"l4","policy":"shop/other","rule":0}"#,
    );
    let unknown = READS.replace("shop/frontend", "shop/nobody");
    let output = run(&folder, &format!("{wrong}\n{unknown}\n{READS}\n"), &[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in [
        "FAILED reads (t.jsonl:1): expected verdict deny, got allow; expected layer l4, got l7; expected policy shop/other, got shop/cart",
        "shop/frontend -> shop/cart:8080 GET /cart",
        "ERROR  reads (t.jsonl:2): no pod or workload is called `shop/nobody`",
        "1 passed, 2 failed",
    ] {
        assert!(text.contains(words), "`{words}`: {text}");
    }
    let output = run(&folder, "{}", &[]);
    assert_eq!(
        output.status.code(),
        Some(2),
        "no expectation: {}",
        said(&output)
    );
    assert!(
        said(&output).contains("t.jsonl:1: `expect` is missing"),
        "{}",
        said(&output)
    );
    assert_eq!(test(&folder, &["missing.yaml"]).status.code(), Some(2));
}

#[test]
fn what_nobody_touches_is_named_with_its_place() {
    let folder = folder();
    let output = run(&folder, READS, &["--min-coverage", "80"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let expected = [
        "untouched policies.yaml:11: shop/cart rule 0 to[0].operation.methods[1] `POST`",
        "untouched policies.yaml:11: shop/cart rule 0 to[0].operation.paths[1] `/cart/*`",
        "untouched policies.yaml:20: shop/payments rule 0\n",
        "untouched policies.yaml:21: shop/payments rule 0 from[0]\n",
        "untouched policies.yaml:21: shop/payments rule 0 from[0].source.principals[0] `cluster.local/ns/shop/sa/cart`",
        "untouched policies.yaml:23: shop/payments rule 0 to[0]\n",
        "untouched policies.yaml:23: shop/payments rule 0 to[0].operation.ports[0] `9000`",
        // 1 rule, 2 entries and 4 values of 2, 4 and 8.
        "coverage 50.0 %: 1 of 2 rules, 2 of 4 entries, 4 of 8 values",
        "less than --min-coverage 80.0 %",
    ];
    for words in expected {
        assert!(text.contains(words), "`{words}`: {text}");
    }
    assert_eq!(text.matches("untouched ").count(), 7, "{text}");
    let output = run(
        &folder,
        READS,
        &["--min-coverage", "0.5", "--format", "json"],
    );
    assert_eq!(output.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["passed"], 1);
    assert_eq!(
        json["coverage"]["values"],
        serde_json::json!({"touched": 4, "all": 8})
    );
    assert_eq!(json["coverage"]["untouched"][0]["line"], 11);
}

#[test]
fn every_action_field_and_form_can_be_touched() {
    let folder = folder();
    // Values of not-fields are touched by whom they exclude; a DENY's HTTP fields by HTTP alone.
    let policy = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  action: DENY
  rules:
  - from: [{source: {notServiceAccounts: [frontend], ipBlocks: [10.0.0.0/8]}}]
    to: [{operation: {notPaths: ["/open/*"]}}]
    when: [{key: "request.headers[x-a]", values: ["1"], notValues: ["2"]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: audit, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  action: AUDIT
  rules:
  - {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nothing, namespace: shop}
spec:
  selector: {matchLabels: {app: payments}}
"#;
    fs::write(folder.path().join("policies.yaml"), policy).expect("it can be written");
    let ask = |source: &str, ip: &str, path: &str, header: &str, expect: &str| {
        format!(
            r#"{{"src":{{"sa":"shop/{source}"}},"src_ip":"{ip}","dst":"shop/cart","port":8080,"protocol":"http","http":{{"method":"GET","path":"{path}","headers":{{"x-a":"{header}"}}}},"expect":"{expect}"}}"#
        )
    };
    let tcp = r#"{"src":{"sa":"shop/cart"},"src_ip":"192.0.2.1","dst":"shop/cart","port":8080,"protocol":"tcp","expect":"allow"}"#;
    let pay = r#"{"src":"shop/frontend","dst":"shop/payments","port":1,"protocol":"tcp","expect":"deny"}"#;
    let output = run(&folder, tcp, &["--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["passed"], 1, "{}", said(&output));
    assert_eq!(
        json["coverage"]["values"]["touched"], 0,
        "nothing of HTTP is asked on TCP"
    );
    assert_eq!(
        json["coverage"]["rules"]["touched"], 1,
        "the AUDIT rule matches everything"
    );
    let all = [
        ask("cart", "10.1.1.1", "/x", "1", "deny"),
        ask("frontend", "10.1.1.1", "/open/x", "2", "allow"),
        pay.to_owned(),
    ];
    let output = run(&folder, &all.join("\n"), &["--min-coverage", "100"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

/// The conformance cases are expectations as they stand.
#[test]
fn every_case_of_the_corpus_is_a_file_of_expectations() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut run = 0;
    for entry in fs::read_dir(corpus).expect("the corpus is part of the repository") {
        let case = entry.expect("the corpus can be listed").path();
        // Options and meshes are told by other arguments.
        if case.join("options.json").exists() || case.join("mesh.yaml").exists() {
            continue;
        }
        let output = Command::new(env!("CARGO_BIN_EXE_policyc"))
            .current_dir(&case)
            .args([
                "test",
                "requests.jsonl",
                "-f",
                "policies.yaml",
                "-f",
                "cluster.yaml",
            ])
            .args(["--engine", "both", "--now", "2026-01-01T00:00:00Z"])
            .output()
            .expect("policyc should start");
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}: {}",
            case.display(),
            said(&output)
        );
        run += 1;
    }
    assert!(run > 40, "{run} cases were run");
}

#[test]
fn junit_is_for_machines() {
    let folder = folder();
    let wrong = READS.replace("\"allow\"", "\"deny\"");
    let output = run(
        &folder,
        &format!("{READS}\n{wrong}"),
        &["--format", "junit"],
    );
    let xml = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        xml.contains("tests=\"2\" failures=\"1\" errors=\"0\""),
        "{xml}"
    );
    assert!(
        xml.contains("<failure message=\"expected verdict deny, got allow\"/>"),
        "{xml}"
    );
}
