//! Why a request is let through or refused: the verdict, the walk through the table that led to it,
//! and every policy that was considered with the clause that failed.

mod text;

pub use text::cause;

use std::collections::{BTreeMap, BTreeSet};

use enforcer_ebpf::{decide, words};
use serde::Serialize;

use crate::{
    attach::Attachments,
    cluster::{Cluster, Service},
    engine::{
        Table,
        parties::{Parties, World},
    },
    ir::{Action, AtomId, Clause, Policy, Program, Residual, ResidualRule, RuleRef, Stages},
    l7::{Connection, HttpRequest, Step},
    link::{classes::Classes, scopes},
    lower::{
        evaluate::{Known, Meaning, Truth, meanings},
        scope::{Scope, ScopeKey},
    },
    request::{Cause, Judgement, Layer, Request, Wire},
};

/// The whole account of one request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    pub judgement: Judgement,
    pub walk: Walk,
    /// Policies that apply to the destination, in order.
    pub policies: Vec<Considered>,
    /// On a default deny: the ALLOW rule that lacked least.
    pub nearest: Option<Nearest>,
}

/// The reads that gave the cell.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Walk {
    pub source: String,
    pub destination: String,
    pub port: u16,
    /// Offset of the destination's scope in the table.
    pub scope: u32,
    /// Class of the source, and the row it leads to.
    pub source_class: u32,
    pub row: u32,
    pub port_class: u32,
    /// The cell's word.
    pub cell: u32,
    /// `allow`, `deny` or `ask`
    pub cell_verdict: &'static str,
    pub record: u32,
}

/// A policy and its rules.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Considered {
    pub policy: String,
    pub action: &'static str,
    pub dry_run: bool,
    pub file: String,
    pub rules: Vec<ConsideredRule>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ConsideredRule {
    pub rule: u32,
    /// Line in the policy's file.
    pub line: u32,
    pub matched: bool,
    /// The first clause that failed, in words.
    pub failed: Option<String>,
    /// Clauses that held before it.
    held: usize,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Nearest {
    pub policy: String,
    pub rule: u32,
    pub failed: String,
}

/// Explains one request. `now` is in seconds since 1970.
///
/// # Errors
/// Why the request cannot be judged, in words.
pub fn explain(
    program: &Program,
    cluster: &Cluster,
    request: &Request,
    now: u64,
) -> Result<Explanation, String> {
    let world = World::new(cluster);
    let parties = Parties::of(&world, request)?;
    let local = BTreeSet::from([parties.destination.name.clone()]);
    let table = Table::link(program, cluster, local, std::iter::once(&parties))?;
    let judgement = table.judge(0, request, &parties, now)?;
    let walk = walk(&table, request, &parties)?;
    let facts = Facts::new(program, cluster, request, &parties, &table, now)?;
    let policies: Vec<Considered> = facts
        .key
        .policies
        .iter()
        .filter_map(|id| Some((*id, program.policies.get(id.index())?)))
        .map(|(id, policy)| facts.consider(id, policy))
        .collect::<Result<_, _>>()?;
    let nearest = match judgement.reason {
        Cause::NoAllowMatched | Cause::DefaultDeny => nearest(&policies),
        _ => None,
    };
    Ok(Explanation {
        judgement,
        walk,
        policies,
        nearest,
    })
}

fn walk(table: &Table<'_>, request: &Request, parties: &Parties) -> Result<Walk, String> {
    let words = &table.linked.words[..];
    let scope = table.scope(request, parties)?;
    let class = table.class(0, parties);
    let port = u32::from(request.port);
    let at = |index: u32| words::Words::at(words, scope + index);
    let cell = decide::decide(words, scope, class, port);
    Ok(Walk {
        source: parties.source_name.clone(),
        destination: request.dst.clone(),
        port: request.port,
        scope,
        source_class: class,
        row: decide::index(words, at(words::scope::CLASSES), class),
        port_class: decide::index(words, at(words::scope::PORTS), port),
        cell: cell.0,
        cell_verdict: match cell.verdict() {
            words::Verdict::Allow => "allow",
            words::Verdict::Deny => "deny",
            words::Verdict::Ask => "ask",
        },
        record: cell.record(),
    })
}

/// Everything that is known of the request, for judging clauses one by one.
struct Facts<'a> {
    program: &'a Program,
    table: &'a Table<'a>,
    request: &'a Request,
    authority: Option<String>,
    key: ScopeKey,
    source: BTreeSet<AtomId>,
    connection: Connection<'a>,
    port: Option<AtomId>,
    meaning: Meaning,
    now: u64,
}

impl<'a> Facts<'a> {
    fn new(
        program: &'a Program,
        cluster: &Cluster,
        request: &'a Request,
        parties: &Parties,
        table: &'a Table<'a>,
        now: u64,
    ) -> Result<Self, String> {
        let destination = &parties.destination;
        let in_cluster = cluster
            .pods
            .iter()
            .find(|p| p.namespace == destination.name.0 && p.name == destination.name.1);
        let pod = in_cluster
            .or(destination.pod.as_ref())
            .ok_or_else(|| format!("`{}` is gone", request.dst))?;
        let services: Vec<&Service> = cluster
            .services
            .iter()
            .filter(|s| s.namespace == pod.namespace)
            .collect();
        let [v4, v6] = scopes::keys(program, &Attachments::new(program), &services, pod)
            .map_err(|e| e.to_string())?;
        let key = if parties.v6 { v6 } else { v4 };
        let mut classes = Classes::new(program).map_err(|e| e.to_string())?;
        let class = classes.class(&parties.source).map_err(|e| e.to_string())?;
        let source = classes
            .close()
            .signatures
            .get(usize::from(class))
            .map(|atoms| atoms.iter().copied().collect())
            .unwrap_or_default();
        let declared = key
            .ports
            .get(&request.port)
            .copied()
            .unwrap_or(crate::cluster::Protocol::Undeclared);
        let http = request.protocol == Wire::Http && meanings(declared).contains(&Meaning::Http);
        let scope = Scope::new(program, key.clone());
        Ok(Self {
            program,
            table,
            request,
            authority: parties.authority.clone(),
            port: scope.port_atoms.get(&request.port).copied(),
            key,
            source,
            connection: Connection {
                peer: parties.source.address,
                sni: request.sni.as_deref(),
            },
            meaning: if http { Meaning::Http } else { Meaning::Tcp },
            now,
        })
    }

    fn consider(&self, id: crate::ir::PolicyId, policy: &Policy) -> Result<Considered, String> {
        let mut rules = Vec::with_capacity(policy.rules.len());
        for ((number, rule), line) in (0u32..).zip(&policy.rules).zip(&policy.lines) {
            let mut considered = ConsideredRule {
                rule: number,
                line: *line,
                matched: true,
                failed: None,
                held: 0,
            };
            if policy.action == Action::Allow && self.known().mentions_http(rule) {
                considered.matched = false;
                considered.failed =
                    Some("it asks for HTTP, and the connection is judged as TCP".into());
            }
            for clause in &rule.clauses {
                if !considered.matched {
                    break;
                }
                if self.holds(
                    RuleRef {
                        policy: id,
                        rule: number,
                    },
                    clause,
                )? {
                    considered.held += 1;
                } else {
                    considered.matched = false;
                    considered.failed = Some(self.program.describe(clause));
                }
            }
            rules.push(considered);
        }
        Ok(Considered {
            policy: policy.qualified_name(),
            action: match policy.action {
                Action::Allow => "ALLOW",
                Action::Deny => "DENY",
                Action::Audit => "AUDIT",
                Action::Custom { .. } => "CUSTOM",
            },
            dry_run: policy.dry_run,
            file: policy.file.clone(),
            rules,
        })
    }

    fn known(&self) -> Known<'_> {
        Known {
            program: self.program,
            key: &self.key,
            source: &self.source,
            port: self.port,
            meaning: self.meaning,
        }
    }

    /// Whether a clause holds: what the connection leaves open is asked of the requests' engine, as
    /// a DENY rule of that one clause.
    fn holds(&self, rule: RuleRef, clause: &Clause) -> Result<bool, String> {
        let clause = match self.known().clause(clause) {
            Truth::True => return Ok(true),
            Truth::False => return Ok(false),
            Truth::Unknown(clause) => clause,
        };
        let stages = Stages {
            authentications: self.key.authentications.clone(),
            deny: vec![ResidualRule {
                rule,
                clauses: vec![clause],
            }],
            otherwise: crate::ir::Otherwise::Allow,
            ..Stages::default()
        };
        let forwarded_for = if self.key.gateway {
            self.program.mesh.trusted_proxies
        } else {
            1
        };
        let residual = Residual {
            http: Some(stages.clone()),
            tcp: stages,
            forwarded_for,
        };
        let compiled = self
            .table
            .engine
            .compile(&residual)
            .map_err(|e| e.to_string())?;
        let mut view = self
            .request
            .http
            .as_ref()
            .map(|http| HttpRequest::from_json(http, self.now));
        if let Some(view) = &mut view {
            view.authority = self.authority.as_deref();
        }
        let wire = match self.meaning {
            Meaning::Http => Wire::Http,
            Meaning::Tcp => Wire::Tcp,
        };
        match self
            .table
            .engine
            .judge(&compiled, wire, self.connection, view.as_ref(), None)
        {
            Step::Verdict(outcome) => Ok(outcome.cause == Cause::DenyRule),
            Step::AskAuthorizer { .. } => Ok(false),
        }
    }
}

/// The ALLOW rule of which most clauses held.
fn nearest(policies: &[Considered]) -> Option<Nearest> {
    let mut best: Option<(usize, Nearest)> = None;
    for policy in policies
        .iter()
        .filter(|p| p.action == "ALLOW" && !p.dry_run)
    {
        for rule in &policy.rules {
            let Some(failed) = &rule.failed else { continue };
            if best.as_ref().is_none_or(|(held, _)| rule.held > *held) {
                let nearest = Nearest {
                    policy: policy.policy.clone(),
                    rule: rule.rule,
                    failed: failed.clone(),
                };
                best = Some((rule.held, nearest));
            }
        }
    }
    best.map(|(_, nearest)| nearest)
}

/// Requests as `explain`'s arguments describe them name their sources in the same way everywhere.
impl Explanation {
    /// The layer in words.
    pub fn decided_in(&self) -> &'static str {
        match self.judgement.layer {
            Layer::L4 => "the kernel",
            Layer::L7 => "userspace",
        }
    }

    /// Policies by name, for tests and tools.
    pub fn by_policy(&self) -> BTreeMap<&str, &Considered> {
        self.policies
            .iter()
            .map(|p| (p.policy.as_str(), p))
            .collect()
    }
}
