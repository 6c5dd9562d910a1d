//! The verdict of a request of which not everything is known that was said: certain, or not.
//!
//! What remains of the rules for userspace is reduced by what is known, and then concluded as a cell
//! is: so whatever headers and tokens the request had, the verdict is the one that is told here.

use enforcer_ebpf::words::Verdict;

use super::{Table, parties::Parties};
use crate::{
    ir::{Alternative, Atom, AtomId, Clause, Literal, ResidualRule, RuleRef, Stages},
    l7::{Connection, HttpRequest, Looked, View},
    lower::cell::{Decided, outcome},
    replay::flow::Said,
    request::{Cause, Expected, Request, Wire},
};

/// A verdict that does not depend on what is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Certain {
    pub verdict: Expected,
    pub cause: Cause,
    /// `namespace/name`
    pub policy: Option<String>,
    pub rule: Option<u32>,
}

impl Table<'_> {
    /// The verdict, or `None` where it depends on what was not recorded.
    ///
    /// # Errors
    /// Why the request cannot be judged, in words.
    pub fn certain(
        &self,
        number: usize,
        request: &Request,
        parties: &Parties,
        said: Said,
        now: u64,
    ) -> Result<Option<Certain>, String> {
        if said == Said::Everything {
            let judged = self.judge(number, request, parties, now)?;
            return Ok(Some(Certain {
                verdict: judged.verdict,
                cause: judged.reason,
                policy: judged.policy,
                rule: judged.rule,
            }));
        }
        let (cell, record) = self.cell(number, request, parties)?;
        let decided = match cell.verdict() {
            Verdict::Allow => Some(Expected::Allow),
            Verdict::Deny => Some(Expected::Deny),
            Verdict::Ask => None,
        };
        if let Some(verdict) = decided {
            return Ok(Some(self.of(verdict, record.cause, record.rule)));
        }
        if said == Said::Nothing {
            return Ok(None);
        }
        let residual = self.linked.residuals.get(record.residual as usize);
        let residual =
            residual.ok_or_else(|| format!("record {} names no residual", cell.record()))?;
        let http = residual
            .http
            .as_ref()
            .filter(|_| request.protocol == Wire::Http);
        let stages = http.unwrap_or(&residual.tcp);
        let view = request
            .http
            .as_ref()
            .filter(|_| http.is_some())
            .map(|http| HttpRequest {
                authority: parties.authority.as_deref(),
                ..HttpRequest::from_json(http, now)
            });
        if http.is_some() && view.is_none() {
            return Ok(None);
        }
        let looked = Looked {
            connection: Connection {
                peer: parties.source.address,
                sni: request.sni.as_deref(),
            },
            http: view.as_ref(),
            forwarded_for: residual.forwarded_for,
            authentications: &[],
        };
        let (decided, cause, rule) = self.engine.look(looked, |seen| {
            if seen.malformed.is_some() {
                return (Decided::Deny, Cause::BadRequest, None);
            }
            let known = Known {
                table: self,
                view: &seen.before_tokens,
                forwarded: http.is_some() && residual.forwarded_for != 0,
                token: !stages.authentications.is_empty(),
            };
            outcome(&known.stages(stages))
        });
        Ok(match decided {
            Decided::Allow => Some(self.of(Expected::Allow, cause, rule)),
            Decided::Deny => Some(self.of(Expected::Deny, cause, rule)),
            Decided::Ask => None,
        })
    }

    fn of(&self, verdict: Expected, cause: Cause, rule: Option<RuleRef>) -> Certain {
        Certain {
            verdict,
            cause,
            policy: rule.and_then(|rule| self.policy(rule)),
            rule: rule.map(|rule| rule.rule),
        }
    }
}

/// What a recorded line tells.
struct Known<'a> {
    table: &'a Table<'a>,
    view: &'a View<'a>,
    /// A header may say who the client is.
    forwarded: bool,
    /// Tokens are looked for, and one in the query is not forwarded.
    token: bool,
}

impl Known<'_> {
    fn stages(&self, stages: &Stages) -> Stages {
        let reduced = |rules: &[ResidualRule]| rules.iter().filter_map(|r| self.rule(r)).collect();
        Stages {
            custom: reduced(&stages.custom),
            deny: reduced(&stages.deny),
            allow: reduced(&stages.allow),
            ..stages.clone()
        }
    }

    /// What is left of a rule; `None` where it does not match for certain.
    fn rule(&self, rule: &ResidualRule) -> Option<ResidualRule> {
        let mut clauses = Vec::new();
        for clause in &rule.clauses {
            let alternatives: Vec<Alternative> = clause
                .any
                .iter()
                .filter_map(|alternative| self.alternative(alternative))
                .collect();
            if alternatives.is_empty() {
                return None;
            }
            if alternatives.iter().all(|a| !a.all.is_empty()) {
                clauses.push(Clause { any: alternatives });
            }
        }
        Some(ResidualRule {
            rule: rule.rule,
            clauses,
        })
    }

    fn alternative(&self, alternative: &Alternative) -> Option<Alternative> {
        let mut all = Vec::new();
        for literal in &alternative.all {
            match self.literal(literal) {
                Some(true) => {}
                Some(false) => return None,
                None => all.push(literal.clone()),
            }
        }
        Some(Alternative { all })
    }

    fn literal(&self, literal: &Literal) -> Option<bool> {
        let mut unknown = false;
        for atom in &literal.any {
            match self.atom(*atom) {
                Some(true) => return Some(!literal.negated),
                Some(false) => {}
                None => unknown = true,
            }
        }
        (!unknown).then_some(literal.negated)
    }

    fn atom(&self, id: AtomId) -> Option<bool> {
        let atom = self.table.program.atoms.get(id.index())?;
        match atom {
            Atom::RequestPrincipal { .. } | Atom::Claim { .. } => None,
            Atom::Header { name, .. } if name == ":path" && self.token => None,
            Atom::Header { name, .. } if !is_recorded(name) => None,
            Atom::RemoteIp(_) if self.forwarded => None,
            _ => self.view.holds(atom),
        }
    }
}

/// Headers that a recorded line has under other names.
fn is_recorded(name: &str) -> bool {
    matches!(name, ":method" | ":path" | ":authority" | "host")
}
