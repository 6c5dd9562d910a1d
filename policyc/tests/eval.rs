//! `policyc eval` as a user runs it: lines in the same order, errors in their place, exit codes.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name)
}

/// Runs eval over a case's manifests with requests on standard input.
fn eval(name: &str, arguments: &[&str], requests: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_policyc"))
        .arg("eval")
        .arg("-f")
        .arg(case(name).join("policies.yaml"))
        .arg("-f")
        .arg(case(name).join("cluster.yaml"))
        .args(["--requests", "-"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("policyc should start");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    // A command line that is refused ends before its requests are read.
    if let Err(error) = stdin.write_all(requests.as_bytes()) {
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{error}");
    }
    drop(stdin);
    child.wait_with_output().expect("policyc should end")
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line should be JSON"))
        .collect()
}

const GOOD: &str =
    r#"{"id":"a","src":{"ip":"192.0.2.7"},"dst":"shop/cart","port":9000,"protocol":"tcp"}"#;
const OTHER: &str =
    r#"{"id":"b","src":{"ip":"192.0.2.8"},"dst":"shop/cart","port":9000,"protocol":"tcp"}"#;
const UNKNOWN: &str =
    r#"{"id":"c","src":"shop/nobody","dst":"shop/cart","port":9000,"protocol":"tcp"}"#;

#[test]
fn every_engine_answers_in_order() {
    for engine in ["tables", "oracle", "both"] {
        let output = eval(
            "ip-blocks",
            &["--engine", engine],
            &format!("{GOOD}\n\n{OTHER}"),
        );
        assert_eq!(
            output.status.code(),
            Some(0),
            "{engine}: all requests can be judged"
        );
        assert_eq!(
            lines(&output),
            [
                serde_json::json!({
                    "id": "a", "verdict": "allow", "layer": "l4", "reason": "allow_rule",
                    "policy": "shop/p", "rule": 0, "audit": [], "dry_run": [],
                }),
                serde_json::json!({
                    "id": "b", "verdict": "deny", "layer": "l4", "reason": "no_allow_matched",
                    "policy": null, "rule": null, "audit": [], "dry_run": [],
                }),
            ],
            "{engine}: one line a request, in their order"
        );
    }
}

#[test]
fn what_cannot_be_judged_keeps_its_place() {
    let bad_field = r#"{"id":"d","srce":"x"}"#;
    let requests = [UNKNOWN, GOOD, "no json", bad_field].join("\n");
    let output = eval("ip-blocks", &[], &requests);
    assert_eq!(
        output.status.code(),
        Some(1),
        "something could not be judged"
    );
    let lines = lines(&output);
    let ids: Vec<_> = lines
        .iter()
        .map(|l| l["id"].as_str().unwrap_or(""))
        .collect();
    assert_eq!(ids, ["c", "a", "line 3", "d"]);
    let errors: Vec<bool> = lines.iter().map(|l| l["error"].is_string()).collect();
    assert_eq!(errors, [true, false, true, true]);
}

#[test]
fn both_engines_refuse_what_makes_no_sense() {
    let base: serde_json::Value = serde_json::from_str(GOOD).expect("the request is JSON");
    let http = serde_json::json!({"method": "GET", "path": "/", "host": "a"});
    let two_hosts =
        serde_json::json!({"method": "GET", "path": "/", "host": "a", "headers": {"Host": "b"}});
    for fields in [
        serde_json::json!({"http": http}),
        serde_json::json!({"port": 8080, "protocol": "http"}),
        serde_json::json!({"port": 8080, "protocol": "http", "http": two_hosts}),
        serde_json::json!({"src_ip": "192.0.2.9"}),
        serde_json::json!({"src_trust_domain": "x"}),
        serde_json::json!({"src": "shop/browser", "src_trust_domain": "a/b"}),
        serde_json::json!({"src": {"sa": "shop/browser"}}),
        serde_json::json!({"src": {"sa": "shop"}}),
        serde_json::json!({"dst": "cart"}),
    ] {
        let mut request = base.clone();
        for (name, value) in fields.as_object().into_iter().flatten() {
            request[name] = value.clone();
        }
        let output = eval("ip-blocks", &["--engine", "both"], &request.to_string());
        assert_eq!(output.status.code(), Some(1), "{fields} makes no sense");
        let error = lines(&output)[0]["error"].to_string();
        assert!(
            error != "null" && !error.contains("engines differ"),
            "{fields} should be refused by both engines: {error}"
        );
    }
}

#[test]
fn an_expectation_that_fails_is_a_no() {
    let with = |verdict: &str| {
        let line = GOOD.replace("\"tcp\"", &format!("\"tcp\",\"expect\":\"{verdict}\""));
        eval("ip-blocks", &[], &line).status.code()
    };
    assert_eq!(with("allow"), Some(0), "the request is allowed");
    assert_eq!(with("deny"), Some(1), "so an expected deny is a failure");
}

#[test]
fn the_time_and_the_keys_are_inputs() {
    let request = std::fs::read_to_string(case("jwt-times").join("requests.jsonl"))
        .expect("the case should have requests");
    // `exp` is a minute before 2026-01-01.
    let first = request.lines().next().unwrap_or("").to_owned();
    let at = |time| eval("jwt-times", &["--now", time], &first).status.code();
    assert_eq!(
        at("2026-01-01T00:00:00Z"),
        Some(0),
        "the token is good within the skew"
    );
    assert_eq!(
        at("2026-01-01T00:00:01Z"),
        Some(1),
        "a second later it has expired"
    );
    assert_eq!(at("2026-01-01T01:00:00+01:00"), Some(0), "offsets count");
    assert_eq!(at("yesterday"), Some(2), "a time that is none is wrong use");

    let request = std::fs::read_to_string(case("jwt-key-sets-by-uri").join("requests.jsonl"))
        .expect("the case should have requests");
    let first = request.lines().next().unwrap_or("").to_owned();
    let keys = case("jwt-key-sets-by-uri").join("keys.json");
    let given = format!("https://idp.example/keys={}", keys.display());
    let with = |arguments: &[&str]| eval("jwt-key-sets-by-uri", arguments, &first).status.code();
    assert_eq!(with(&["--jwks", &given]), Some(0), "the key set is given");
    assert_eq!(
        with(&[]),
        Some(1),
        "without a key set every token is refused"
    );
    assert_eq!(
        with(&["--jwks", "https://idp.example/keys=/no/such/file"]),
        Some(2)
    );
}

#[test]
fn a_verdict_at_l4_has_the_cause_of_the_kernels_record() {
    let requests = std::fs::read_to_string(case("deny-at-l4-asks-nobody").join("requests.jsonl"))
        .expect("the case should have requests");
    let mesh = case("deny-at-l4-asks-nobody").join("mesh.yaml");
    let mesh = mesh.to_string_lossy();
    let output = eval(
        "deny-at-l4-asks-nobody",
        &["--engine", "both", "--mesh", &mesh],
        &requests,
    );
    for line in lines(&output).iter().take(3) {
        assert_eq!(
            (&line["layer"], &line["reason"], &line["policy"]),
            (&"l4".into(), &"deny_rule".into(), &"shop/d".into()),
            "no authorizer, no token and no lower rule that is not certain: {line}"
        );
    }
}

#[test]
fn a_finished_pod_is_no_destination() {
    let finished = std::env::temp_dir().join(format!("finished-{}.yaml", std::process::id()));
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: done, namespace: shop}\n\
               spec: {containers: [{name: main, image: a}]}\n\
               status: {phase: Succeeded, podIP: 10.1.0.99}\n";
    std::fs::write(&finished, pod).expect("a temporary file can be written");
    let request = GOOD.replace("shop/cart", "shop/done");
    let path = finished.to_string_lossy();
    for engine in ["tables", "oracle", "both"] {
        let output = eval("ip-blocks", &["-f", &path, "--engine", engine], &request);
        let error = lines(&output)[0]["error"].to_string();
        assert!(
            error.contains("phase Succeeded or Failed"),
            "{engine}: {error}"
        );
    }
    std::fs::remove_file(&finished).expect("the file is there");
}

#[test]
fn a_catch_all_deny_can_be_the_default() {
    let request = r#"{"id":"1","src":"default/frontend","dst":"default/backend","port":80,"protocol":"http","http":{"method":"GET","path":"/api/v1/data"}}"#;
    let verdict = |arguments: &[&str]| {
        let output = eval("tutorial-3-deny-all-plus-allow", arguments, request);
        lines(&output)[0]["verdict"].clone()
    };
    assert_eq!(verdict(&[]), "deny", "an ALLOW is no exception to a DENY");
    assert_eq!(verdict(&["--catch-all-deny", "default-deny"]), "allow");
}

#[test]
fn manifests_and_requests_do_not_share_standard_input() {
    let status = Command::new(env!("CARGO_BIN_EXE_policyc"))
        .args(["eval", "-f", "-", "--requests", "-"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("policyc should start");
    assert_eq!(status.code(), Some(2), "one of the two would be empty");
}
