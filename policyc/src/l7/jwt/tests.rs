//! Tokens signed on the spot, good ones beside bad ones.

use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::json;

use super::*;
use crate::request::Http;

const NOW: u64 = 1_700_000_000;
const SECRET: &[u8] = b"a secret of thirty-two bytes, long";

fn signed(header: &Value, payload: &Value, secret: &[u8]) -> String {
    let part = |v: &Value| BASE64_URL_SAFE_NO_PAD.encode(v.to_string());
    let message = format!("{}.{}", part(header), part(payload));
    let key = EncodingKey::from_secret(secret);
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
    format!("{message}.{}", signature.expect("a signature"))
}

fn token(payload: &Value) -> String {
    signed(&json!({"alg": "HS256", "kid": "k"}), payload, SECRET)
}

fn rule(issuer: &str) -> JwtRule {
    let key = BASE64_URL_SAFE_NO_PAD.encode(SECRET);
    JwtRule {
        issuer: issuer.into(),
        jwks: Some(
            json!({"keys": [{"kty": "oct", "kid": "k", "alg": "HS256", "k": key, "use": "sig"}]})
                .to_string(),
        ),
        ..JwtRule::default()
    }
}

fn authenticator(rules: Vec<JwtRule>) -> Authenticator {
    let program = Program {
        authentications: vec![crate::ir::Authentication {
            namespace: "n".into(),
            name: "a".into(),
            attachment: crate::ir::Attachment::default(),
            jwt_rules: rules,
        }],
        ..Program::default()
    };
    let providers = providers(&program, &KeyRing::default());
    Authenticator::new(providers.iter().map(Vec::as_slice))
}

fn verify(rules: Vec<JwtRule>, headers: &Value, query: &str) -> Result<Verified, Failure> {
    let http = json!({"method": "GET", "path": format!("/{query}"), "headers": headers});
    let http: Http = serde_json::from_value(http).expect("a request");
    authenticator(rules).verify(&HttpRequest::from_json(&http, NOW), query)
}

fn bearer(token: &str) -> Value {
    json!({"Authorization": format!("Bearer {token}")})
}

fn one(payload: &Value) -> Result<Verified, Failure> {
    verify(vec![rule("i")], &bearer(&token(payload)), "")
}

#[test]
fn a_good_token_gives_its_claims_and_no_token_gives_none() {
    let verified = one(&json!({"iss": "i", "sub": "s"})).expect("a good token");
    assert_eq!(
        verified.claims,
        json!({"iss": "i", "sub": "s"}).as_object().cloned()
    );
    assert_eq!(verified.removed_headers, ["authorization"]);
    for nothing in [
        json!({}),
        json!({"authorization": "Basic x"}),
        json!({"authorization": "bearer x"}),
    ] {
        let verified = verify(vec![rule("i")], &nothing, "").expect("no token passes");
        assert_eq!(verified, Verified::default(), "{nothing}");
    }
}

#[test]
fn times_allow_a_minute_and_not_a_second_more() {
    for (payload, expected) in [
        (json!({"iss": "i", "exp": NOW - 60}), Ok(())),
        (json!({"iss": "i", "exp": NOW - 61}), Err(Failure::Expired)),
        (json!({"iss": "i", "nbf": NOW + 60}), Ok(())),
        (
            json!({"iss": "i", "nbf": NOW + 61}),
            Err(Failure::NotYetValid),
        ),
        (json!({"iss": "i", "exp": (NOW as f64) + 0.5}), Ok(())),
        (
            json!({"iss": "i", "exp": -1}),
            Err(Failure::OutOfRange("exp")),
        ),
        (
            json!({"iss": "i", "exp": "1"}),
            Err(Failure::NotAnInteger("exp")),
        ),
        (
            json!({"iss": "i", "iat": true}),
            Err(Failure::NotAnInteger("iat")),
        ),
        (json!({"iss": 1}), Err(Failure::NotAString("iss"))),
        (json!({"iss": "i", "aud": 1}), Err(Failure::AudienceForm)),
        (json!({"iss": "j"}), Err(Failure::UnknownIssuer)),
        (json!({}), Err(Failure::UnknownIssuer)),
    ] {
        assert_eq!(one(&payload).map(|_| ()), expected, "{payload}");
    }
}

#[test]
fn one_listed_audience_is_enough_and_none_is_403() {
    let mut rule = rule("i");
    rule.audiences = vec!["a".into(), "b".into()];
    let ask = |payload: Value| verify(vec![rule.clone()], &bearer(&token(&payload)), "");
    assert!(ask(json!({"iss": "i", "aud": ["x", "b"]})).is_ok());
    assert!(ask(json!({"iss": "i", "aud": "a"})).is_ok());
    for payload in [json!({"iss": "i", "aud": "x"}), json!({"iss": "i"})] {
        let failure = ask(payload).expect_err("no listed audience");
        assert_eq!((failure, failure.status()), (Failure::Audience, 403));
    }
}

#[test]
fn signatures_keys_and_algorithms() {
    let payload = json!({"iss": "i"});
    let header = |h: Value| signed(&h, &payload, SECRET);
    let tampered = token(&payload).replacen("ey", "eyJ4IjoxLC", 1);
    for (token, expected) in [
        (
            signed(
                &json!({"alg": "HS256"}),
                &payload,
                b"another secret that is long enough",
            ),
            Failure::Signature,
        ),
        (
            header(json!({"alg": "HS256", "kid": "other"})),
            Failure::NoSuchKey,
        ),
        (header(json!({"alg": "HS512"})), Failure::NoSuchKey),
        (header(json!({"alg": "RS256"})), Failure::NoSuchKey),
        (header(json!({"alg": "none"})), Failure::Algorithm),
        (header(json!({})), Failure::NoAlgorithm),
        (header(json!({"alg": "HS256", "kid": 1})), Failure::KeyId),
        ("a.b".into(), Failure::Form),
        ("a.b.c.d".into(), Failure::Form),
        ("".into(), Failure::Form),
        ("a!.b.c".into(), Failure::HeaderBase64),
        ("aaaa.b.c".into(), Failure::HeaderJson),
    ] {
        assert_eq!(
            verify(vec![rule("i")], &bearer(&token), "").map(|_| ()),
            Err(expected),
            "{token}"
        );
    }
    assert!(verify(vec![rule("i")], &bearer(&tampered), "").is_err());
    let without_kid = header(json!({"alg": "HS256"}));
    assert!(
        verify(vec![rule("i")], &bearer(&without_kid), "").is_ok(),
        "any key may fit"
    );
}

#[test]
fn without_keys_every_token_fails_and_a_missing_one_still_passes() {
    let mut rule = rule("i");
    for jwks in [
        None,
        Some("nonsense".to_string()),
        Some(r#"{"keys":[{"kty":"?"}]}"#.into()),
    ] {
        rule.jwks = jwks;
        let failure = verify(
            vec![rule.clone()],
            &bearer(&token(&json!({"iss": "i"}))),
            "",
        );
        assert_eq!(failure, Err(Failure::NoValidKeys));
        assert!(verify(vec![rule.clone()], &json!({}), "").is_ok());
    }
}

#[test]
fn any_issuer_will_do_and_the_one_that_knows_the_token_says_why() {
    let rules = || vec![rule("i"), rule("h")];
    let from = |issuer| bearer(&token(&json!({"iss": issuer, "exp": NOW})));
    for issuer in ["i", "h"] {
        let verified = verify(rules(), &from(issuer), "").expect("one of the two");
        assert_eq!(verified.claims.expect("claims")["iss"], issuer);
    }
    let late = |issuer| bearer(&token(&json!({"iss": issuer, "exp": 1})));
    for issuer in ["i", "h"] {
        assert_eq!(
            verify(rules(), &late(issuer), ""),
            Err(Failure::Expired),
            "{issuer}"
        );
    }
    assert_eq!(verify(rules(), &from("j"), ""), Err(Failure::UnknownIssuer));
    assert!(
        verify(vec![rule("")], &from("j"), "").is_ok(),
        "an empty issuer is any"
    );
}

#[test]
fn several_tokens_must_all_verify() {
    let mut rule = rule("i");
    rule.from_headers = vec![("x-a".into(), String::new()), ("x-b".into(), "T ".into())];
    rule.from_params = vec!["t".into()];
    let good = |sub| token(&json!({"iss": "i", "sub": sub}));
    let headers = json!({"X-A": good("a"), "x-b": format!("T {}", good("b"))});
    let query = format!("?q=1&t={}", good("t"));
    let verified = verify(vec![rule.clone()], &headers, &query).expect("all good");
    assert_eq!(verified.claims.expect("claims")["sub"], "a");
    assert_eq!(verified.removed_headers, ["x-a", "x-b"]);
    assert_eq!(verified.removed_params, ["t"]);
    for (headers, query) in [
        (json!({"X-A": good("a"), "x-b": "T bad"}), ""),
        (json!({"X-A": "bad", "x-b": format!("T {}", good("b"))}), ""),
        (json!({"X-A": good("a")}), "?t=bad"),
    ] {
        assert_eq!(
            verify(vec![rule.clone()], &headers, query),
            Err(Failure::Form),
            "{headers}"
        );
    }
    let elsewhere = bearer("bad");
    assert!(
        verify(vec![rule], &elsewhere, "").is_ok(),
        "not a place of this issuer"
    );
}

#[test]
fn outputs_are_set_by_tokens_alone() {
    let mut rule = rule("i");
    rule.forward_original_token = true;
    rule.output_payload_to_header = Some("X-Payload".into());
    let pairs = [
        ("x-sub", "sub"),
        ("x-n", "n"),
        ("x-roles", "r.roles"),
        ("x-none", "none"),
        ("x-bad", "bad"),
    ];
    rule.output_claim_to_headers = pairs.map(|(h, c)| (h.into(), c.into())).into();
    let payload =
        json!({"iss": "i", "sub": "s", "n": 7, "r": {"roles": ["a"]}, "bad": "a\r\nb: c"});
    let token = token(&payload);
    let verified = verify(vec![rule.clone()], &bearer(&token), "").expect("a good token");
    let outputs = ["x-bad", "x-n", "x-none", "x-payload", "x-roles", "x-sub"];
    assert_eq!(
        verified.removed_headers, outputs,
        "and the token is forwarded"
    );
    let pair = |n: &str, v: &str| (n.to_string(), v.to_string());
    let encoded = token.split('.').nth(1).expect("a payload");
    let roles = BASE64_URL_SAFE.encode(r#"["a"]"#);
    let expected = [
        pair("x-payload", encoded),
        pair("x-sub", "s"),
        pair("x-n", "7"),
        pair("x-roles", &roles),
    ];
    assert_eq!(verified.added_headers, expected);
    let verified = verify(vec![rule], &json!({"x-sub": "forged"}), "").expect("no token");
    assert_eq!(verified.removed_headers, outputs);
    assert!(verified.added_headers.is_empty());
}
