//! `policyc suggest` as a user runs it: record, suggest, check, replay.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

const CLUSTER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/examples/shop/manifests/cluster.yaml"
);

fn policyc(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_policyc"))
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("policyc should start")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A monitor's line.
fn line(source: &str, destination: &str, what: &str, reason: &str) -> String {
    let source = match source.contains('/') {
        true => format!("\"{source}\""),
        false => format!("{{\"ip\":\"{source}\"}}"),
    };
    let verdict = if reason.starts_with("deny") {
        "deny"
    } else {
        "allow"
    };
    let ip = if source.starts_with('{') {
        "192.0.2.9"
    } else {
        "10.0.0.1"
    };
    format!(
        r#"{{"id":"1-1","time":"2026-01-01T00:00:00Z","src":{source},"src_ip":"{ip}","src_port":40000,"dst":"{destination}","dst_ip":"10.0.0.2",{what},"verdict":"{verdict}","reason":"{reason}","datapath":"x","policy":null,"rule":null,"audit":[],"dry_run":[],"hook":"to_pod","epoch":1,"generation":0}}"#
    )
}

fn http(method: &str, path: &str) -> String {
    format!(
        r#""port":8080,"protocol":"http","layer":"l7","http":{{"method":"{method}","path":"{path}","host":"cart"}}"#
    )
}

const PAY: &str = r#""port":9000,"protocol":"tcp","layer":"l4""#;
const UNDECLARED: &str = r#""port":7777,"protocol":"tcp","layer":"l4""#;

fn recording() -> String {
    let cart = |what: &str| line("shop/frontend", "shop/cart", what, "allow_rule");
    [
        cart(&http("GET", "/cart?page=1")),
        cart(&http("GET", "/cart?page=2")),
        cart(&http("POST", "/cart/17")),
        cart(&http("POST", "/cart/18")),
        line(
            "shop/payments",
            "shop/cart",
            &http("GET", "/cart"),
            "allow_rule",
        ),
        line("shop/cart", "shop/payments", PAY, "no_allow_policy"),
        line("shop/cart", "shop/payments", UNDECLARED, "no_allow_policy"),
        line("shop/frontend", "shop/payments", PAY, "deny_rule"),
        line("192.0.2.9", "shop/payments", PAY, "no_allow_policy"),
        line("shop/gone", "shop/cart", PAY, "no_allow_policy"),
        line(
            "shop/frontend",
            "shop/cart",
            &http("GET", "/a*"),
            "allow_rule",
        ),
        line("shop/frontend", "shop/cart", PAY, "spoofed_pod_source"),
    ]
    .join("\n")
}

fn suggest(folder: &TempDir, arguments: &[&str]) -> Output {
    fs::write(folder.path().join("flows.jsonl"), recording()).expect("it can be written");
    let all = ["suggest", "-f", CLUSTER, "--flows", "flows.jsonl"];
    policyc(folder.path(), &[&all[..], arguments].concat())
}

#[test]
fn what_was_seen_is_written_as_a_person_would() {
    let folder = TempDir::new().expect("a folder");
    let output = suggest(&folder, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        r#"---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: "suggested-cart"
  namespace: "shop"
spec:
  selector:
    matchLabels:
      "app": "cart"
  action: ALLOW
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/shop/sa/payments"]
    to:
    - operation:
        ports: ["8080"]
        methods: ["GET"]
        paths: ["/cart"]
  - from:
    - source:
        principals: ["cluster.local/ns/shop/sa/frontend"]
    to:
    - operation:
        ports: ["8080"]
        methods: ["GET"]
        paths: ["/cart"]
    - operation:
        ports: ["8080"]
        methods: ["POST"]
        paths: ["/cart/17", "/cart/18"]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: "suggested-payments"
  namespace: "shop"
  annotations:
    enforcer/accepted-warnings: "P309"
spec:
  selector:
    matchLabels:
      "app": "payments"
  action: ALLOW
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/shop/sa/cart"]
    to:
    - operation:
        ports: ["7777", "9000"]
"#
    );
    let said = text(&output.stderr);
    for words in [
        "2 policies admit 7 recorded flows",
        "left out: 1 flows denied, and so not wanted",
        "left out: 1 flows from addresses without identity: --addresses admits them",
        "left out: 1 flows from pods that are not in the inventory",
        "left out: 1 flows with a path that no policy can name",
        "left out: 1 flows decided by something else than policies",
        "note: shop/suggested-payments accepts the warnings P309",
    ] {
        assert!(said.contains(words), "`{words}`: {said}");
    }
}

#[test]
fn the_suggestion_passes_the_check_and_denies_nothing_that_it_admits() {
    let folder = TempDir::new().expect("a folder");
    for arguments in [
        &[][..],
        &["--paths", "ids"],
        &["--paths", "any"],
        &["--addresses"],
    ] {
        let output = suggest(&folder, &[arguments, &["-o", "p.yaml"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let check = policyc(
            folder.path(),
            &["check", "-f", CLUSTER, "-f", "p.yaml", "--deny-warnings"],
        );
        assert_eq!(check.status.code(), Some(0), "{}", text(&check.stderr));
        let arguments_of_replay = [
            "replay",
            "-f",
            CLUSTER,
            "-f",
            "p.yaml",
            "--flows",
            "flows.jsonl",
            "--format",
            "json",
        ];
        let replay = policyc(folder.path(), &arguments_of_replay);
        let result: serde_json::Value = serde_json::from_slice(&replay.stdout).expect("JSON");
        let narrowed = result["narrowed"].as_array().expect("a list").len();
        // What it said that it leaves out: an address, and a path with a star.
        let left_out = match arguments {
            ["--paths", "any"] | ["--addresses"] => 1,
            _ => 2,
        };
        assert_eq!(narrowed, left_out, "{arguments:?}: {result}");
        let widened = result["widened"].as_array().expect("a list").len();
        assert_eq!(widened, 0, "what was denied stays so: {result}");
    }
}

#[test]
fn paths_are_generalised_only_when_told() {
    let folder = TempDir::new().expect("a folder");
    let ids = text(&suggest(&folder, &["--paths", "ids"]).stdout);
    assert!(
        ids.contains(r#"paths: ["/cart/{*}"]"#) && !ids.contains("/cart/17"),
        "{ids}"
    );
    let any = text(&suggest(&folder, &["--paths", "any"]).stdout);
    assert!(
        any.contains(r#"methods: ["GET", "POST"]"#) && !any.contains("paths"),
        "{any}"
    );
    let addresses = text(&suggest(&folder, &["--addresses"]).stdout);
    assert!(
        addresses.contains(r#"ipBlocks: ["192.0.2.9"]"#),
        "{addresses}"
    );
}

#[test]
fn nothing_to_admit_is_a_no() {
    let folder = TempDir::new().expect("a folder");
    let denied = line("shop/frontend", "shop/payments", PAY, "deny_rule");
    fs::write(folder.path().join("flows.jsonl"), denied).expect("it can be written");
    let arguments = ["suggest", "-f", CLUSTER, "--flows", "flows.jsonl"];
    let output = policyc(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
}
