//! The order of judgement, and the engine against a direct reading of the same rules.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    cluster::{ExtAuthz, ExtensionProvider},
    ir::{
        Alternative, AuthenticationId, Clause, Literal, PathPattern, Pattern, PolicyId,
        ResidualRule,
    },
    request::Http,
};

struct World {
    program: Program,
    residual: Residual,
}

impl World {
    fn new() -> Self {
        let residual = Residual {
            http: Some(Stages {
                otherwise: Otherwise::Allow,
                ..Stages::default()
            }),
            tcp: Stages::default(),
            forwarded_for: 1,
        };
        Self {
            program: Program::default(),
            residual,
        }
    }

    fn http(&mut self) -> &mut Stages {
        self.residual.http.as_mut().expect("set by new")
    }

    fn atom(&mut self, atom: Atom) -> AtomId {
        self.program.atoms.push(atom);
        AtomId(u32::try_from(self.program.atoms.len() - 1).expect("few atoms"))
    }

    /// A rule of policy `policy` that wants one path.
    fn path_rule(&mut self, policy: u32, path: &str) -> ResidualRule {
        let atom = self.atom(Atom::Path(PathPattern::Plain(Pattern::parse(path))));
        rule(policy, vec![clause(vec![literal(&[atom], false)])])
    }

    fn judge(&self, request: &serde_json::Value) -> Outcome {
        self.judge_with(request, None)
    }

    fn judge_with(&self, request: &serde_json::Value, answer: Option<Authorizer>) -> Outcome {
        let engine = Engine::new(&self.program);
        let compiled = engine.compile(&self.residual).expect("a sound residual");
        let http: Http = serde_json::from_value(request.clone()).expect("a request");
        let view = HttpRequest::from_json(&http, 1_700_000_000);
        let connection = Connection::default();
        match engine.judge(&compiled, Wire::Http, connection, Some(&view), answer) {
            Step::Verdict(outcome) => *outcome,
            Step::AskAuthorizer { provider, .. } => panic!("nobody answered for {provider}"),
        }
    }
}

fn rule(policy: u32, clauses: Vec<Clause>) -> ResidualRule {
    let rule = RuleRef {
        policy: PolicyId(policy),
        rule: 0,
    };
    ResidualRule { rule, clauses }
}

fn clause(all: Vec<Literal>) -> Clause {
    Clause {
        any: vec![Alternative { all }],
    }
}

fn literal(any: &[AtomId], negated: bool) -> Literal {
    Literal {
        any: any.into(),
        negated,
    }
}

fn get(path: &str) -> serde_json::Value {
    json!({"method": "GET", "path": path, "host": "h"})
}

#[test]
fn deny_beats_allow_and_the_lowest_rule_is_named() {
    let mut world = World::new();
    let deny = [world.path_rule(3, "/a*"), world.path_rule(4, "/ab")];
    let allow = vec![world.path_rule(1, "/ab"), world.path_rule(2, "/c")];
    world.http().deny = deny.into();
    world.http().allow = allow;
    world.http().otherwise = Otherwise::Deny;
    let outcome = world.judge(&get("/ab"));
    assert_eq!(
        (outcome.verdict, outcome.cause),
        (Expected::Deny, Cause::DenyRule)
    );
    assert_eq!(outcome.rule.map(|r| r.policy), Some(PolicyId(3)));
    assert_eq!(outcome.answer.map(|a| a.status), Some(403));
    let outcome = world.judge(&get("/c"));
    assert_eq!(
        (outcome.verdict, outcome.cause),
        (Expected::Allow, Cause::AllowRule)
    );
    assert_eq!(outcome.rule.map(|r| r.policy), Some(PolicyId(2)));
    let outcome = world.judge(&get("/d"));
    assert_eq!(
        (outcome.verdict, outcome.cause),
        (Expected::Deny, Cause::NoAllowMatched)
    );
}

#[test]
fn what_is_left_is_what_lowering_wrote() {
    let mut world = World::new();
    assert_eq!(world.judge(&get("/")).cause, Cause::NoAllowPolicy);
    let named = RuleRef {
        policy: PolicyId(7),
        rule: 2,
    };
    world.http().otherwise = Otherwise::DefaultDeny(named);
    let outcome = world.judge(&get("/"));
    assert_eq!(
        (outcome.cause, outcome.rule),
        (Cause::DefaultDeny, Some(named))
    );
    assert_eq!(outcome.verdict, Expected::Deny);
    assert_eq!(
        Stages::default().otherwise,
        Otherwise::Deny,
        "falling off the end refuses"
    );
}

#[test]
fn a_rule_without_clauses_holds_and_a_clause_without_alternatives_never_does() {
    let mut world = World::new();
    world.http().deny = vec![rule(1, vec![Clause::default()])];
    assert_eq!(world.judge(&get("/")).verdict, Expected::Allow);
    world.http().deny = vec![rule(1, vec![])];
    assert_eq!(world.judge(&get("/")).cause, Cause::DenyRule);
}

#[test]
fn a_negated_literal_holds_where_the_attribute_is_missing() {
    let mut world = World::new();
    let atom = world.atom(Atom::Claim {
        path: vec!["aud".into()],
        value: Pattern::parse("x"),
    });
    world.http().deny = vec![rule(1, vec![clause(vec![literal(&[atom], true)])])];
    assert_eq!(world.judge(&get("/")).verdict, Expected::Deny);
    let mut with = get("/");
    with["claims"] = json!({"aud": ["x"]});
    assert_eq!(
        world.judge(&with).verdict,
        Expected::Deny,
        "nobody here verifies tokens"
    );
    world.program.authentications = vec![ir::Authentication {
        namespace: "n".into(),
        name: "a".into(),
        attachment: ir::Attachment::default(),
        jwt_rules: vec![ir::JwtRule::default()],
    }];
    world.http().authentications = vec![AuthenticationId(0)];
    assert_eq!(world.judge(&with).verdict, Expected::Allow);
}

#[test]
fn malformed_requests_are_answered_before_policies() {
    let mut world = World::new();
    world.http().audit = vec![rule(1, vec![])];
    let outcome = world.judge(&get("/a#b"));
    assert_eq!(
        (outcome.verdict, outcome.cause),
        (Expected::Deny, Cause::BadRequest)
    );
    assert_eq!(outcome.answer.map(|a| a.status), Some(400));
    assert!(outcome.audit.is_empty());
}

#[test]
fn what_was_judged_is_what_is_sent() {
    let mut world = World::new();
    let admin = world.path_rule(1, "/admin");
    world.http().deny = vec![admin];
    assert_eq!(
        world.judge(&get("/x/%2e./admin?q=1")).verdict,
        Expected::Deny
    );
    let outcome = world.judge(&get("/x/../%61?q=/../"));
    assert_eq!(outcome.upstream.target.as_deref(), Some("/a?q=/../"));
    assert_eq!(world.judge(&get("/a?q=/../")).upstream, Upstream::default());
}

#[test]
fn audit_and_dry_run_hits_change_nothing() {
    let mut world = World::new();
    let rules = [
        world.path_rule(1, "/a"),
        world.path_rule(2, "/b"),
        rule(3, vec![]),
    ];
    let [a, b, any] = rules;
    world.http().audit = vec![a.clone(), b.clone(), any.clone()];
    world.http().dry_run_deny = vec![any.clone()];
    world.http().dry_run_allow = vec![b];
    let outcome = world.judge(&get("/a"));
    assert_eq!(outcome.verdict, Expected::Allow);
    assert_eq!(outcome.audit, [a.rule, any.rule]);
    assert_eq!(outcome.dry_run_deny, [any.rule]);
    assert!(outcome.dry_run_allow.is_empty());
}

#[test]
fn custom_asks_first_and_never_bypasses_the_rest() {
    let mut world = World::new();
    let rules = [world.path_rule(1, "/c*"), world.path_rule(2, "/cd")];
    let [custom, deny] = rules;
    world.http().custom = vec![custom];
    world.http().deny = vec![deny];
    world.http().provider = ir::Provider::Named("p".into());
    let engine = Engine::new(&world.program);
    let compiled = engine.compile(&world.residual).expect("a sound residual");
    let http: Http = serde_json::from_value(get("/c")).expect("a request");
    let view = HttpRequest::from_json(&http, 0);
    let step = engine.judge(
        &compiled,
        Wire::Http,
        Connection::default(),
        Some(&view),
        None,
    );
    assert!(matches!(step, Step::AskAuthorizer { provider: "p", .. }));
    let judged = |path, answer| world.judge_with(&get(path), Some(answer)).cause;
    assert_eq!(judged("/c", Authorizer::Allow), Cause::NoAllowPolicy);
    assert_eq!(judged("/cd", Authorizer::Allow), Cause::DenyRule);
    assert_eq!(judged("/c", Authorizer::Deny), Cause::CustomDenied);
    assert_eq!(judged("/c", Authorizer::Error), Cause::CustomError);
    assert_eq!(
        world.judge(&get("/x")).cause,
        Cause::NoAllowPolicy,
        "nobody is asked"
    );
    let settings = ExtAuthz {
        fail_open: true,
        ..ExtAuthz::default()
    };
    world.program.mesh.extension_providers = vec![ExtensionProvider {
        name: "p".into(),
        kind: ProviderKind::ExtAuthzHttp(settings),
    }];
    let outcome = world.judge_with(&get("/c"), Some(Authorizer::Error));
    assert_eq!(outcome.cause, Cause::NoAllowPolicy, "failOpen");
    world.http().provider = ir::Provider::Unresolved;
    assert_eq!(world.judge(&get("/c")).cause, Cause::CustomUnresolved);
    assert_eq!(world.judge(&get("/x")).cause, Cause::NoAllowPolicy);
}

#[test]
fn http_on_a_port_that_is_not_judged_per_request_is_a_connection() {
    let mut world = World::new();
    world.residual.http = None;
    world.residual.tcp.otherwise = Otherwise::Allow;
    let sni = world.atom(Atom::Sni(Pattern::parse("*.x")));
    world.residual.tcp.deny = vec![rule(1, vec![clause(vec![literal(&[sni], false)])])];
    assert_eq!(world.judge(&get("/#")).verdict, Expected::Allow);
    let engine = Engine::new(&world.program);
    let compiled = engine.compile(&world.residual).expect("a sound residual");
    for (name, verdict) in [
        (Some("a.x"), Expected::Deny),
        (Some("a.y"), Expected::Allow),
        (None, Expected::Allow),
    ] {
        let connection = Connection {
            peer: None,
            sni: name,
        };
        let step = engine.judge(&compiled, Wire::Tls, connection, None, None);
        let Step::Verdict(outcome) = step else {
            panic!("no authorizer here")
        };
        assert_eq!(
            (outcome.verdict, outcome.answer),
            (verdict, None),
            "{name:?}"
        );
    }
}

#[test]
fn residuals_that_make_no_sense_do_not_compile() {
    let mut world = World::new();
    let atom = world.atom(Atom::Namespace("a".into()));
    world.http().allow = vec![rule(1, vec![clause(vec![literal(&[atom], false)])])];
    let engine = Engine::new(&world.program);
    let error = engine
        .compile(&world.residual)
        .expect_err("nobody here knows namespaces");
    assert_eq!(error, CompileError::KernelAtom(atom));
    world.http().allow = vec![rule(1, vec![clause(vec![literal(&[AtomId(9)], false)])])];
    let error = engine.compile(&world.residual).expect_err("no such atom");
    assert_eq!(error, CompileError::UnknownAtom(AtomId(9)));
    world.http().allow.clear();
    world.http().authentications = vec![AuthenticationId(0)];
    let error = engine
        .compile(&world.residual)
        .expect_err("no such authentication");
    assert_eq!(
        error,
        CompileError::UnknownAuthentication(AuthenticationId(0))
    );
}

fn any_atom() -> impl Strategy<Value = Atom> {
    let pattern = "(\\*)?[/ab]{0,3}(\\*)?".prop_map(|text| Pattern::parse(&text));
    let template = "(/(a|b|\\{\\*\\})){1,2}(/\\{\\*\\*\\})?";
    prop_oneof![
        3 => pattern.clone().prop_map(|p| Atom::Path(PathPattern::Plain(p))),
        1 => template.prop_map(|t| Atom::Path(PathPattern::Template(t))),
        1 => pattern.clone().prop_map(Atom::Method),
        1 => pattern.clone().prop_map(Atom::Host),
        2 => ("[xyz]", pattern.clone()).prop_map(|(name, value)| Atom::Header { name, value }),
        1 => ("[xyz]", pattern.clone()).prop_map(|(name, value)| Atom::Claim { path: vec![name], value }),
        1 => (pattern.clone(), pattern).prop_map(|(issuer, subject)| Atom::RequestPrincipal { issuer, subject }),
        1 => Just(Atom::Never),
    ]
}

fn any_rules() -> impl Strategy<Value = Vec<ResidualRule>> {
    let literal = (
        prop::collection::vec(0u32..24, 1..4),
        prop::bool::weighted(0.3),
    );
    let literal = literal.prop_map(|(any, negated)| Literal {
        any: any.into_iter().map(AtomId).collect(),
        negated,
    });
    let alternative = prop::collection::vec(literal, 0..3).prop_map(|all| Alternative { all });
    let clause = prop::collection::vec(alternative, 0..3).prop_map(|any| Clause { any });
    let clauses = prop::collection::vec(clause, 0..3);
    prop::collection::vec(clauses, 0..12).prop_map(|rules| {
        (0u32..)
            .zip(rules)
            .map(|(policy, clauses)| rule(policy, clauses))
            .collect()
    })
}

fn any_request() -> impl Strategy<Value = Http> {
    let text = "[/ab]{0,3}";
    let map = || prop::collection::btree_map("[xyz]", text, 0..3);
    let claims = prop::option::of((map(), text, prop::option::of(text)));
    (text, "/[/ab]{0,4}", prop::option::of(text), map(), claims).prop_map(
        |(method, path, host, headers, claims)| {
            let claims = claims.map(|(mut claims, iss, sub)| {
                claims.insert("iss".into(), iss);
                claims.extend(sub.map(|sub| ("sub".to_string(), sub)));
                claims
            });
            let request = json!({"method": method, "path": path, "host": host,
                "headers": headers, "claims": claims});
            serde_json::from_value(request).expect("a request")
        },
    )
}

/// The meaning of a rule, read straight from its definition.
fn reads_as_true(rule: &ResidualRule, atoms: &[Atom], facts: &Facts<'_>) -> bool {
    let atom = |id: &AtomId| {
        let test = super::super::matcher::Test::new(&atoms[id.index()]);
        test.expect("an atom about requests").holds(facts)
    };
    let literal = |l: &Literal| l.any.iter().any(atom) != l.negated;
    let alternative = |a: &Alternative| a.all.iter().all(literal);
    rule.clauses.iter().all(|c| c.any.iter().any(alternative))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn the_index_hides_no_rule_and_invents_none(
        atoms in prop::collection::vec(any_atom(), 24),
        rules in any_rules(),
        http in any_request(),
    ) {
        let mut world = World::new();
        world.program.atoms = atoms;
        world.program.mesh.path_normalization = PathNormalization::None;
        world.http().deny = rules.clone();
        world.http().audit = rules.clone();
        world.program.authentications = vec![ir::Authentication {
            namespace: "n".into(),
            name: "a".into(),
            attachment: ir::Attachment::default(),
            jwt_rules: vec![ir::JwtRule::default()],
        }];
        world.http().authentications = vec![AuthenticationId(0)];
        let engine = Engine::new(&world.program);
        let compiled = engine.compile(&world.residual).expect("a sound residual");
        let view = HttpRequest::from_json(&http, 0);
        let step = engine.judge(&compiled, Wire::Http, Connection::default(), Some(&view), None);
        let Step::Verdict(outcome) = step else { panic!("no authorizer here") };
        let target = normalize(&http.path, PathNormalization::None).expect("a legal path");
        let verified = Verified {
            claims: http.claims.clone(),
            ..Verified::default()
        };
        let facts = Facts {
            connection: Connection::default(),
            http: Some(HttpFacts::new(&view, 1, &target, &verified)),
        };
        let holding: Vec<RuleRef> = rules
            .iter()
            .filter(|rule| reads_as_true(rule, &world.program.atoms, &facts))
            .map(|rule| rule.rule)
            .collect();
        prop_assert_eq!(outcome.rule, holding.first().copied());
        prop_assert_eq!(outcome.audit, holding);
    }
}
