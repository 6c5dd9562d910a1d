//! Every verdict names its cause: the deciding stage, and the lowest rule that matched in it.

use serde_json::json;

use super::{authentication, bytes, dry_run, get, judged, judged_with_default, policy, request};
use crate::request::{Authorizer, Cause, Expected, Judgement, Request};

const GET: &str = "to: [{operation: {methods: [GET]}}]";

#[track_caller]
fn is_due_to(judgement: &Judgement, cause: Cause, named: Option<(&str, u32)>) {
    let got = judgement.policy.as_deref().zip(judgement.rule);
    let verdict = judgement.verdict;
    assert_eq!(
        (judgement.reason, got),
        (cause, named),
        "{verdict:?} names the wrong cause"
    );
}

fn answering(mut request: Request, answer: Authorizer) -> Request {
    request.ext_authz = Some([("grpc".to_owned(), answer)].into());
    request
}

#[test]
fn the_lowest_rule_is_named() {
    let path = "{to: [{operation: {paths: [/x]}}]}";
    let policies = [
        policy("b", &format!("rules: [{path}]")),
        policy("a", &format!("rules: [{path}, {{{GET}}}]")),
    ];
    is_due_to(
        &judged(&policies, &get("/")),
        Cause::AllowRule,
        Some(("shop/a", 1)),
    );
    is_due_to(
        &judged(&policies, &get("/x")),
        Cause::AllowRule,
        Some(("shop/a", 0)),
    );
}

#[test]
fn at_l4_the_lowest_certain_rule_is_named() {
    let path = "{to: [{operation: {paths: [/x]}}]}";
    let policies = [
        policy("b", "rules: [{}]"),
        policy("a", &format!("rules: [{path}, {{{GET}}}, {{}}]")),
    ];
    for request in [get("/x"), bytes()] {
        is_due_to(
            &judged(&policies, &request),
            Cause::AllowRule,
            Some(("shop/a", 2)),
        );
    }
}

#[test]
fn namespaces_come_before_names() {
    let root = policy("z", "action: DENY, rules: [{}]").replace("shop", "istio-system");
    let policies = [policy("a", "action: DENY, rules: [{}]"), root];
    is_due_to(
        &judged(&policies, &bytes()),
        Cause::DenyRule,
        Some(("istio-system/z", 0)),
    );
}

#[test]
fn what_is_left_over_names_nothing() {
    is_due_to(&judged(&[], &bytes()), Cause::NoAllowPolicy, None);
    is_due_to(
        &judged(&[policy("p", "")], &bytes()),
        Cause::NoAllowMatched,
        None,
    );
}

#[test]
fn stages_in_their_order() {
    let policies = [
        policy("c", "action: CUSTOM, provider: {name: grpc}, rules: [{}]"),
        policy("d", &format!("action: DENY, rules: [{{{GET}}}]")),
        policy("a", "rules: [{}]"),
        authentication(),
    ];
    let refused = judged(&policies, &answering(get("/"), Authorizer::Deny));
    is_due_to(&refused, Cause::CustomDenied, Some(("shop/c", 0)));
    let failed = judged(&policies, &answering(get("/"), Authorizer::Error));
    is_due_to(&failed, Cause::CustomError, Some(("shop/c", 0)));
    let bad_token = answering(get("/?access_token=bad"), Authorizer::Allow);
    is_due_to(&judged(&policies, &bad_token), Cause::JwtInvalid, None);
    let denied = judged(&policies, &answering(get("/"), Authorizer::Allow));
    is_due_to(&denied, Cause::DenyRule, Some(("shop/d", 0)));
    let mut put = answering(get("/"), Authorizer::Allow);
    put.http.as_mut().unwrap().method = "PUT".into();
    is_due_to(
        &judged(&policies, &put),
        Cause::AllowRule,
        Some(("shop/a", 0)),
    );
}

#[test]
fn a_provider_that_cannot_be_asked() {
    let nobody = [policy(
        "c",
        "action: CUSTOM, provider: {name: nobody}, rules: [{}]",
    )];
    is_due_to(
        &judged(&nobody, &bytes()),
        Cause::CustomUnresolved,
        Some(("shop/c", 0)),
    );
}

#[test]
fn recorded_hits_are_all_that_match() {
    let other_path = "{to: [{operation: {paths: [/no]}}]}";
    let other_port = "{to: [{operation: {ports: [\"1\"]}}]}";
    let policies = [
        policy(
            "log",
            &format!("action: AUDIT, rules: [{{{GET}}}, {{}}, {other_path}]"),
        ),
        dry_run("try-allow", "rules: [{}]"),
        dry_run(
            "try-deny",
            &format!("action: DENY, rules: [{other_port}, {{{GET}}}]"),
        ),
        policy("p", "action: DENY, rules: [{}]"),
    ];
    let judgement = judged(&policies, &get("/"));
    assert_eq!(
        judgement.verdict,
        Expected::Deny,
        "hits are recorded of what is denied too"
    );
    let audit: Vec<_> = judgement
        .audit
        .iter()
        .map(|h| (h.policy.as_str(), h.rule))
        .collect();
    assert_eq!(audit, [("shop/log", 0), ("shop/log", 1)]);
    let hits = judgement.dry_run.iter();
    let dry: Vec<_> = hits
        .map(|h| (h.policy.as_str(), h.rule, h.action.as_str()))
        .collect();
    assert_eq!(
        dry,
        [("shop/try-allow", 0, "ALLOW"), ("shop/try-deny", 1, "DENY")]
    );
}

#[test]
fn a_catch_all_deny_as_the_default() {
    let other_port = "{to: [{operation: {ports: [\"1\"]}}]}";
    let catch_all = policy("d", &format!("action: DENY, rules: [{other_port}, {{}}]"));
    let alone = std::slice::from_ref(&catch_all);
    is_due_to(
        &judged_with_default(alone, &bytes()),
        Cause::DefaultDeny,
        Some(("shop/d", 1)),
    );
    is_due_to(
        &judged(alone, &bytes()),
        Cause::DenyRule,
        Some(("shop/d", 1)),
    );
    let allow = policy("a", "rules: [{from: [{source: {namespaces: [shop]}}]}]");
    let both = [catch_all, allow];
    is_due_to(
        &judged_with_default(&both, &bytes()),
        Cause::AllowRule,
        Some(("shop/a", 0)),
    );
    let stranger = request(json!({"src": {"ip": "192.0.2.1"}}));
    let denied = judged_with_default(&both, &stranger);
    is_due_to(&denied, Cause::DefaultDeny, Some(("shop/d", 1)));
}
