//! Each rule that applies, clause by clause, on all that is known of the request.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Considered, ConsideredRule, failed::Failed};
use crate::{
    attach::Attachments,
    cluster::{Cluster, Protocol, Service},
    engine::{Table, parties::Parties},
    ir::{
        Action, Alternative, Atom, AtomId, Clause, Fact, Literal, Policy, Program, Provider, Rule,
    },
    l7::{Connection, HttpRequest, Looked, Seen, View},
    link::{Identity, classes::Classes, scopes},
    lower::{
        evaluate::{Meaning, meanings},
        label,
        scope::{self, Scope, ScopeKey},
    },
    options::CatchAllDeny,
    request::{Request, Wire},
};

/// Everything that is known of the connection, and what it is judged as.
pub(super) struct Known<'a> {
    pub program: &'a Program,
    pub key: ScopeKey,
    pub declared: Protocol,
    pub meaning: Meaning,
    pub identity: Option<Identity>,
    pub port: u16,
    pub destination: Vec<IpAddr>,
    source: BTreeSet<AtomId>,
    port_atom: Option<AtomId>,
    provider: Provider,
    provider_http_only: bool,
}

impl<'a> Known<'a> {
    pub fn new(
        program: &'a Program,
        cluster: &Cluster,
        request: &Request,
        parties: &Parties,
    ) -> Result<Self, String> {
        let destination = &parties.destination;
        let in_cluster = cluster
            .pods
            .iter()
            .find(|p| p.namespace == destination.name.0 && p.name == destination.name.1);
        let pod = in_cluster
            .map(AsRef::as_ref)
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
        let declared = key.ports.get(&request.port).copied();
        let declared = declared.unwrap_or(Protocol::Undeclared);
        let http = request.protocol == Wire::Http && meanings(declared).contains(&Meaning::Http);
        let scope = Scope::new(program, key.clone());
        let same_family = |ip: &&IpAddr| ip.is_ipv6() == parties.v6;
        Ok(Self {
            program,
            declared,
            meaning: if http { Meaning::Http } else { Meaning::Tcp },
            identity: parties.source.identity.clone(),
            port: request.port,
            destination: pod.ips.iter().filter(same_family).copied().collect(),
            source,
            port_atom: scope.port_atoms.get(&request.port).copied(),
            provider: scope.provider,
            provider_http_only: scope.provider_http_only,
            key,
        })
    }

    /// Shows `to` the request as rules see it.
    pub fn look<R>(
        &self,
        table: &Table<'_>,
        request: &Request,
        parties: &Parties,
        now: u64,
        to: impl FnOnce(Seen<'_>) -> R,
    ) -> R {
        let mut view = request
            .http
            .as_ref()
            .filter(|_| self.meaning == Meaning::Http)
            .map(|http| HttpRequest::from_json(http, now));
        if let Some(view) = &mut view {
            view.authority = parties.authority.as_deref();
        }
        let looked = Looked {
            connection: Connection {
                peer: parties.source.address,
                sni: request.sni.as_deref(),
            },
            http: view.as_ref(),
            forwarded_for: match self.key.gateway {
                true => self.program.mesh.trusted_proxies,
                false => 1,
            },
            authentications: &self.key.authentications,
        };
        table.engine.look(looked, to)
    }

    /// Every rule of a policy, matched or not.
    pub fn consider(&self, policy: &Policy, seen: &Seen<'_>) -> Considered {
        // CUSTOM comes before tokens are looked at.
        let (action, view) = match policy.action {
            Action::Allow => ("ALLOW", &seen.after_tokens),
            Action::Deny => ("DENY", &seen.after_tokens),
            Action::Audit => ("AUDIT", &seen.after_tokens),
            Action::Custom { .. } => ("CUSTOM", &seen.before_tokens),
        };
        let numbered = (0u32..).zip(&policy.rules).zip(&policy.lines);
        Considered {
            policy: policy.qualified_name(),
            action,
            dry_run: policy.dry_run,
            file: policy.file.clone(),
            rules: numbered
                .map(|((number, rule), line)| ConsideredRule {
                    rule: number,
                    line: *line,
                    ..self.rule(policy, rule, view)
                })
                .collect(),
        }
    }

    fn rule(&self, policy: &Policy, rule: &Rule, view: &View<'_>) -> ConsideredRule {
        let mut considered = ConsideredRule {
            rule: 0,
            line: 0,
            lowered: label::label(self.program, policy, rule, self.declared).name(),
            matched: true,
            failed: None,
            note: self.note(policy, rule),
            held: 0,
        };
        let http = self.http_fields(rule);
        if policy.action == Action::Allow && !http.is_empty() {
            considered.fail(format!(
                "asks for HTTP ({}), and the connection is judged as TCP",
                http.join(", ")
            ));
        } else if self.is_default(policy, rule) {
            considered.fail("is the workload's default, and matches nothing by itself".into());
        }
        for clause in &rule.clauses {
            if !considered.matched {
                break;
            }
            match self.failure(clause, view) {
                None => considered.held += 1,
                Some(failed) => considered.fail(failed),
            }
        }
        considered
    }

    /// What a reader would not guess about the rule on this connection.
    fn note(&self, policy: &Policy, rule: &Rule) -> Option<String> {
        let tcp = self.meaning == Meaning::Tcp;
        let custom = matches!(policy.action, Action::Custom { .. });
        if custom && self.provider == Provider::Unresolved {
            return Some("its provider cannot be resolved: what it matches is refused".into());
        }
        if custom && tcp && self.provider_http_only {
            return Some("its provider speaks HTTP, and is not asked about TCP".into());
        }
        let dropped = self.http_fields(rule);
        (policy.action != Action::Allow && !dropped.is_empty()).then(|| {
            format!(
                "judged as TCP, without its HTTP fields ({})",
                dropped.join(", ")
            )
        })
    }

    /// Fields of HTTP, by name, where the connection is not judged as HTTP.
    fn http_fields(&self, rule: &Rule) -> Vec<String> {
        if self.meaning == Meaning::Http {
            return Vec::new();
        }
        let atoms = scope::atoms(rule).filter_map(|id| self.program.atoms.get(id.index()));
        let mut fields: Vec<String> = atoms
            .filter(|atom| atom.fact() == Fact::Http)
            .map(Atom::field)
            .collect();
        fields.sort();
        fields.dedup();
        fields
    }

    fn is_default(&self, policy: &Policy, rule: &Rule) -> bool {
        self.program.catch_all_deny == CatchAllDeny::DefaultDeny
            && policy.action == Action::Deny
            && !policy.dry_run
            && rule.clauses.is_empty()
    }

    /// Why the clause does not hold, told of the alternative that came nearest.
    fn failure(&self, clause: &Clause, view: &View<'_>) -> Option<String> {
        let mut nearest: Option<(usize, &Literal)> = None;
        for alternative in &clause.any {
            let (held, literal) = self.first_failure(alternative, view)?;
            if nearest.is_none_or(|(most, _)| held > most) {
                nearest = Some((held, literal));
            }
        }
        let failed = Failed { known: self, view };
        let told = nearest.map_or("can never match".into(), |(_, literal)| {
            failed.tell(literal)
        });
        Some(match clause.any.len() {
            0 | 1 => told,
            2 => format!("{told}; the other alternative fails too"),
            n => format!("{told}; the other {} alternatives fail too", n - 1),
        })
    }

    /// The first literal that does not hold, and how many did before it.
    fn first_failure<'r>(
        &self,
        alternative: &'r Alternative,
        view: &View<'_>,
    ) -> Option<(usize, &'r Literal)> {
        let mut literals = alternative.all.iter().enumerate();
        literals.find(|(_, literal)| !self.holds(literal, view))
    }

    fn holds(&self, literal: &Literal, view: &View<'_>) -> bool {
        let atoms = literal.any.iter();
        let known = atoms.filter_map(|id| Some((*id, self.program.atoms.get(id.index())?)));
        let mut any = false;
        for (id, atom) in known {
            match atom.fact() {
                // The whole field is about HTTP: it asks nothing here.
                Fact::Http if self.meaning == Meaning::Tcp => return true,
                Fact::Source => any |= self.source.contains(&id),
                Fact::Destination => {
                    any |= self.port_atom == Some(id) || self.key.destination.contains(&id);
                }
                Fact::RemoteAddress | Fact::ServerName | Fact::Http | Fact::Nothing => {
                    any |= view.holds(atom) == Some(true);
                }
            }
        }
        any != literal.negated
    }
}

impl ConsideredRule {
    fn fail(&mut self, why: String) {
        self.matched = false;
        self.failed = Some(why);
    }
}
