//! Nanoseconds per judged request beside the number of rules: `cargo run --release --example judge`.
//!
//! Four ways to write N rules, all requests different, each judged by the engine and by a direct
//! reading of the same rules from first to last.

use std::{hint::black_box, time::Instant};

use policyc::{
    ir::{
        Alternative, Atom, AtomId, Clause, Literal, Otherwise, PathPattern, Pattern, PolicyId,
        Program, Residual, ResidualRule, RuleRef, Stages,
    },
    l7::{Connection, Engine, HttpRequest, Step},
    request::{Expected, Http, Wire},
};

/// More than any cache near the core would keep the rules of.
const REQUESTS: usize = 16_384;
const RUN: usize = 32;
const ROUNDS: usize = 11;

fn main() {
    println!(
        "{:<14}{:>8}{:>12}{:>14}",
        "rules by", "N", "engine ns", "direct ns"
    );
    for (name, rule) in [
        ("path", path as Shape),
        ("method+path", method_and_path),
        ("prefix", prefix),
        ("header", header),
    ] {
        for n in [1, 100, 1_000, 10_000] {
            let (engine, direct) = measure(n, rule);
            println!("{name:<14}{n:>8}{engine:>12.0}{direct:>14.0}");
        }
    }
}

type Shape = fn(usize) -> (Vec<Atom>, Http);

fn path(i: usize) -> (Vec<Atom>, Http) {
    let path = format!("/api/v1/service-{i}/items");
    let atom = Atom::Path(PathPattern::Plain(Pattern::Exact(path.clone())));
    (vec![atom], request(&path, i))
}

fn method_and_path(i: usize) -> (Vec<Atom>, Http) {
    let (mut atoms, http) = path(i);
    atoms.insert(0, Atom::Method(Pattern::Exact("GET".into())));
    (atoms, http)
}

fn prefix(i: usize) -> (Vec<Atom>, Http) {
    let atom = Pattern::Prefix(format!("/api/v1/service-{i}/"));
    let (_, http) = path(i);
    (vec![Atom::Path(PathPattern::Plain(atom))], http)
}

fn header(i: usize) -> (Vec<Atom>, Http) {
    let atom = Atom::Header {
        name: "x-tenant".into(),
        value: Pattern::Exact(format!("tenant-{i}")),
    };
    (vec![atom], request("/", i))
}

fn request(path: &str, i: usize) -> Http {
    let text = serde_json::json!({"method": "GET", "path": path, "host": "shop.example",
        "headers": {"accept": "*/*", "user-agent": "bench", "x-tenant": format!("tenant-{i}")}});
    serde_json::from_value(text).expect("a request of the right form")
}

/// Nanoseconds per request: the engine's, and the direct reading's.
fn measure(n: usize, shape: Shape) -> (f64, f64) {
    let mut program = Program::default();
    let mut allow = Vec::new();
    for i in 0..n {
        let mut all = Vec::new();
        for atom in shape(i).0 {
            let known = program.atoms.iter().rev().take(2).position(|a| *a == atom);
            let id = match known {
                Some(back) => program.atoms.len() - 1 - back,
                None => {
                    program.atoms.push(atom);
                    program.atoms.len() - 1
                }
            };
            let any = vec![AtomId(u32::try_from(id).expect("few atoms"))];
            all.push(Literal {
                any,
                negated: false,
            });
        }
        let any = vec![Alternative { all }];
        let policy = PolicyId(u32::try_from(i).expect("few policies"));
        allow.push(ResidualRule {
            rule: RuleRef { policy, rule: 0 },
            clauses: vec![Clause { any }],
        });
    }
    let stages = Stages {
        allow: allow.clone(),
        otherwise: Otherwise::Deny,
        ..Stages::default()
    };
    let residual = Residual {
        http: Some(stages),
        ..Residual::default()
    };
    // A step that is coprime to N visits the rules in no order that a cache would like.
    let requests: Vec<Http> = (0..REQUESTS).map(|i| shape(i * 7_919 % n).1).collect();
    let engine = Engine::new(&program);
    let compiled = engine.compile(&residual).expect("a sound residual");
    let engine_ns = median(
        |http| {
            let view = HttpRequest::from_json(http, 0);
            let connection = Connection::default();
            match engine.judge(&compiled, Wire::Http, connection, Some(&view), None) {
                Step::Verdict(outcome) => outcome.verdict == Expected::Allow,
                Step::AskAuthorizer { .. } => false,
            }
        },
        &requests,
    );
    let few = &requests[..REQUESTS.min(64 + REQUESTS / n.max(1))];
    let direct_ns = median(
        |http| {
            let holds = |l: &Literal| l.any.iter().any(|a| reads(&program.atoms[a.index()], http));
            allow.iter().any(|rule| {
                let clauses = rule.clauses.iter();
                clauses
                    .into_iter()
                    .all(|c| c.any.iter().any(|a| a.all.iter().all(holds)))
            })
        },
        few,
    );
    (engine_ns, direct_ns)
}

fn reads(atom: &Atom, http: &Http) -> bool {
    match atom {
        Atom::Method(pattern) => pattern.matches(&http.method),
        Atom::Path(PathPattern::Plain(pattern)) => pattern.matches(&http.path),
        Atom::Header { name, value } => {
            let lines = http.headers.get(name).map_or(&[][..], |v| v.lines());
            lines.iter().any(|line| value.matches(line))
        }
        _ => false,
    }
}

/// Median of the mean over short runs, so that a run that the scheduler interrupts does not count.
/// All requests come round again and again, so what is measured is not one hot request.
fn median(judge: impl Fn(&Http) -> bool, requests: &[Http]) -> f64 {
    let mut runs = Vec::new();
    for _ in 0..ROUNDS {
        for run in requests.chunks(RUN) {
            // A request that was just parsed lies in the cache; the rules that it meets may not.
            let run = run.to_vec();
            let start = Instant::now();
            let allowed = run.iter().filter(|r| judge(black_box(r))).count();
            assert_eq!(allowed, run.len(), "every request has its rule");
            runs.push(start.elapsed().as_secs_f64() * 1e9 / run.len() as f64);
        }
    }
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}
