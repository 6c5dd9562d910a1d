//! Where a verdict falls: at L4 only if nothing that a client may say could change it.

use serde_json::json;

use super::{authentication, bytes, get, judged, policy, request};
use crate::request::{
    Authorizer, Cause,
    Expected::{self, Allow, Deny},
    Layer::{self, L4, L7},
    Request,
};

#[track_caller]
fn falls(policies: &[String], request: &Request, verdict: Expected, layer: Layer, why: &str) {
    let judgement = judged(policies, request);
    assert_eq!(
        (judgement.verdict, judgement.layer),
        (verdict, layer),
        "{why}"
    );
}

#[test]
fn nothing_applies() {
    falls(
        &[],
        &get("/"),
        Allow,
        L4,
        "no policy: nothing can change the verdict",
    );
}

#[test]
fn facts_of_the_connection_decide_at_l4() {
    let by_source = [policy(
        "p",
        "rules: [{from: [{source: {namespaces: [shop]}}]}]",
    )];
    falls(
        &by_source,
        &get("/"),
        Allow,
        L4,
        "who asks is known without reading",
    );
    let stranger = request(json!({"src": {"ip": "192.0.2.1"}}));
    falls(
        &by_source,
        &stranger,
        Deny,
        L4,
        "so is that nobody known asks",
    );
}

#[test]
fn facts_of_the_request_decide_at_l7() {
    let by_path = [policy("p", "rules: [{to: [{operation: {paths: [/x]}}]}]")];
    falls(&by_path, &get("/x"), Allow, L7, "the path must be read");
    falls(&by_path, &get("/y"), Deny, L7, "also to refuse it");
    falls(
        &by_path,
        &bytes(),
        Deny,
        L4,
        "on a tcp port the rule is void whatever comes",
    );
}

#[test]
fn a_certain_source_leaves_the_path_unread() {
    let both = [policy(
        "p",
        "rules: [{from: [{source: {namespaces: [bank]}}], to: [{operation: {paths: [/x]}}]}]",
    )];
    falls(
        &both,
        &get("/x"),
        Deny,
        L4,
        "the source alone fails the rule",
    );
}

#[test]
fn bytes_and_http_must_agree() {
    // As HTTP the DENY rule asks for a path; as bytes it denies everything.
    let deny = [policy(
        "p",
        "action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]",
    )];
    falls(
        &deny,
        &get("/y"),
        Allow,
        L7,
        "bytes on the same port would be denied",
    );
    falls(
        &deny,
        &bytes(),
        Deny,
        L4,
        "a port declared tcp is judged as bytes alone",
    );
    let undeclared = request(json!({"port": 7000}));
    falls(
        &deny,
        &undeclared,
        Deny,
        L7,
        "HTTP on an undeclared port could be allowed",
    );
}

#[test]
fn the_server_name_is_not_known_at_l4() {
    let sni = "when: [{key: connection.sni, values: [a]}]";
    let by_name = [policy("p", &format!("rules: [{{{sni}}}]"))];
    let tls = request(json!({"protocol": "tls", "sni": "a"}));
    falls(&by_name, &tls, Allow, L7, "the first record must be read");
    falls(&by_name, &bytes(), Deny, L7, "also where none is sent");
    let rule = format!("rules: [{{from: [{{source: {{namespaces: [bank]}}}}], {sni}}}]");
    falls(
        &[policy("p", &rule)],
        &tls,
        Deny,
        L4,
        "the source fails first",
    );
}

#[test]
fn tokens_leave_no_allow_at_l4() {
    let allow = [authentication(), policy("p", "rules: [{}]")];
    falls(&allow, &get("/"), Allow, L7, "a bad token would be refused");
    falls(&allow, &bytes(), Allow, L4, "a tcp port carries no tokens");
    let deny = [authentication(), policy("p", "action: DENY, rules: [{}]")];
    falls(&deny, &get("/"), Deny, L4, "a certain deny stays one");
}

#[test]
fn claims_are_known_to_be_missing_without_a_request_authentication() {
    let claims = policy(
        "p",
        "rules: [{from: [{source: {requestPrincipals: [\"*\"]}}]}]",
    );
    falls(
        std::slice::from_ref(&claims),
        &get("/"),
        Deny,
        L4,
        "no token can help",
    );
    falls(
        &[authentication(), claims],
        &get("/"),
        Deny,
        L7,
        "a token could help",
    );
}

#[test]
fn the_client_address_is_a_header_on_http_alone() {
    let remote = [policy(
        "p",
        "rules: [{from: [{source: {remoteIpBlocks: [10.1.0.0/16]}}]}]",
    )];
    falls(
        &remote,
        &get("/"),
        Allow,
        L7,
        "X-Forwarded-For could say otherwise",
    );
    falls(&remote, &bytes(), Allow, L4, "on bytes it is the TCP peer");
}

#[test]
fn an_authorizer_is_asked_above_l4() {
    let custom = |provider: &str| {
        let spec = format!("action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]");
        [policy("c", &spec)]
    };
    let mut asked = get("/");
    asked.ext_authz = Some([("grpc".to_owned(), Authorizer::Allow)].into());
    falls(
        &custom("grpc"),
        &asked,
        Allow,
        L7,
        "the answer is not known before",
    );
    falls(&custom("nobody"), &asked, Deny, L4, "nobody can be asked");
    falls(
        &custom("http"),
        &bytes(),
        Allow,
        L4,
        "an HTTP authorizer is not asked about bytes",
    );
}

#[test]
fn a_malformed_request_counts_only_where_it_is_read() {
    let unread = judged(&[], &get("no-slash"));
    assert_eq!(
        (unread.verdict, unread.reason),
        (Allow, Cause::NoAllowPolicy),
        "nobody reads the request"
    );
    let by_method = [policy(
        "p",
        "rules: [{to: [{operation: {methods: [GET]}}]}]",
    )];
    let read = judged(&by_method, &get("no-slash"));
    assert_eq!(
        (read.verdict, read.layer, read.reason),
        (Deny, L7, Cause::BadRequest),
        "whoever reads it answers 400"
    );
}
