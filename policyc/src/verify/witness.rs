//! Requests that make the rules left to userspace hold, and each part of them in turn not hold.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::{
    ir::{Atom, AtomId, PathPattern, Pattern, Program, Provider, Residual, ResidualRule, Stages},
    request::{Authorizer, HeaderValues, Http, Request, Wire},
};

/// All requests for one residual, made from `base`.
pub(super) fn requests(program: &Program, residual: &Residual, base: &Request) -> Vec<Request> {
    let mut found = Vec::new();
    for facts in combinations(program, &residual.tcp) {
        let wire = if facts.sni.is_some() {
            Wire::Tls
        } else {
            Wire::Tcp
        };
        push(&mut found, base, wire, &facts, &residual.tcp.provider);
    }
    if let Some(stages) = &residual.http {
        for facts in combinations(program, stages) {
            push(&mut found, base, Wire::Http, &facts, &stages.provider);
        }
    } else {
        push(
            &mut found,
            base,
            Wire::Http,
            &Facts::default(),
            &residual.tcp.provider,
        );
    }
    found
}

/// What a request says beyond source, destination and port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Facts {
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    headers: BTreeMap<String, String>,
    /// JSON text of the claims.
    claims: Option<String>,
    sni: Option<String>,
}

/// Nothing said; each rule made to hold; each rule with one of its values left out or, for a
/// not-form, put in.
fn combinations(program: &Program, stages: &Stages) -> BTreeSet<Facts> {
    let mut all = BTreeSet::from([Facts::default()]);
    let lists = [
        &stages.custom,
        &stages.deny,
        &stages.allow,
        &stages.audit,
        &stages.dry_run_allow,
        &stages.dry_run_deny,
    ];
    for rule in lists.into_iter().flatten() {
        for (wanted, unwanted) in ways(rule) {
            let holds = made_of(program, wanted.iter().copied());
            all.insert(holds.clone());
            for (i, _) in wanted.iter().enumerate() {
                let without = wanted
                    .iter()
                    .enumerate()
                    .filter(|(j, _)| *j != i)
                    .map(|(_, a)| *a);
                all.insert(made_of(program, without));
            }
            for atom in unwanted {
                let mut spoiled = holds.clone();
                spoiled.say(program.atoms.get(atom.index()));
                all.insert(spoiled);
            }
        }
    }
    all
}

/// For each alternative of each clause: one value of every positive literal to be made true (first
/// alternatives for the other clauses), and the values of its not-forms.
fn ways(rule: &ResidualRule) -> Vec<(Vec<AtomId>, Vec<AtomId>)> {
    let mut ways = Vec::new();
    for (chosen, clause) in rule.clauses.iter().enumerate() {
        for alternative in &clause.any {
            let longest = alternative
                .all
                .iter()
                .map(|l| l.any.len())
                .max()
                .unwrap_or(1);
            // Every value of every list is met once.
            for turn in 0..longest {
                let mut wanted = Vec::new();
                let mut unwanted = Vec::new();
                let others = rule
                    .clauses
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| *i != chosen);
                let others = others.filter_map(|(_, c)| c.any.first());
                for literal in others.chain([alternative]).flat_map(|a| &a.all) {
                    if literal.negated {
                        unwanted.extend(literal.any.iter().copied());
                    } else if let Some(atom) = literal.any.get(turn).or(literal.any.first()) {
                        wanted.push(*atom);
                    }
                }
                ways.push((wanted, unwanted));
            }
        }
    }
    ways
}

fn made_of(program: &Program, atoms: impl Iterator<Item = AtomId>) -> Facts {
    let mut facts = Facts::default();
    for atom in atoms {
        facts.say(program.atoms.get(atom.index()));
    }
    facts
}

impl Facts {
    /// Makes an atom true.
    fn say(&mut self, atom: Option<&Atom>) {
        match atom {
            Some(Atom::Method(p)) => self.method = Some(text(p, "GET")),
            Some(Atom::Path(PathPattern::Plain(p))) => self.path = Some(path(p)),
            Some(Atom::Path(PathPattern::Template(t))) => {
                self.path = Some(t.replace("{**}", "zq7/a").replace("{*}", FILLER));
            }
            Some(Atom::Host(p)) => self.host = Some(text(p, "host.example")),
            Some(Atom::Header { name, value }) => match name.as_str() {
                ":authority" => self.host = Some(text(value, "host.example")),
                ":method" => self.method = Some(text(value, "GET")),
                ":path" => self.path = Some(path(value)),
                _ => {
                    self.headers.insert(name.clone(), text(value, "a"));
                }
            },
            Some(Atom::RemoteIp(net)) => {
                self.headers
                    .insert("x-forwarded-for".into(), net.network().to_string());
            }
            Some(Atom::RequestPrincipal { issuer, subject }) => {
                self.claim(&["iss".into()], text(issuer, "issuer"));
                self.claim(&["sub".into()], text(subject, "subject"));
            }
            Some(Atom::Claim { path, value }) => self.claim(path, text(value, "a")),
            Some(Atom::Sni(p)) => self.sni = Some(text(p, "name.example")),
            // Known before userspace is asked, or never there.
            Some(
                Atom::Principal(_)
                | Atom::Namespace(_)
                | Atom::ServiceAccount { .. }
                | Atom::TrustDomain(_)
                | Atom::SourceIp(_)
                | Atom::DestinationIp(_)
                | Atom::DestinationPort(_)
                | Atom::Never,
            )
            | None => {}
        }
    }

    fn claim(&mut self, path: &[String], value: String) {
        let mut claims: Map<String, Value> = self
            .claims
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let mut place = &mut claims;
        let Some((last, parents)) = path.split_last() else {
            return;
        };
        for key in parents {
            let child = place
                .entry(key.clone())
                .or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(child) = child else { return };
            place = child;
        }
        place.insert(last.clone(), Value::String(value));
        self.claims = serde_json::to_string(&claims).ok();
    }
}

/// Completes a pattern. Unlikely in a policy, so that no not-form beside the pattern names it.
const FILLER: &str = "zq7";

/// A value that the pattern matches.
fn text(pattern: &Pattern, any: &str) -> String {
    match pattern {
        Pattern::Exact(value) => value.clone(),
        Pattern::Prefix(value) => format!("{value}{FILLER}"),
        Pattern::Suffix(value) => format!("{FILLER}{value}"),
        Pattern::Present => any.into(),
    }
}

fn path(pattern: &Pattern) -> String {
    match pattern {
        Pattern::Suffix(value) => format!("/{FILLER}{value}"),
        Pattern::Present => "/".into(),
        other => text(other, "/"),
    }
}

fn push(
    found: &mut Vec<Request>,
    base: &Request,
    protocol: Wire,
    facts: &Facts,
    provider: &Provider,
) {
    let mut headers: BTreeMap<String, HeaderValues> = BTreeMap::new();
    for (name, value) in &facts.headers {
        headers.insert(name.clone(), HeaderValues::One(value.clone()));
    }
    let http = (protocol == Wire::Http).then(|| Http {
        method: facts.method.clone().unwrap_or_else(|| "OPTIONS".into()),
        path: facts.path.clone().unwrap_or_else(|| "/unnamed".into()),
        host: facts.host.clone(),
        headers,
        claims: facts
            .claims
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok()),
    });
    let answers: &[Option<Authorizer>] = match provider {
        Provider::Named(_) => &[
            Some(Authorizer::Allow),
            Some(Authorizer::Deny),
            Some(Authorizer::Error),
        ],
        Provider::None | Provider::Unresolved => &[None],
    };
    for answer in answers {
        found.push(Request {
            protocol,
            http: http.clone(),
            sni: facts.sni.clone(),
            ext_authz: match (provider, answer) {
                (Provider::Named(name), Some(answer)) => {
                    Some(BTreeMap::from([(name.clone(), *answer)]))
                }
                _ => None,
            },
            ..base.clone()
        });
    }
}
