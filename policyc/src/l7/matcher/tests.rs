//! Each atom beside a request for which it does not hold.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::request::{HeaderValues, Http};

fn http(value: serde_json::Value) -> Http {
    serde_json::from_value(value).expect("a request")
}

fn holds(atom: Atom, http: &Http) -> bool {
    holds_from(atom, http, None)
}

fn holds_from(atom: Atom, http: &Http, peer: Option<&str>) -> bool {
    let request = HttpRequest::from_json(http, 0);
    let facts = Facts {
        connection: Connection {
            peer: peer.map(|ip| ip.parse().expect("an address")),
            sni: None,
        },
        http: Some(HttpFacts {
            request: &request,
            forwarded_for: 1,
            path: &http.path,
            target: http.path.as_str().into(),
            host: http.host.as_deref().map(|h| h.to_ascii_lowercase().into()),
            claims: http.claims.as_ref(),
            space_delimited: &[],
            removed: &[],
            added: &[],
        }),
    };
    Test::new(&atom)
        .expect("an atom about requests")
        .holds(&facts)
}

fn get() -> Http {
    http(json!({"method": "GET", "path": "/a", "host": "Shop.example"}))
}

fn header(name: &str, value: &str) -> Atom {
    Atom::Header {
        name: name.into(),
        value: Pattern::parse(value),
    }
}

fn principal(issuer: &str, subject: &str) -> Atom {
    Atom::RequestPrincipal {
        issuer: Pattern::parse(issuer),
        subject: Pattern::parse(subject),
    }
}

fn claim(path: &[&str], value: &str) -> Atom {
    Atom::Claim {
        path: path.iter().map(|s| (*s).into()).collect(),
        value: Pattern::parse(value),
    }
}

#[test]
fn methods_keep_their_case_and_hosts_do_not() {
    assert!(holds(Atom::Method(Pattern::parse("G*")), &get()));
    assert!(!holds(Atom::Method(Pattern::parse("get")), &get()));
    assert!(holds(Atom::Host(Pattern::parse("sHOP.example")), &get()));
    assert!(holds(Atom::Host(Pattern::parse("*.EXAMPLE")), &get()));
    let with_port = http(json!({"method": "GET", "path": "/", "host": "shop.example:80"}));
    assert!(!holds(
        Atom::Host(Pattern::parse("shop.example")),
        &with_port
    ));
    assert!(holds(
        Atom::Host(Pattern::parse("shop.example:*")),
        &with_port
    ));
}

#[test]
fn presence_accepts_the_empty_value_of_headers_methods_and_hosts_only() {
    let empty = http(
        json!({"method": "", "path": "/", "host": "", "headers": {"x": ""},
        "claims": {"iss": "i", "sub": "", "c": ""}}),
    );
    assert!(holds(Atom::Method(Pattern::Present), &empty));
    assert!(holds(Atom::Host(Pattern::Present), &empty));
    assert!(holds(header("x", "*"), &empty));
    assert!(!holds(header("y", "*"), &empty), "absent is not present");
    assert!(!holds(claim(&["c"], "*"), &empty));
    assert!(!holds(principal("*", "*"), &empty));
    let hostless = http(json!({"method": "GET", "path": "/"}));
    assert!(!holds(Atom::Host(Pattern::Present), &hostless));
}

#[test]
fn each_header_line_is_asked_by_itself() {
    let mut request = get();
    let lines = HeaderValues::Many(vec!["a".into(), "b,c".into()]);
    request.headers = BTreeMap::from([("X-Role".into(), lines)]);
    assert!(holds(header("x-role", "a"), &request));
    assert!(holds(header("x-role", "b,c"), &request));
    assert!(!holds(header("x-role", "c"), &request));
    assert!(!holds(header("x-role", "a,b,c"), &request));
}

#[test]
fn the_lines_of_a_well_known_header_are_one_value() {
    let mut request = get();
    let lines = HeaderValues::Many(vec!["a".into(), String::new(), "b".into()]);
    request.headers = BTreeMap::from([("Accept".into(), lines)]);
    assert!(holds(header("accept", "a,b"), &request));
    assert!(!holds(header("accept", "a"), &request));
    assert!(!holds(header("accept", "b"), &request));
}

#[test]
fn pseudo_headers() {
    let request = http(json!({"method": "GET", "path": "/a?x", "host": "H"}));
    assert!(holds(header(":path", "/a?x"), &request));
    assert!(!holds(header(":path", "/a"), &request));
    assert!(holds(header(":authority", "H"), &request));
    assert!(!holds(header(":authority", "h"), &request));
    assert!(holds(header("host", "H"), &request));
    assert!(holds(header(":method", "GET"), &request));
    assert!(holds(header(":scheme", "http"), &request));
}

#[test]
fn claims_are_strings_lists_and_nested_objects() {
    let request = http(json!({"method": "GET", "path": "/", "claims": {
        "iss": "i/x", "sub": "s", "aud": ["a", 7, "b"], "n": 5, "scope": "read write",
        "realm": {"roles": ["admin"], "scope": "x y"}, "other": "p q"}}));
    assert!(holds(claim(&["aud"], "b"), &request));
    assert!(!holds(claim(&["aud"], "7"), &request));
    assert!(!holds(claim(&["n"], "5"), &request));
    assert!(!holds(claim(&["n"], "*"), &request));
    assert!(holds(claim(&["realm", "roles"], "adm*"), &request));
    assert!(!holds(claim(&["realm"], "*"), &request));
    assert!(
        !holds(claim(&["aud", "a"], "*"), &request),
        "lists have no keys"
    );
    assert!(holds(claim(&["scope"], "write"), &request));
    assert!(!holds(claim(&["scope"], "read write"), &request));
    assert!(!holds(claim(&["realm", "scope"], "y"), &request));
    assert!(!holds(claim(&["other"], "q"), &request));
    assert!(holds(principal("i/x", "s"), &request));
    assert!(holds(principal("*", "*"), &request));
    assert!(!holds(principal("i", "s"), &request));
}

#[test]
fn both_halves_of_a_request_principal_must_be_there() {
    let no_sub = http(json!({"method": "GET", "path": "/", "claims": {"iss": "i"}}));
    assert!(!holds(principal("*", "*"), &no_sub));
    assert!(!holds(principal("i", ""), &no_sub));
    let empty_sub = http(json!({"method": "GET", "path": "/", "claims": {"iss": "i", "sub": ""}}));
    assert!(holds(principal("i", ""), &empty_sub));
    let list = http(json!({"method": "GET", "path": "/", "claims": {"iss": ["i"], "sub": "s"}}));
    assert!(!holds(principal("*", "*"), &list));
}

#[test]
fn the_remote_address_is_the_rightmost_forwarded_one() {
    let net = |s: &str| Atom::RemoteIp(s.parse().expect("a block"));
    let peer = Some("10.0.0.9");
    assert!(holds_from(net("10.0.0.0/24"), &get(), peer));
    let mut request = get();
    let lines = HeaderValues::Many(vec!["9.9.9.9".into(), "1.1.1.1, 2.2.2.2 ".into()]);
    request.headers = BTreeMap::from([("x-forwarded-for".into(), lines)]);
    assert!(holds_from(net("2.2.2.2/32"), &request, peer));
    assert!(!holds_from(net("1.1.1.1/32"), &request, peer));
    assert!(!holds_from(net("10.0.0.0/24"), &request, peer));
    let source = Atom::SourceIp("10.0.0.0/24".parse().expect("a block"));
    assert!(
        holds_from(source, &request, peer),
        "the peer stays the peer"
    );
    let lines = HeaderValues::Many(vec!["junk".into(), "2.2.2.2".into(), String::new()]);
    request.headers = BTreeMap::from([("x-forwarded-for".into(), lines)]);
    assert!(
        holds_from(net("2.2.2.2/32"), &request, peer),
        "an empty line adds no element"
    );
    let garbage = HeaderValues::One("1.1.1.1, unknown".into());
    request.headers = BTreeMap::from([("x-forwarded-for".into(), garbage)]);
    assert!(holds_from(net("10.0.0.0/24"), &request, peer));
    assert!(
        !holds_from(net("::/0"), &request, peer),
        "families never mix"
    );
}

#[test]
fn nothing_is_ever_true_of_metadata_and_nothing_here_knows_identities() {
    assert!(!holds(Atom::Never, &get()));
    assert!(Test::new(&Atom::Namespace("a".into())).is_none());
    assert!(Test::new(&Atom::DestinationPort(80)).is_none());
}
