//! `policyc explain` as a user runs it: the fields that failed, the notes, the arguments.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name)
}

/// Explains a request to the port that comes first among the arguments.
fn explain(name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_policyc"));
    command.arg("explain");
    for file in ["policies.yaml", "cluster.yaml"] {
        command.arg("-f").arg(case(name).join(file));
    }
    if !arguments.contains(&"--to") {
        command.args(["--to", "shop/cart"]);
    }
    let mesh = case(name).join("mesh.yaml");
    if mesh.exists() {
        command.arg("--mesh").arg(mesh);
    }
    command
        .arg("--port")
        .args(arguments)
        .output()
        .expect("policyc should start")
}

fn text(name: &str, arguments: &[&str]) -> String {
    let output = explain(name, arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into()
}

#[track_caller]
fn says(name: &str, arguments: &[&str], expected: &[&str]) {
    let text = text(name, arguments);
    for line in expected {
        assert!(text.contains(line), "`{line}` should be said:\n{text}");
    }
}

const HTTP: &[&str] = &["8080", "--from", "shop/browser"];

fn http<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [HTTP, more].concat()
}

#[test]
fn the_first_field_that_failed_is_named_with_what_there_was() {
    says(
        "allow-and-deny-rules-together",
        &http(&["--method", "GET", "--path", "/z"]),
        &[
            "nearest ALLOW: shop/a rule 0\n    wants path /x*; the request has /z\n",
            "(redirect) does not match:\n      wants method POST; the request has GET\n",
            "(port 8080, http)",
        ],
    );
    says(
        "ip-blocks",
        &["9000", "--from", "10.9.9.9"],
        &["the source has 10.9.9.9", "(exact) does not match"],
    );
}

#[test]
fn a_refused_token_is_told_and_hides_no_other_field() {
    let wrong = [
        "--header",
        "authorization=Bearer x",
        "--header",
        "x-user=bob",
    ];
    says(
        "jwt-output-headers",
        &http(&wrong),
        &[
            "the request: Jwt is not in the form of Header.Payload.Signature",
            "wants request.headers[x-user] ann; the request has bob",
        ],
    );
    let expired = "eyJhbGciOiAiSFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAiaWRwIiwgInN1YiI6ICJhbm4iLCAiZXhwIjogMX0.AAAA";
    let header = format!("authorization=Bearer {expired}");
    let at = |now| http(&["--header", &header, "--now", now]).join("\u{0}");
    let with = |now| {
        let arguments = at(now);
        text("jwt-types", &arguments.split('\u{0}').collect::<Vec<_>>())
    };
    assert!(with("2026-01-01T00:00:00Z").contains("the request: Jwt is expired"));
    assert!(
        with("1970-01-01T00:00:00Z").contains("the request: Jwt verification fails"),
        "the time is an input"
    );
}

#[test]
fn fields_of_http_on_bytes_are_told() {
    let tcp = ["9000", "--from", "bank/teller"];
    says(
        "http-fields-on-tcp-deny",
        &tcp,
        &[
            "(widened-deny) matches\n      judged as TCP, without its HTTP fields (",
            "(port 9000, tcp)",
        ],
    );
    says(
        "http-fields-on-tcp-allow",
        &["9000", "--from", "shop/browser"],
        &[
            "(never-matches) does not match:\n      asks for HTTP (method), and the connection is judged as TCP\n",
        ],
    );
}

#[test]
fn authorizers_answer_as_told_and_see_the_request_before_its_tokens() {
    let with = |answer: &'static str| http(&["--path", "/a", "--ext-authz", answer]);
    let bank = |answer| {
        let mut arguments = with(answer);
        arguments[2] = "bank/teller";
        arguments
    };
    says(
        "deny-at-l4-asks-nobody",
        &bank("ext=allow"),
        &["allow, decided in userspace"],
    );
    says(
        "deny-at-l4-asks-nobody",
        &bank("ext=deny"),
        &["the authorizer refused (shop/x rule 0)"],
    );
    let output = explain("deny-at-l4-asks-nobody", &bank("ext=maybe"));
    assert_eq!(output.status.code(), Some(2), "there are three answers");
    let output = explain(
        "deny-at-l4-asks-nobody",
        &["8080", "--from", "bank/teller", "--path", "/a"],
    );
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("`--ext-authz` has no answer of provider `ext`"),
        "the argument is named: {error}"
    );
}

#[test]
fn missing_facts_are_named_as_arguments() {
    let output = explain("ip-blocks", &["9000", "--from", "sa:shop/browser"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("give `--from-ip`"), "{error}");
}

#[test]
fn the_wire_and_the_trust_domain_can_be_given() {
    let foreign = ["--src-trust-domain", "old-a"];
    says(
        "trust-domain-wildcard-alias",
        &http(&foreign),
        &["allow, decided in the kernel"],
    );
    says(
        "when-scheme",
        &http(&["--protocol", "http"]),
        &["allow, decided in userspace"],
    );
    says(
        "when-scheme",
        &http(&["--protocol", "tls"]),
        &["and the connection is judged as TCP"],
    );
}

#[test]
fn an_authorizer_that_speaks_http_is_not_asked_about_bytes() {
    says(
        "custom-on-bytes",
        &["9000", "--from", "bank/teller", "--to", "shop/browser"],
        &[
            "shop/h (CUSTOM)",
            "its provider speaks HTTP, and is not asked about TCP",
        ],
    );
}

#[test]
fn a_catch_all_deny_that_is_the_default_matches_nothing_itself() {
    says(
        "tutorial-3-deny-all-plus-allow",
        &[
            "80",
            "--from",
            "default/frontend",
            "--to",
            "default/backend",
            "--method",
            "GET",
            "--path",
            "/api/v1/data",
            "--catch-all-deny",
            "default-deny",
        ],
        &["is the workload's default, and matches nothing by itself"],
    );
}

#[test]
fn a_rule_that_audits_matches() {
    says(
        "audit-beside-a-refused-token",
        &http(&["--header", "authorization=Bearer x"]),
        &[
            "shop/log (AUDIT)\n    rule 0 at",
            "(redirect) matches\n",
            "audited by shop/log rule 0",
        ],
    );
}
