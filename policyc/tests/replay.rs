//! `policyc replay` as a user runs it: what changes, what is not known, and exit codes.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// Runs replay over files of the corpus with flows on standard input.
fn replay(files: &[PathBuf], arguments: &[&str], flows: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_policyc"));
    command.arg("replay");
    for file in files {
        command.arg("-f").arg(file);
    }
    let mut child = command
        .args(["--flows", "-"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("policyc should start");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    if let Err(error) = stdin.write_all(flows.as_bytes()) {
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{error}");
    }
    drop(stdin);
    child.wait_with_output().expect("policyc should end")
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// A monitor's line to `shop/cart`.
fn line(source: &str, port: u16, what: &str, reason: &str, more: &str) -> String {
    let verdict = if reason.starts_with("allow") {
        "allow"
    } else {
        "deny"
    };
    format!(
        r#"{{"id":"1-1","time":"2026-01-01T00:00:00Z","src":"{source}","src_ip":"10.1.0.11","src_port":40000,"dst":"shop/cart","dst_ip":"10.1.0.10","port":{port},{what},"verdict":"{verdict}","reason":"{reason}","datapath":"x","policy":null,"rule":null,"audit":[],"dry_run":[],"hook":"to_pod","epoch":1,"generation":0{more}}}"#
    )
}

const L4: &str = r#""protocol":"tcp","layer":"l4""#;
const GET: &str =
    r#""protocol":"http","layer":"l7","http":{"method":"GET","path":"/a","host":"cart.shop"}"#;

/// Every case of the corpus is a recording: under its own policies nothing changes.
#[test]
fn the_same_policies_change_nothing() {
    let mut replayed = 0;
    for entry in std::fs::read_dir(corpus()).expect("the corpus is part of the repository") {
        let case = entry.expect("the corpus can be listed").path();
        // Options and meshes are told by other arguments.
        if case.join("options.json").exists() || case.join("mesh.yaml").exists() {
            continue;
        }
        let flows = std::fs::read_to_string(case.join("requests.jsonl")).expect("requests");
        let files = ["policies.yaml", "cluster.yaml"].map(|name| case.join(name));
        let arguments = [
            "--fail-on",
            "any",
            "--format",
            "json",
            "--now",
            "2026-01-01T00:00:00Z",
        ];
        let output = replay(&files, &arguments, &flows);
        let result = json(&output);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}: {result}",
            case.display()
        );
        assert_eq!(result["same"], result["flows"]);
        replayed += 1;
    }
    assert!(replayed > 40, "{replayed} cases were replayed");
}

/// The policies of the case `methods`: browser may GET.
fn only_get() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("replay-only-get-{}.yaml", std::process::id()));
    let policy = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-get, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/shop/sa/browser"]}}]
    to: [{operation: {methods: [GET], ports: ["8080"]}}]
  - from: [{source: {principals: ["cluster.local/ns/shop/sa/browser"]}}]
    to: [{operation: {ports: ["9000"]}}]
    when: [{key: "request.headers[x]", values: ["1"]}]
  - from: [{source: {principals: ["cluster.local/ns/shop/sa/browser"]}}]
    to: [{operation: {ports: ["7000"]}}]
    when: [{key: "request.headers[x]", values: ["1"]}]
"#;
    std::fs::write(&path, policy).expect("it can be written");
    vec![path, corpus().join("ip-blocks/cluster.yaml")]
}

#[test]
fn each_flow_is_told_of_in_its_list() {
    let files = only_get();
    let post = GET.replace("GET", "POST");
    let flows = [
        // Denied before, and GET is allowed now; seen twice.
        line("shop/browser", 8080, GET, "no_allow_matched", ""),
        line("shop/browser", 8080, GET, "no_allow_matched", ""),
        line("shop/browser", 8080, &post, "allow_rule", ""),
        line("shop/browser", 8080, GET, "allow_rule", ""),
        // The kernel had decided: nobody knows what was said.
        line("shop/browser", 8080, L4, "no_allow_policy", ""),
        line("shop/browser", 7000, GET, "allow_rule", ""),
        // A port of bytes: a rule about HTTP is void there.
        line("shop/browser", 9000, L4, "allow_rule", ""),
        line("shop/gone", 8080, GET, "allow_rule", ""),
        line("shop/browser", 8080, L4, "spoofed_pod_source", ""),
        r#"{"lost":3}"#.into(),
    ]
    .join("\n");
    let output = replay(&files, &["--format", "json"], &flows);
    let result = json(&output);
    assert_eq!(output.status.code(), Some(0), "nothing was said to be a no");
    assert_eq!(result["flows"], 8, "{result}");
    assert_eq!(result["same"], 1);
    let list = |name: &str| result[name].as_array().expect("a list").clone();
    let widened = list("widened");
    assert_eq!((widened.len(), &widened[0]["count"]), (1, &2.into()));
    assert_eq!(
        (
            &widened[0]["was"],
            &widened[0]["now"],
            &widened[0]["policy"],
            &widened[0]["rule"]
        ),
        (
            &"deny".into(),
            &"allow".into(),
            &"shop/only-get".into(),
            &0.into()
        )
    );
    let ports = |name: &str| -> Vec<u64> {
        let list = list(name);
        list.iter()
            .filter_map(|flow| flow["flow"]["port"].as_u64())
            .collect()
    };
    assert_eq!(list("narrowed").len(), 2, "{result}");
    let mut narrowed = ports("narrowed");
    narrowed.sort_unstable();
    assert_eq!(narrowed, [8080, 9000]);
    let mut unknown = ports("unknown");
    unknown.sort_unstable();
    assert_eq!(unknown, [7000, 8080], "{result}");
    assert_eq!(list("unjudged").len(), 1);
    assert_eq!(result["skipped"]["not_policy"], 1);
    assert_eq!(result["lost"], 3);

    let human = replay(&files, &[], &flows);
    let human = String::from_utf8_lossy(&human.stdout).into_owned();
    for words in [
        "widened   2 x shop/browser -> shop/cart:8080 GET cart.shop/a  was deny, now allow: an ALLOW rule matches (shop/only-get rule 0)",
        "8 flows: 1 the same, 2 widened, 2 narrowed, 2 not known, 1 cannot be judged",
        "1 lines left out: decided by something else than policies",
        "3 verdicts passed the monitor unseen",
    ] {
        assert!(human.contains(words), "`{words}`: {human}");
    }
}

#[test]
fn what_is_a_no_is_for_the_caller_to_say() {
    let files = only_get();
    let code =
        |flow: &str, fail_on: &str| replay(&files, &["--fail-on", fail_on], flow).status.code();
    let widened = line("shop/browser", 8080, GET, "no_allow_matched", "");
    let narrowed = line(
        "shop/browser",
        8080,
        &GET.replace("GET", "PUT"),
        "allow_rule",
        "",
    );
    let unknown = line("shop/browser", 8080, L4, "allow_rule", "");
    let same = line("shop/browser", 8080, GET, "allow_rule", "");
    let gone = line("shop/gone", 8080, GET, "allow_rule", "");
    for (flow, never, widen, narrow, any) in [
        (&widened, 0, 1, 0, 1),
        (&narrowed, 0, 0, 1, 1),
        // It was allowed: it may be narrowed, and cannot be widened.
        (&unknown, 0, 0, 1, 1),
        (&same, 0, 0, 0, 0),
        (&gone, 0, 0, 0, 1),
    ] {
        for (word, expected) in [
            ("never", never),
            ("widen", widen),
            ("narrow", narrow),
            ("any", any),
        ] {
            assert_eq!(code(flow, word), Some(expected), "--fail-on {word}: {flow}");
        }
    }
    let plain = r#"{"id":"a","src":"shop/browser","dst":"shop/cart","port":1,"protocol":"tcp"}"#;
    assert_eq!(
        code(plain, "never"),
        Some(2),
        "no verdict that could change"
    );
    assert_eq!(code("{\"colour\":1}", "never"), Some(2), "not a flow");
}
