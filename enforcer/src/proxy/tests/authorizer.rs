//! CUSTOM: what an authorizer is asked, and what becomes of its answers.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use policyc::{
    cluster::{ExtAuthz, ExtensionProvider, ProviderKind},
    ir::{
        Alternative, Atom, AtomId, Clause, Literal, Otherwise, PathPattern, Pattern, PolicyId,
        Program, Provider, Residual, ResidualRule, RuleRef, Stages,
    },
    l7::{AuthorizerSettings, Engine},
    request::{Cause, Expected},
};

use super::world::{Bed, lock, response};
use crate::proxy::{Ask, Authorizers, Changes, Checked, Decision, Denial, Pending, Refusal};

/// Answers what it is told, and keeps the questions.
#[derive(Default)]
struct Said {
    asks: Mutex<Vec<Ask>>,
    answer: Mutex<Option<Checked>>,
}

impl Authorizers for Said {
    fn check(&self, _: Arc<AuthorizerSettings>, ask: Ask) -> Pending<io::Result<Checked>> {
        lock(&self.asks).push(ask);
        let answer = lock(&self.answer).clone();
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("no answer")) })
    }
}

/// What is below /ask is asked of the provider; `x-role: admin` is denied after that.
fn ask_about(settings: ExtAuthz) -> Decision {
    let mut program = Program {
        atoms: vec![
            Atom::Path(PathPattern::Plain(Pattern::parse("/ask*"))),
            Atom::Header {
                name: "x-role".into(),
                value: Pattern::parse("admin"),
            },
        ],
        ..Program::default()
    };
    program.mesh.extension_providers = vec![ExtensionProvider {
        name: "guard".into(),
        kind: ProviderKind::ExtAuthzGrpc(settings),
    }];
    let rule = |atom| ResidualRule {
        rule: RuleRef {
            policy: PolicyId(atom),
            rule: 0,
        },
        clauses: vec![Clause {
            any: vec![Alternative {
                all: vec![Literal {
                    any: vec![AtomId(atom)],
                    negated: false,
                }],
            }],
        }],
    };
    let residual = Residual {
        http: Some(Stages {
            custom: vec![rule(0)],
            provider: Provider::Named("guard".into()),
            deny: vec![rule(1)],
            otherwise: Otherwise::Allow,
            ..Stages::default()
        }),
        ..Residual::default()
    };
    let engine = Engine::new(&program);
    let residual = engine.compile(&residual).expect("a sound residual");
    Decision::Ask {
        engine: Arc::new(engine),
        residual: Arc::new(residual),
    }
}

fn bed(settings: ExtAuthz) -> (Bed, Arc<Said>) {
    let bed = Bed::new();
    bed.world.decide(ask_about(settings));
    let said = Arc::new(Said::default());
    *lock(&bed.world.authorizers) = Some(said.clone());
    (bed, said)
}

fn line(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    )
}

const ASK: &[u8] = b"GET /x/../ask?q HTTP/1.1\r\nhost: a\r\nx-role: guest\r\nx-secret: 1\r\n\r\n";

#[test]
fn an_allowed_request_goes_on_as_the_authorizer_has_made_it() {
    let (bed, said) = bed(ExtAuthz::default());
    let changes = Changes {
        removed: vec![HeaderName::from_static("x-secret")],
        set: vec![line("x-role", "user")],
        appended: Vec::new(),
        to_client: vec![line("x-checked", "yes")],
    };
    *lock(&said.answer) = Some(Checked::Allow(changes));
    let mut client = bed.client();
    client.write_all(ASK).expect("sent");
    let answer = response(&mut client).expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["x-checked"], "yes");
    let head = bed.heads().join("").to_ascii_lowercase();
    assert!(head.starts_with("get /ask?q http/1.1\r\n"), "{head}");
    assert!(head.contains("x-role: user\r\n"), "{head}");
    assert!(
        !head.contains("x-secret") && !head.contains("guest"),
        "{head}"
    );
    let asks = lock(&said.asks);
    let http = asks[0].http.as_ref().expect("a request");
    assert_eq!(http.target, "/ask?q", "as it is judged");
    assert_eq!(http.headers["x-role"], "guest", "as it came");
    assert!(http.headers.contains_key("x-request-id"));
    drop(asks);
    // What nobody asks about is not asked.
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("sent");
    assert_eq!(response(&mut client).expect("an answer").status, 200);
    assert_eq!(lock(&said.asks).len(), 1);
}

#[test]
fn later_rules_see_what_the_authorizer_has_made_of_it() {
    let (bed, said) = bed(ExtAuthz::default());
    *lock(&said.answer) = Some(Checked::Allow(Changes {
        set: vec![line("x-role", "admin")],
        ..Changes::default()
    }));
    assert_eq!(bed.status(ASK), Some(403));
    let events = lock(&bed.world.events).clone();
    let denied = (Expected::Deny, Cause::DenyRule, Some("ns/p1".into()));
    assert_eq!(events, [denied]);
    assert!(bed.heads().is_empty());
}

#[test]
fn a_refusal_is_the_authorizers_own() {
    let (bed, said) = bed(ExtAuthz::default());
    *lock(&said.answer) = Some(Checked::Deny(Denial {
        status: 302,
        headers: vec![line("location", "/login"), line("set-cookie", "a=b")],
        body: Bytes::from_static(b"this way"),
    }));
    let mut client = bed.client();
    client.write_all(ASK).expect("sent");
    let answer = response(&mut client).expect("an answer");
    assert_eq!((answer.status, &*answer.body), (302, &b"this way"[..]));
    assert_eq!(answer.headers["location"], "/login");
    assert_eq!(answer.headers["set-cookie"], "a=b");
    assert!(bed.heads().is_empty());
    let events = lock(&bed.world.events).clone();
    let denied = (Expected::Deny, Cause::CustomDenied, Some("ns/p0".into()));
    assert_eq!(events, [denied]);
}

#[test]
fn a_failure_means_what_the_provider_says() {
    for (fail_open, status_on_error, expected) in [
        (false, None, 403),
        (false, Some(503), 503),
        (true, None, 200),
    ] {
        let (bed, _said) = bed(ExtAuthz {
            fail_open,
            status_on_error,
            ..ExtAuthz::default()
        });
        assert_eq!(bed.status(ASK), Some(expected), "{fail_open}");
        // Nobody who asks is a failure, too.
        *lock(&bed.world.authorizers) = None;
        assert_eq!(bed.status(ASK), Some(expected), "{fail_open}");
    }
}

#[test]
fn a_body_is_shown_as_far_as_wanted_and_forwarded_whole() {
    let post = |length: usize| {
        let head = format!("POST /ask HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        [head.into_bytes(), vec![b'b'; length]].concat()
    };
    for (length, partial, expected) in [
        (3, false, Some(200)),
        (4, false, Some(200)),
        (5, false, Some(413)),
        (100_000, true, Some(200)),
    ] {
        let (bed, said) = bed(ExtAuthz {
            max_request_bytes: Some(4),
            allow_partial_message: partial,
            ..ExtAuthz::default()
        });
        *lock(&said.answer) = Some(Checked::Allow(Changes::default()));
        assert_eq!(bed.status(&post(length)), expected, "{length} bytes");
        if expected == Some(413) {
            assert_eq!(*lock(&bed.world.refusals), [Refusal::BodyTooLarge]);
            assert!(lock(&said.asks).is_empty(), "it is not asked");
            continue;
        }
        let asks = lock(&said.asks);
        let http = asks[0].http.as_ref().expect("a request");
        let shown = http.body.as_ref().expect("a body");
        assert_eq!(shown.len(), length.min(4));
        assert_eq!(http.partial, length > 4);
        let head = bed.heads().join("").to_ascii_lowercase();
        let whole = format!("content-length: {length}\r\n");
        assert!(head.contains(&whole), "{head}");
    }
}
