//! The corpus in `lint/`: one YAML file a case, with the lints that it causes in comments at its end.
//! A file whose name ends in `-twin` is the nearest thing that is fine: it causes nothing.

#[path = "support/corpus.rs"]
mod corpus;

use corpus::{Case, found};
use policyc::{
    diagnostic::{self, Diagnostic},
    lint::lint,
    options::CatchAllDeny,
    read::{Loaded, load_str},
};

fn cases() -> Vec<Case> {
    corpus::cases("lint", 40)
}

fn linted(case: &Case, catch_all_deny: CatchAllDeny) -> (Loaded, Vec<Diagnostic>) {
    let (loaded, mut diagnostics) = load_str(&case.name, &case.text, None);
    assert!(
        !diagnostic::any_error(&diagnostics),
        "{}: lints are for what is legal: {diagnostics:?}",
        case.name
    );
    let lints = lint(&loaded, catch_all_deny);
    diagnostics.extend(lints.expect("what was validated can be resolved"));
    (loaded, diagnostics)
}

#[test]
fn each_case_causes_what_it_says() {
    let mut wrong = Vec::new();
    for case in cases() {
        let expected = case.expected();
        let (loaded, diagnostics) = linted(&case, CatchAllDeny::DenyAll);
        let found = found(&diagnostics, &loaded.sources);
        if found != expected {
            wrong.push(format!(
                "{}\n  expected {expected:?}\n  found    {found:?}",
                case.name
            ));
        }
        if case.name.ends_with("-twin.yaml") != expected.is_empty() {
            wrong.push(format!(
                "{}: twins, and only they, cause nothing",
                case.name
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} cases differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn each_lint_has_a_case() {
    let all: String = cases().into_iter().map(|c| c.text).collect();
    for code in diagnostic::Code::all() {
        let text = code.as_str();
        // P401 is for values that validation lets slip through; none is known.
        if text > "P300" && text != "P401" {
            assert!(
                all.contains(&format!("# expect: {text} ")),
                "{text} has no case"
            );
        }
    }
}

#[test]
fn a_catch_all_deny_read_as_default_deny_shadows_nothing() {
    let cases = cases();
    let case = cases.iter().find(|c| c.name == "never-effective.yaml");
    let (_, diagnostics) = linted(case.expect("the case"), CatchAllDeny::DefaultDeny);
    let codes: Vec<_> = diagnostics.iter().map(|d| d.code).collect();
    assert!(
        !codes.contains(&diagnostic::Code::NeverEffectiveAllow),
        "{codes:?}"
    );
}

#[test]
fn what_people_see() {
    let mut text = String::new();
    for case in cases() {
        let (loaded, diagnostics) = linted(&case, CatchAllDeny::DenyAll);
        text += &diagnostic::human(&diagnostics, &loaded.sources, false);
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_provider_is_looked_up_in_the_mesh() {
    let policy = |name: &str, provider: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: \
             {name}}}\nspec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]}}\n"
        )
    };
    let mesh = "extensionProviders:
- {name: opa, envoyExtAuthzGrpc: {service: opa, port: 9191}}
- {name: oauth, envoyExtAuthzHttp: {service: oauth, port: 80}}
- {name: traces, zipkin: {service: z, port: 9411}}
";
    let messages = |text: &str| -> Vec<String> {
        let (loaded, found) = load_str("a.yaml", text, Some(mesh));
        assert!(found.is_empty(), "{found:?}");
        let lints = lint(&loaded, CatchAllDeny::DenyAll).expect("it resolves");
        lints.into_iter().map(|d| d.message).collect()
    };
    assert_eq!(
        messages(&policy("a", "opa")),
        Vec::<String>::new(),
        "a known authorizer"
    );
    assert!(messages(&policy("a", "traces"))[0].contains("is not an authorizer"));
    assert!(messages(&policy("a", "opaa"))[0].contains("is not among"));
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: web}\n";
    let two = policy("a", "opa") + &policy("b", "oauth");
    assert_eq!(
        messages(&two),
        Vec::<String>::new(),
        "without a workload they never meet"
    );
    assert!(messages(&(two + pod))[0].contains("two providers"));
}

/// Of many policies the lints run in several threads.
#[test]
fn many_policies_are_told_of_as_each_alone() {
    let world = |namespaces: usize| -> String {
        let one = |n: usize| {
            format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: ns-{n}}}\n\
                 spec: {{selector: {{matchLabels: {{app: nobody}}}}, rules: [{{from: [{{source: {{principals: [cluster.local/ns/ns-{n}/sa/who]}}}}]}}, {{}}, {{}}]}}\n---\n\
                 apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: ns-{n}}}\nspec: {{template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c}}]}}}}}}\n---\n"
            )
        };
        (0..namespaces).map(one).collect()
    };
    let found = |namespaces: usize| {
        let (loaded, found) = load_str("a.yaml", &world(namespaces), None);
        assert_eq!(found, [], "the manifests are good");
        lint(&loaded, CatchAllDeny::DenyAll).expect("the policies resolve")
    };
    let codes = |found: &[policyc::diagnostic::Diagnostic]| {
        let mut counts = std::collections::BTreeMap::<_, usize>::new();
        for diagnostic in found {
            *counts.entry(diagnostic.code).or_default() += 1;
        }
        counts
    };
    let alone = codes(&found(1));
    assert!(
        alone.len() >= 2,
        "several lints have something to say: {alone:?}"
    );
    let many = found(600);
    let times: std::collections::BTreeMap<_, _> = alone
        .into_iter()
        .map(|(code, count)| (code, count * 600))
        .collect();
    assert_eq!(codes(&many), times);
    assert_eq!(many, found(600), "and in the same order each time");
}
