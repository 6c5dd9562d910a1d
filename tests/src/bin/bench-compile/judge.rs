//! One request judged in userspace, as the proxy does it: the table by source, destination and
//! port, then what is left of the rules by method, path and headers. Beside it a direct reading of
//! the same policies from first to last.

use std::{
    collections::BTreeMap,
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use anyhow::Result;
use enforcer::proxy::{Decision, Flow, Maker, rules::Rules};
use enforcer_ebpf::words::Words;
use policyc::{
    ast::{Action, Attachment, AuthorizationPolicy, Condition, Operation, Rule, Source},
    cluster::{Cluster, Pod, PodTemplate},
    ir::{Alternative, Atom, Clause, Literal, PathPattern, Program},
    l7::{Connection, HttpRequest, Step},
    link::{self, NodeView},
    options::CatchAllDeny,
    request::{Expected, Http, Wire},
    resolve,
};
use serde_json::json;

use crate::Figures;

/// More than any cache near the core would keep the rules of.
const REQUESTS: usize = 16_384;
/// Requests between two looks at the clock.
const RUN: usize = 32;
const ROUNDS: usize = 11;
const SIZES: [usize; 4] = [1, 100, 1_000, 10_000];
const NS_MAX: f64 = 500.0;
/// The slowest size against the fastest one.
const SPREAD_MAX: f64 = 1.2;

/// How the i-th policy tells its requests from others.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Principal,
    PrincipalAndPath,
    Path,
    MethodAndPath,
    Prefix,
    Header,
}

pub fn measure() -> Result<Figures> {
    let mut figures = Figures::default();
    for (name, shape) in [
        ("principal", Shape::Principal),
        ("principal_and_path", Shape::PrincipalAndPath),
        ("path", Shape::Path),
        ("method_and_path", Shape::MethodAndPath),
        ("prefix", Shape::Prefix),
        ("header", Shape::Header),
    ] {
        let mut all = Vec::new();
        for n in SIZES {
            let world = World::new(n, shape)?;
            let (engine, direct) = world.measure();
            figures.goal(&format!("{name}_{n}_ns"), engine, NS_MAX);
            figures.add(&format!("{name}_{n}_direct_ns"), direct);
            all.push(engine);
        }
        let (least, most) = all
            .iter()
            .fold((f64::MAX, 0.0f64), |(l, m), ns| (l.min(*ns), m.max(*ns)));
        if most > least * SPREAD_MAX {
            let missed = format!("{name}: {least:.0} to {most:.0} ns, not flat within a fifth");
            figures.missed.push(missed);
        }
    }
    Ok(figures)
}

/// A pod under N policies, and requests of which each meets one of them.
struct World {
    program: Program,
    rules: Rules,
    requests: Vec<Asked>,
}

#[derive(Clone)]
struct Asked {
    client: SocketAddr,
    /// What the direct reading knows of the client.
    principal: String,
    http: Http,
}

struct Kept(Vec<u32>);

impl Words for Kept {
    fn at(&self, index: u32) -> u32 {
        self.0.as_slice().at(index)
    }
}

impl World {
    fn new(n: usize, shape: Shape) -> Result<Self> {
        let mut cluster = Cluster::default();
        cluster.pods.push(Arc::new(pod("target".into(), TARGET)));
        for i in 0..n {
            let source = pod(format!("source-{i:05}"), source(i));
            cluster.pods.push(Arc::new(source));
            cluster.policies.push(policy(i, shape));
        }
        let nowhere = |_: &policyc::diagnostic::At| (String::new(), 1);
        let none = BTreeMap::new();
        let program = resolve::resolve(&cluster, CatchAllDeny::DenyAll, &none, &nowhere)?;
        let node = NodeView {
            local: link::Local::Only([("default".into(), "target".into())].into()),
            epoch: 1,
            ..NodeView::default()
        };
        let linked = link::link(&program, &cluster, &node, &[])?;
        let words = Box::new(Kept(linked.words.clone()));
        let rules = Rules::new(1, &program, &linked, words)?;
        // A step that is coprime to N visits the rules in no order that a cache would like.
        let requests = (0..REQUESTS)
            .map(|i| asked(i * 7_919 % n))
            .collect::<Result<_>>()?;
        Ok(Self {
            program,
            rules,
            requests,
        })
    }

    /// Nanoseconds per request: as the proxy judges, and by direct reading.
    fn measure(&self) -> (f64, f64) {
        let engine = median(&self.requests, |asked| self.judge(asked));
        let few = self
            .requests
            .len()
            .min(64 + REQUESTS / self.program.policies.len());
        let direct = median(&self.requests[..few], |asked| self.read(asked));
        (engine, direct)
    }

    fn judge(&self, asked: &Asked) -> bool {
        let flow = Flow {
            pod: SocketAddr::from((TARGET, 8080)),
            remote: asked.client,
        };
        match self.rules.ruling(flow, Maker::Unknown).decision {
            Decision::Settled { verdict, .. } => verdict == Expected::Allow,
            Decision::Ask { engine, residual } => {
                let request = HttpRequest::from_json(&asked.http, 0);
                let connection = Connection {
                    peer: Some(asked.client.ip()),
                    sni: None,
                };
                match engine.judge(&residual, Wire::Http, connection, Some(&request), None) {
                    Step::Verdict(outcome) => outcome.verdict == Expected::Allow,
                    Step::AskAuthorizer { .. } => false,
                }
            }
        }
    }

    fn read(&self, asked: &Asked) -> bool {
        let holds = |literal: &Literal| {
            literal
                .any
                .iter()
                .any(|atom| reads(&self.program.atoms[atom.index()], asked))
        };
        let met = |a: &Alternative| a.all.iter().all(holds);
        let clause = |c: &Clause| c.any.iter().any(met);
        let policies = self.program.policies.iter();
        policies
            .flat_map(|policy| &policy.rules)
            .any(|rule| rule.clauses.iter().all(clause))
    }
}

const TARGET: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);

fn source(i: usize) -> Ipv4Addr {
    let i = u32::try_from(i).unwrap_or(0);
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 1).to_bits() + i)
}

fn principal(i: usize) -> String {
    format!("cluster.local/ns/default/sa/source-{i:05}")
}

fn pod(name: String, address: Ipv4Addr) -> Pod {
    Pod {
        namespace: "default".into(),
        template: PodTemplate {
            labels: BTreeMap::from([("app".into(), name.clone())]),
            service_account: name.clone(),
            ..PodTemplate::default()
        },
        name,
        ips: vec![address.into()],
        ..Pod::default()
    }
}

fn policy(i: usize, shape: Shape) -> AuthorizationPolicy {
    let from = vec![Source {
        principals: Some(vec![principal(i)]),
        ..Source::default()
    }];
    let path = || format!("/api/v1/service-{i}/items");
    let to = |methods: Option<&str>, path: String| {
        vec![Operation {
            methods: methods.map(|method| vec![method.into()]),
            paths: Some(vec![path]),
            ..Operation::default()
        }]
    };
    let none = Rule::default();
    let rule = match shape {
        Shape::Principal => Rule {
            from: Some(from),
            ..none
        },
        Shape::PrincipalAndPath => Rule {
            from: Some(from),
            to: Some(to(None, path())),
            ..none
        },
        Shape::Path => Rule {
            to: Some(to(None, path())),
            ..none
        },
        Shape::MethodAndPath => Rule {
            to: Some(to(Some("GET"), path())),
            ..none
        },
        Shape::Prefix => Rule {
            to: Some(to(None, format!("/api/v1/service-{i}/*"))),
            ..none
        },
        Shape::Header => Rule {
            when: Some(vec![Condition {
                key: "request.headers[x-tenant]".into(),
                values: Some(vec![format!("tenant-{i}")]),
                not_values: None,
            }]),
            ..none
        },
    };
    AuthorizationPolicy {
        document: policyc::ast::DocumentId::default(),
        object: policyc::diagnostic::Path::default(),
        namespace: "default".into(),
        name: format!("policy-{i:05}"),
        dry_run: false,
        attachment: Attachment {
            selector: Some(BTreeMap::from([("app".into(), "target".into())])),
            target_refs: Vec::new(),
        },
        action: Action::Allow,
        rules: Some(vec![rule]),
    }
}

fn asked(i: usize) -> Result<Asked> {
    let http = json!({"method": "GET", "path": format!("/api/v1/service-{i}/items"),
        "host": "shop.example",
        "headers": {"accept": "*/*", "user-agent": "bench", "x-tenant": format!("tenant-{i}")}});
    Ok(Asked {
        client: (source(i), 40_000).into(),
        principal: principal(i),
        http: serde_json::from_value(http)?,
    })
}

fn reads(atom: &Atom, asked: &Asked) -> bool {
    match atom {
        Atom::Principal(pattern) => pattern.matches(&asked.principal),
        Atom::Method(pattern) => pattern.matches(&asked.http.method),
        Atom::Path(PathPattern::Plain(pattern)) => pattern.matches(&asked.http.path),
        Atom::Header { name, value } => {
            let lines = asked.http.headers.get(name).map_or(&[][..], |v| v.lines());
            lines.iter().any(|line| value.matches(line))
        }
        _ => false,
    }
}

/// Median of the mean over short runs, so that a run that the scheduler interrupts does not count.
/// All requests come round again and again, so what is measured is not one hot request.
fn median(requests: &[Asked], judge: impl Fn(&Asked) -> bool) -> f64 {
    let mut runs = Vec::new();
    for _ in 0..ROUNDS {
        for run in requests.chunks(RUN) {
            // A request that was just parsed lies in the cache; the rules that it meets may not.
            let run = run.to_vec();
            let start = Instant::now();
            let allowed = run.iter().filter(|asked| judge(black_box(asked))).count();
            let time = start.elapsed();
            assert_eq!(allowed, run.len(), "every request has its rule");
            runs.push(time.as_secs_f64() * 1e9 / run.len() as f64);
        }
    }
    crate::median(runs)
}
