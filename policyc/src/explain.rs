//! Why a request is let through or refused: the verdict, the walk through the table that led to it,
//! and every policy that was considered with the clause that failed.

pub mod arguments;
mod failed;
mod rules;
mod text;

pub use text::cause;

use std::collections::{BTreeMap, BTreeSet};

use enforcer_ebpf::{decide, words};
use serde::Serialize;

use crate::{
    cluster::{Cluster, Protocol},
    engine::{
        Table,
        parties::{Parties, World},
    },
    ir::{Policy, Program},
    request::{Cause, Judgement, Layer, Request},
};
use rules::Known;

/// The whole account of one request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    pub judgement: Judgement,
    /// What is wrong with the request itself: a malformed target, or a token that is refused.
    pub trouble: Option<String>,
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
    /// `http`, `tcp` or `undeclared`
    pub declared: &'static str,
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
    /// How the rule was lowered for this port: `exact`, `redirect`, `widened-deny` or
    /// `never-matches`.
    pub lowered: &'static str,
    pub matched: bool,
    /// The first field that failed, and what the request had, in words.
    pub failed: Option<String>,
    /// What else is to be said of the rule on this connection.
    pub note: Option<String>,
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
    let known = Known::new(program, cluster, request, &parties)?;
    let walk = walk(&table, request, &parties, known.declared)?;
    let applying = known.key.policies.iter();
    let applying: Vec<&Policy> = applying
        .filter_map(|id| program.policies.get(id.index()).map(AsRef::as_ref))
        .collect();
    let (policies, trouble) = known.look(&table, request, &parties, now, |seen| {
        let policies: Vec<Considered> = applying
            .iter()
            .map(|policy| known.consider(policy, &seen))
            .collect();
        let malformed = seen.malformed.map(|why| why.to_string());
        let refused = seen.refused.map(|why| why.to_string());
        // At L4 nobody reads what the request says.
        let read = judgement.layer == Layer::L7;
        (policies, malformed.or(refused).filter(|_| read))
    });
    let nearest = match judgement.reason {
        Cause::NoAllowMatched | Cause::DefaultDeny => nearest(&policies),
        _ => None,
    };
    Ok(Explanation {
        judgement,
        trouble,
        walk,
        policies,
        nearest,
    })
}

fn walk(
    table: &Table<'_>,
    request: &Request,
    parties: &Parties,
    declared: Protocol,
) -> Result<Walk, String> {
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
        declared: match declared {
            Protocol::Http => "http",
            Protocol::Tcp => "tcp",
            Protocol::Undeclared => "undeclared",
        },
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
