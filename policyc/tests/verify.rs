//! `verify` says yes for every case of the corpus, and no for every small change of a policy.

use std::{collections::BTreeMap, path::Path};

use policyc::{
    compile::compile,
    conformance::Case,
    options::{CatchAllDeny, Options},
    read, resolve,
    verify::{Verified, verify},
};

const POLICY: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: a}
spec:
  selector: {matchLabels: {app: web}}
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/a/sa/web"], notNamespaces: ["c"]}}]
    to: [{operation: {ports: ["8080"], methods: ["GET"], paths: ["/api/*"], notPaths: ["/api/x"]}}]
    when: [{key: "request.headers[x-a]", values: ["1", "2"]}]
  - from: [{source: {ipBlocks: ["10.0.0.0/24"]}}]
    to: [{operation: {ports: ["9000"]}}]
"#;

const WORLD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: a, labels: {app: web}}
spec:
  serviceAccountName: web
  containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}, {name: tcp-x, containerPort: 9000}]}]
status: {podIPs: [{ip: 10.1.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: b, labels: {app: other}}
spec:
  containers: [{name: c, image: i}]
status: {podIPs: [{ip: 10.1.0.2}]}
"#;

/// Compiles `compiled`, and verifies it against `sources`.
fn verified(compiled: &str, sources: &str) -> Verified {
    let load = |policy: &str| {
        let (loaded, found) = read::load_str("t.yaml", &format!("{policy}---{WORLD}"), None);
        let errors: Vec<_> = found
            .iter()
            .filter(|d| d.severity == policyc::diagnostic::Severity::Error)
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
        loaded
    };
    let program = compile(&load(compiled), CatchAllDeny::DenyAll, &BTreeMap::new())
        .expect("the manifests have no errors");
    let options = Options {
        now: 1_767_225_600,
        ..Options::default()
    };
    verify(&program, &load(sources).cluster, &options, &mut |_, _| {})
        .expect("the manifests can be linked")
}

#[test]
fn a_bundle_of_its_own_sources_is_the_same() {
    let verified = verified(POLICY, POLICY);
    println!("{} requests", verified.requests);
    assert!(
        verified.differences.is_empty(),
        "{:#?}",
        verified.differences
    );
    assert!(
        verified.requests > 60,
        "only {} requests were compared",
        verified.requests
    );
}

#[test]
fn every_small_change_is_found() {
    for (from, to) in [
        ("action: ALLOW", "action: DENY"),
        ("action: ALLOW", "action: AUDIT"),
        ("app: web", "app: other"),
        ("sa/web", "sa/web*"),
        ("sa/web", "sa/webb"),
        ("notNamespaces: [\"c\"]", "notNamespaces: [\"a\"]"),
        ("\"8080\"", "\"8081\""),
        ("\"8080\"", "\"8080\", \"8081\""),
        ("\"GET\"", "\"GET\", \"PUT\""),
        ("\"/api/*\"", "\"/api*\""),
        ("\"/api/*\"", "\"*\""),
        ("\"/api/x\"", "\"/api/y\""),
        ("x-a", "x-b"),
        ("\"1\", \"2\"", "\"1\""),
        ("values:", "notValues:"),
        ("10.0.0.0/24", "10.0.0.0/25"),
        ("10.0.0.0/24", "10.0.0.0/23"),
        ("ipBlocks", "notIpBlocks"),
        ("ports: [\"9000\"]", "notPorts: [\"9000\"]"),
    ] {
        let changed = POLICY.replacen(from, to, 1);
        assert_ne!(changed, POLICY, "`{from}` is not in the policy");
        assert!(
            !verified(POLICY, &changed).differences.is_empty(),
            "`{from}` became `{to}`, and verify did not see it"
        );
    }
}

#[test]
fn every_case_of_the_corpus_is_the_same() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")];
    folders.extend(std::env::var_os("CONFORMANCE_DIR").map(Into::into));
    let mut cases = 0;
    for folder in folders {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_dir() {
                continue;
            }
            let case = Case::read(&path).unwrap();
            let nowhere = |_: &policyc::diagnostic::At| (String::new(), 0);
            let options = &case.options;
            let program = resolve::resolve(
                &case.cluster,
                options.catch_all_deny,
                &options.jwks,
                &nowhere,
            )
            .unwrap();
            let verified = verify(&program, &case.cluster, options, &mut |_, _| {}).unwrap();
            assert!(
                verified.differences.is_empty(),
                "{}: {:#?}",
                case.name,
                verified.differences
            );
            cases += 1;
        }
    }
    assert!(cases >= 60, "only {cases} cases were verified");
}
