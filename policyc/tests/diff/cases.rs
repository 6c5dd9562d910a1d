//! Small changes, and the very words that are told of them.

use std::collections::BTreeMap;

use policyc::{
    compile::compile,
    diff::{self, Diff, Kind, Outcome, markdown, text},
    options::CatchAllDeny,
    read,
};

const NOW: u64 = 1_767_225_600;

const WORLD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: backend, namespace: default}
spec:
  template:
    metadata: {labels: {app: backend}}
    spec:
      serviceAccountName: backend
      containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}, {name: tcp-db, containerPort: 5432}]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: frontend, namespace: default}
spec:
  template:
    metadata: {labels: {app: frontend}}
    spec: {serviceAccountName: frontend, containers: [{name: c, image: i}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: jobs, namespace: batch}
spec:
  template:
    metadata: {labels: {app: jobs}}
    spec: {serviceAccountName: jobs, containers: [{name: c, image: i}]}
"#;

const MESH: &str = "extensionProviders:\n- {name: authz, envoyExtAuthzGrpc: {service: x.a.svc.cluster.local, port: 9000}}\n";

fn policy(name: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: default}}\nspec:\n  selector: {{matchLabels: {{app: backend}}}}\n{spec}---\n"
    )
}

fn between_with(old: &str, new: &str, meshes: [&str; 2]) -> Diff {
    let sides = [(old, meshes[0]), (new, meshes[1])].map(|(text, mesh)| {
        let (loaded, found) = read::load_str("t.yaml", text, Some(mesh));
        let errors: Vec<_> = found
            .iter()
            .filter(|d| d.severity == policyc::diagnostic::Severity::Error)
            .collect();
        assert!(errors.is_empty(), "{errors:?}\n{text}");
        let program = compile(&loaded, CatchAllDeny::DenyAll, &BTreeMap::new())
            .expect("the manifests have no errors");
        (program, loaded.cluster)
    });
    let side = |i: usize, name| diff::Side {
        name,
        program: &sides[i].0,
        cluster: &sides[i].1,
    };
    diff::diff(&side(0, "old"), &side(1, "new"), NOW).expect("small sides can be compared")
}

fn between(old: &str, new: &str) -> Diff {
    let [old, new] = [old, new].map(|policies| format!("{policies}{WORLD}"));
    between_with(&old, &new, [MESH; 2])
}

/// The lines that begin with a mark, without the requests below them.
fn lines(diff: &Diff) -> Vec<String> {
    let text = text(diff);
    let kept = text.lines().filter(|l| !l.starts_with("      {"));
    kept.map(str::to_owned).collect()
}

#[test]
fn a_new_rule_is_told_by_who_and_what() {
    let old = policy("x", "{}").replace("  {}\n", "");
    let new = policy(
        "x",
        "rules:\n- from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]\n  to: [{operation: {methods: [GET], paths: ['/api/*'], ports: ['8080']}}]",
    );
    let diff = between(&old, &new);
    assert_eq!(
        lines(&diff),
        [
            "default/backend, port 8080",
            "  + default/sa/frontend gains GET /api/*: was ALLOW policies apply, and no rule of theirs matches, now default/x rule 0",
            "differences: 1 let through",
        ]
    );
    assert!(diff.widens && !diff.narrows);
    let one = &diff.differences[0];
    assert_eq!(one.sources.service_accounts, ["default/frontend"]);
    let example = one.example.as_ref().expect("it is certain");
    let http = example.http.as_ref().expect("it is HTTP");
    assert_eq!((http.method.as_str(), http.path.as_str()), ("GET", "/api/"));
}

#[test]
fn names_order_and_form_are_no_difference() {
    let old = policy(
        "x",
        "rules:\n- from: [{source: {principals: [cluster.local/ns/default/sa/frontend, cluster.local/ns/batch/sa/jobs]}}]\n- to: [{operation: {methods: [GET], paths: ['/a']}}]",
    );
    let one = policy(
        "yy",
        "rules:\n- to: [{operation: {paths: ['/a'], methods: [GET]}}]\n- from: [{source: {principals: [cluster.local/ns/batch/sa/jobs]}}, {source: {principals: [cluster.local/ns/default/sa/frontend]}}]",
    );
    assert!(between(&old, &one).is_empty());
    let two = policy(
        "yy",
        "rules:\n- to: [{operation: {paths: ['/a'], methods: [GET]}}]",
    ) + &policy(
        "z",
        "rules:\n- from: [{source: {principals: [cluster.local/ns/batch/sa/jobs]}}]\n- from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]",
    );
    let diff = between(&old, &two);
    assert!(diff.is_empty(), "{}", text(&diff));
    assert_eq!(diff.outcome, Outcome::Same);
    // A rule that another covers adds nothing.
    let covered = policy(
        "yy",
        "rules:\n- to: [{operation: {methods: [GET], paths: ['/a*']}}]\n- to: [{operation: {methods: [GET], paths: ['/a/b', '/a/{*}']}}]",
    );
    let alone = policy(
        "yy",
        "rules:\n- to: [{operation: {methods: [GET], paths: ['/a*']}}]",
    );
    let diff = between(&covered, &alone);
    assert!(diff.is_empty(), "{}", text(&diff));
}

#[test]
fn each_kind_of_thing_is_told_as_its_own() {
    let spec = "to: [{operation: {paths: ['/x'], ports: ['8080']}}]";
    for (action, mark) in [
        (
            "action: AUDIT",
            "~ any method on /x of anyone is recorded by AUDIT rules: now default/x rule 0",
        ),
        (
            "action: CUSTOM\nprovider: {name: authz}",
            "~ authorizer authz is asked about any method on /x of anyone: now default/x rule 0",
        ),
    ] {
        let new = policy("x", &format!("{action}\nrules:\n- {spec}"));
        let told = text(&between("", &new));
        assert!(told.contains(mark), "{told}");
    }
    let dry = policy("x", &format!("action: DENY\nrules:\n- {spec}")).replace(
        "name: x,",
        "name: x, annotations: {istio.io/dry-run: 'true'},",
    );
    let diff = between("", &dry);
    assert!(
        text(&diff).contains("any method on /x of anyone is recorded by dry-run DENY rules"),
        "{}",
        text(&diff)
    );
    assert!(!diff.widens && !diff.narrows);
}

#[test]
fn an_authorizer_with_other_settings_is_told() {
    let custom = policy("x", "action: CUSTOM\nprovider: {name: authz}\nrules: [{}]");
    let text_of = format!("{custom}{WORLD}");
    let open = MESH.replace("port: 9000", "port: 9000, failOpen: true");
    let diff = between_with(&text_of, &text_of, [MESH, &open]);
    assert!(diff.differences.iter().any(|d| d.kind == Kind::Custom));
    assert!(diff.widens, "a failing authorizer lets through now");
}

#[test]
fn tokens_are_told_by_issuer() {
    let authentication = |rules: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: j, namespace: default}}\n\
             spec: {{selector: {{matchLabels: {{app: backend}}}}, jwtRules: [{rules}]}}\n---\n"
        )
    };
    let one = "{issuer: me, jwks: '{\"keys\": []}'}";
    let told = text(&between("", &authentication(one)));
    assert!(
        told.contains("tokens of issuer me are verified: a bad one is refused with 401"),
        "{told}"
    );
    assert!(
        told.contains("every port but 5432"),
        "not where TCP is spoken: {told}"
    );
    let told = text(&between(&authentication(one), ""));
    assert!(
        told.contains("tokens of issuer me are no longer verified"),
        "{told}"
    );
    let other = "{issuer: me, jwks: '{\"keys\": []}', audiences: [a]}";
    let told = text(&between(&authentication(one), &authentication(other)));
    assert!(
        told.contains("tokens of issuer me are verified otherwise (audiences)"),
        "{told}"
    );
    assert!(between(&authentication(one), &authentication(one)).is_empty());
}

#[test]
fn a_workload_that_runs_as_somebody_else_is_told_by_what_it_may_reach() {
    let allow = policy(
        "x",
        "rules:\n- from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]",
    );
    let old = format!("{allow}{WORLD}");
    let new = old.replace("{serviceAccountName: frontend,", "{");
    let diff = between_with(&old, &new, [MESH; 2]);
    assert_eq!(
        lines(&diff),
        [
            "default/backend, every port",
            "  - default/frontend (as default/default, was default/frontend) loses everything: was default/x rule 0, now ALLOW policies apply, and no rule of theirs matches",
            "differences: 1 refused",
        ]
    );
}

#[test]
fn labels_and_protocols_count_by_their_effect() {
    let deny = policy(
        "x",
        "action: DENY\nrules:\n- to: [{operation: {paths: ['/x']}}]",
    );
    let old = format!("{deny}{WORLD}");
    let diff = between_with(
        &old,
        &old.replace("labels: {app: backend}", "labels: {app: other}"),
        [MESH; 2],
    );
    assert!(
        text(&diff).contains("anyone gains any method on /x"),
        "{}",
        text(&diff)
    );
    // On a TCP port the DENY is of everything.
    let diff = between_with(&old, &old.replace("name: http,", "name: tcp,"), [MESH; 2]);
    assert!(
        text(&diff)
            .contains("default/backend, port 8080\n  - anyone loses any method on any path but /x"),
        "{}",
        text(&diff)
    );
}

#[test]
fn what_is_new_or_gone_is_told_apart() {
    let pod = |name: &str, namespace: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: cache, pod-template-hash: '{name}'}}}}\n\
             spec: {{serviceAccountName: cache, containers: [{{name: c, image: i, ports: [{{containerPort: 6379}}]}}]}}\n"
        )
    };
    let old = format!("{WORLD}{}", pod("cache-1", "default"));
    // A pod that another replaced is the same destination.
    let rolled = format!("{WORLD}{}", pod("cache-2", "default"));
    let diff = between_with(&old, &rolled, [MESH; 2]);
    assert!(diff.is_empty(), "{}", text(&diff));
    let gone = between_with(&old, WORLD, [MESH; 2]);
    assert_eq!(gone.removed_destinations[0].names, ["default/cache-1"]);
    assert!(!gone.widens && !gone.narrows);
    let allow = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: c, namespace: default}\n\
         spec: {selector: {matchLabels: {app: cache}}, rules: [{from: [{source: {namespaces: [batch]}}]}]}\n---\n";
    let come = between_with(
        &format!("{allow}{WORLD}"),
        &format!("{allow}{old}"),
        [MESH; 2],
    );
    assert_eq!(
        lines(&come),
        [
            "new destination: default/cache-1 (under default/c)",
            "  namespace batch reaches every port, everything",
            "new source: default/cache-1 (as default/cache, which nobody else ran as)",
            "differences: 1 new destinations",
        ]
    );
}

#[test]
fn addresses_hosts_headers_claims_and_server_names() {
    for (rule, wanted) in [
        (
            "from: [{source: {ipBlocks: ['10.0.0.0/8'], notIpBlocks: ['10.1.0.0/16']}}]",
            "+ anyone from 10.0.0.0/8 but not 10.1.0.0/16 gains everything",
        ),
        (
            "to: [{operation: {hosts: ['*.example.com']}}]",
            "gains HTTP where host is *.example.com",
        ),
        (
            "when: [{key: 'request.headers[x-a]', values: ['1'], notValues: ['2']}]",
            "gains HTTP where request.headers[x-a] is 1, and request.headers[x-a] is not 2",
        ),
        (
            "when: [{key: connection.sni, values: ['*.example.com']}]",
            "gains everything where connection.sni is *.example.com",
        ),
        (
            "from: [{source: {remoteIpBlocks: ['192.0.2.0/24']}}]",
            "gains HTTP where remote.ip is 192.0.2.0/24",
        ),
        (
            "from: [{source: {notNamespaces: [batch]}}]",
            "+ anyone but namespace batch gains everything",
        ),
        (
            "to: [{operation: {notPorts: ['8080']}}]",
            "every port but 8080",
        ),
    ] {
        let never = policy("x", "rules: [{from: [{source: {principals: [nobody]}}]}]");
        let told = text(&between(&never, &policy("x", &format!("rules:\n- {rule}"))));
        assert!(told.contains(wanted), "{rule}\n{told}");
    }
}

#[test]
fn no_value_steers_the_terminal() {
    let never = policy("x", "rules: [{from: [{source: {principals: [nobody]}}]}]");
    let evil = policy(
        "x",
        "rules: [{when: [{key: 'request.headers[x-a]', values: [\"\\x1b[2J\"]}]}]",
    );
    let told = text(&between(&never, &evil));
    assert!(told.contains("\\u{1b}[2J"), "{told}");
    assert!(told.chars().all(|c| c == '\n' || !c.is_control()), "{told}");
}

#[test]
fn a_thousand_rules_are_compared_exactly() {
    let rules = |skip: usize| -> String {
        let one = |i: usize| {
            format!(
                "- to: [{{operation: {{methods: [GET], paths: ['/svc{i}/*', '/svc{i}/{{*}}/x'], notPaths: ['/svc{i}/private*']}}}}]\n"
            )
        };
        let all: String = (0..400).filter(|i| *i != skip).map(one).collect();
        policy("x", &format!("rules:\n{all}"))
    };
    let diff = between(&rules(400), &rules(77));
    assert_eq!(
        lines(&diff),
        [
            "default/backend, every port but 5432",
            "  - anyone loses GET on /svc77/* but not /svc77/private*: was default/x rule 77, now ALLOW policies apply, and no rule of theirs matches",
            "differences: 1 refused",
        ]
    );
    assert!(diff.differences.iter().all(|d| d.certain));
}

#[test]
fn what_cannot_be_decided_may_be() {
    // A thousand lines of one header, each of which a rule asks for: the combinations are too many.
    let rules = |skip: usize| -> String {
        let one = |i: usize| {
            format!(
                "- when: [{{key: 'request.headers[x-a]', values: ['v{i}']}}, {{key: 'request.headers[x-b]', values: ['w{i}']}}]\n"
            )
        };
        let all: String = (0..400).filter(|i| *i != skip).map(one).collect();
        policy("x", &format!("rules:\n{all}"))
    };
    let diff = between(&rules(400), &rules(7));
    assert!(!diff.is_empty());
    assert!(diff.narrows, "it may be refused: {}", text(&diff));
    assert!(
        diff.differences
            .iter()
            .all(|d| d.certain == d.example.is_some()),
        "{}",
        text(&diff)
    );
}

#[test]
fn a_comment_is_folded_and_cannot_be_broken_by_a_value() {
    let rules: String = (0..40)
        .map(|i| format!("- to: [{{operation: {{ports: ['{}']}}}}]\n  when: [{{key: 'request.headers[x-a]', values: ['<b>|`{i}`@team']}}]\n", 1000 + i))
        .collect();
    let comment = markdown(&between(
        &policy("x", "rules: [{from: [{source: {principals: [nobody]}}]}]"),
        &policy("x", &format!("rules:\n{rules}")),
    ));
    assert!(
        comment.contains("<details><summary>Newly let through (40)</summary>"),
        "{comment}"
    );
    let table: String = comment.lines().filter(|l| l.starts_with('|')).collect();
    for raw in ["<b>", ">|", "@team", "|`"] {
        assert!(!table.contains(raw), "{raw} stands as it is");
    }
    assert_eq!(
        comment.matches("<details>").count(),
        comment.matches("</details>").count()
    );
}
