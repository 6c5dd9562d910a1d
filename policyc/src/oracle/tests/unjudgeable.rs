//! What is missing or contradictory is said, never guessed.

use serde_json::json;

use super::{bytes, cluster, get, judged, policy, refused_to_judge, request};
use crate::{
    oracle::{Options, Unjudgeable, evaluate},
    request::Expected,
};

#[track_caller]
fn is_refused(policies: &[String], fields: serde_json::Value, wanted: fn(&Unjudgeable) -> bool) {
    let why = refused_to_judge(policies, &request(fields));
    assert!(wanted(&why), "another reason was expected than: {why}");
}

#[test]
fn names() {
    is_refused(&[], json!({"src": "shop/nobody"}), |why| {
        matches!(why, Unjudgeable::UnknownSource(_))
    });
    is_refused(&[], json!({"dst": "shop/nobody"}), |why| {
        matches!(why, Unjudgeable::UnknownDestination(_))
    });
    for bad in ["cart", "/cart", "shop/", "a/b/c", ""] {
        for fields in [json!({"dst": bad}), json!({"src": {"sa": bad}})] {
            is_refused(&[], fields, |why| {
                matches!(why, Unjudgeable::MalformedName(_))
            });
        }
    }
}

#[test]
fn contradictions() {
    let two = json!({"src": {"ip": "192.0.2.1"}, "src_ip": "192.0.2.2"});
    is_refused(&[], two, |why| *why == Unjudgeable::TwoAddresses);
    let nobody = json!({"src": {"ip": "192.0.2.1"}, "src_trust_domain": "x"});
    is_refused(&[], nobody, |why| {
        *why == Unjudgeable::TrustDomainWithoutIdentity
    });
    for bad in ["", "a/b"] {
        let fields = json!({"src_trust_domain": bad});
        is_refused(&[], fields, |why| *why == Unjudgeable::MalformedTrustDomain);
    }
    let http = json!({"http": {"method": "GET", "path": "/"}});
    is_refused(&[], http, |why| *why == Unjudgeable::HttpOnOtherProtocol);
    let hosts = json!({"port": 8080, "protocol": "http", "http": {
        "method": "GET", "path": "/", "host": "a", "headers": {"Host": "b"},
    }});
    is_refused(&[], hosts, |why| *why == Unjudgeable::TwoHosts);
}

#[test]
fn a_request_without_http_where_requests_are_judged() {
    let on_http = json!({"port": 8080, "protocol": "http"});
    is_refused(&[], on_http, |why| *why == Unjudgeable::NoHttp(8080));
    let on_tcp = judged(&[], &request(json!({"protocol": "http"})));
    assert_eq!(
        on_tcp.verdict,
        Expected::Allow,
        "a port declared tcp needs no `http`"
    );
}

#[test]
fn addresses_that_rules_ask_for() {
    let by_ip = [policy(
        "p",
        "rules: [{from: [{source: {notIpBlocks: [10.0.0.0/8]}}]}]",
    )];
    let without = json!({"src": {"sa": "shop/browser"}});
    is_refused(&by_ip, without.clone(), |why| {
        matches!(why, Unjudgeable::NoSourceAddress { rule: 0, .. })
    });
    let given = request(json!({"src": {"sa": "shop/browser"}, "src_ip": "192.0.2.1"}));
    assert_eq!(
        judged(&by_ip, &given).verdict,
        Expected::Allow,
        "an address given is enough"
    );
    let by_name = [policy(
        "p",
        "rules: [{from: [{source: {namespaces: [shop]}}]}]",
    )];
    assert_eq!(
        judged(&by_name, &request(without)).verdict,
        Expected::Allow,
        "where no rule asks for it no address is needed"
    );
    let condition = "rules: [{when: [{key: destination.ip, values: [10.0.0.0/8]}]}]";
    let by_destination = [policy("p", condition)];
    is_refused(&by_destination, json!({"dst": "shop/pending"}), |why| {
        matches!(why, Unjudgeable::NoDestinationAddress { rule: 0, .. })
    });
    assert_eq!(judged(&by_destination, &bytes()).verdict, Expected::Allow);
}

#[test]
fn answers_of_authorizers() {
    let rules = "rules: [{to: [{operation: {paths: [/x]}}]}]";
    let custom = [policy(
        "c",
        &format!("action: CUSTOM, provider: {{name: grpc}}, {rules}"),
    )];
    let why = refused_to_judge(&custom, &get("/x"));
    assert!(
        matches!(why, Unjudgeable::NoAnswer { .. }),
        "no answer is given: {why}"
    );
    assert_eq!(
        judged(&custom, &get("/y")).verdict,
        Expected::Allow,
        "what no CUSTOM rule matches needs no answer"
    );
}

#[test]
fn values_that_no_reader_lets_through() {
    let condition = "rules: [{when: [{key: source.ip, values: [10.0.0.1]}]}]";
    let mut world = cluster(&[policy("p", condition)]);
    let mut judge = |key: &str, value: &str| {
        let rule = &mut world.policies[0].rules.as_mut().unwrap()[0];
        let condition = &mut rule.when.as_mut().unwrap()[0];
        condition.key = key.into();
        condition.values = Some(vec![value.into()]);
        evaluate(&world, &bytes(), &Options::default())
    };
    let port = "destination.port";
    for (key, value) in [
        ("source.ip", "10.0.0"),
        (port, "+80"),
        (port, "65536"),
        (port, ""),
    ] {
        let answer = judge(key, value);
        assert!(
            matches!(answer, Err(Unjudgeable::InvalidValue { .. })),
            "`{value}` is no value of {key}: {answer:?}"
        );
    }
    for key in [
        "destination.labels[app]",
        "request.headers",
        "request.headers[]",
        "source.Ip",
    ] {
        let answer = judge(key, "x");
        assert!(
            matches!(answer, Err(Unjudgeable::UnknownKey { .. })),
            "there is no key `{key}`: {answer:?}"
        );
    }
    assert!(judge(port, "09000").is_ok(), "leading zeros do not matter");
}
