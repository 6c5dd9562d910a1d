//! What differs between two cells: for each thing that may be spoken, and for each thing that can be
//! said of it.

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use super::{
    decision::{Decisions, Left, NodeId, SAME, Said, Side, Way},
    fields::{Atoms, Variant},
    report::{Kind, Protocol},
};
use crate::{
    cluster::ExtensionProvider,
    ir::{
        Alternative, Atom, AtomId, Clause, JwtRule, Literal, Otherwise, Program, Provider,
        ResidualRule, RuleRef, Stages,
    },
    lower::cell::{CellData, Decided},
    request::Cause,
};

/// Ways to one difference that are kept.
const WAYS_MAX: usize = 64;

/// One difference between two cells.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Finding {
    pub kind: Kind,
    pub protocol: Protocol,
    /// HTTP that is not well-formed: nothing else is asked of it.
    pub malformed: bool,
    /// `None`: it could not be decided whether there is a difference.
    pub said: Option<(Said, Said)>,
    pub ways: Vec<Way>,
    pub more: bool,
}

/// What the cells of one workload are judged with on one side.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    pub program: &'a Program,
    pub tokens: Vec<JwtRule>,
    /// Headers that only a verified token sets, in lower case.
    outputs: BTreeSet<String>,
    /// Headers in which tokens are looked for, and `:path` where they may be in the query.
    locations: BTreeSet<String>,
}

impl<'a> Bench<'a> {
    pub fn new(program: &'a Program, tokens: Vec<JwtRule>) -> Self {
        let mut outputs = BTreeSet::new();
        let mut locations = BTreeSet::new();
        for rule in &tokens {
            outputs.extend(rule.output_payload_to_header.iter().cloned());
            outputs.extend(rule.output_claim_to_headers.iter().map(|(h, _)| h.clone()));
            let nowhere = rule.from_headers.is_empty()
                && rule.from_params.is_empty()
                && rule.from_cookies.is_empty();
            locations.extend(rule.from_headers.iter().map(|(header, _)| header.clone()));
            if nowhere {
                locations.insert("authorization".into());
            }
            if nowhere || !rule.from_params.is_empty() {
                locations.insert(":path".into());
            }
        }
        let lower = |names: BTreeSet<String>| -> BTreeSet<String> {
            names.into_iter().map(|n| n.to_ascii_lowercase()).collect()
        };
        Self {
            program,
            tokens,
            outputs: lower(outputs),
            locations: lower(locations),
        }
    }
}

/// Compares cells, and remembers.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub atoms: Atoms<'a>,
    pub decisions: Decisions,
    providers: Vec<Option<ExtensionProvider>>,
}

/// The cell of one side; a workload that is not there has none.
pub(super) type OneCell<'a, 'b> = Option<(&'b Bench<'a>, &'b CellData)>;

impl<'a> Judge<'a> {
    pub fn new(atoms: Atoms<'a>) -> Self {
        Self {
            atoms,
            decisions: Decisions::new(),
            providers: Vec::new(),
        }
    }

    /// All differences of two cells.
    pub fn compare(&mut self, old: OneCell<'a, '_>, new: OneCell<'a, '_>) -> Vec<Finding> {
        let judged = |cell: &OneCell<'_, '_>| cell.is_some_and(|(_, c)| c.residual.http.is_some());
        let http = judged(&old) || judged(&new);
        let kinds: &[Kind] = match (old, new) {
            (Some(_), Some(_)) => &[
                Kind::Reach,
                Kind::Custom,
                Kind::Audit,
                Kind::DryRunAllow,
                Kind::DryRunDeny,
            ],
            // What a workload is that is there on one side alone, is who can reach it.
            _ => &[Kind::Reach],
        };
        let mut found = Vec::new();
        for &kind in kinds {
            let mut of_tcp = self.spoken(old, new, kind, Protocol::Tcp);
            let of_http = match http {
                true => self.spoken(old, new, kind, Protocol::Http),
                false => Vec::new(),
            };
            if !http || alike(&of_tcp, &of_http) {
                for finding in &mut of_tcp {
                    finding.protocol = Protocol::Any;
                }
                found.extend(of_tcp);
            } else {
                found.extend(of_tcp);
                found.extend(of_http);
            }
        }
        found.extend(malformed(old, new));
        found
    }

    fn spoken(
        &mut self,
        old: OneCell<'a, '_>,
        new: OneCell<'a, '_>,
        kind: Kind,
        protocol: Protocol,
    ) -> Vec<Finding> {
        let [old, new] = [old, new].map(|cell| self.side(cell, kind, protocol));
        let node = self.decisions.compare(&self.atoms, old, new);
        self.collect(node, kind, protocol)
    }

    /// One finding for each pair of causes.
    fn collect(&self, node: NodeId, kind: Kind, protocol: Protocol) -> Vec<Finding> {
        if node == SAME {
            return Vec::new();
        }
        let ends = self.decisions.ways(node, WAYS_MAX).into_iter();
        ends.map(|(said, ways, more)| Finding {
            kind,
            protocol,
            malformed: false,
            said,
            ways,
            more,
        })
        .collect()
    }

    fn side(&mut self, cell: OneCell<'a, '_>, kind: Kind, protocol: Protocol) -> Side {
        let Some((bench, cell)) = cell else {
            return Side::Decided(no(Cause::NoAllowMatched, None));
        };
        let residual = &cell.residual;
        let http = residual
            .http
            .as_ref()
            .filter(|_| protocol == Protocol::Http);
        let stages = http.unwrap_or(&residual.tcp);
        let back = residual.forwarded_for;
        match kind {
            Kind::Reach => self.reach(bench, cell, stages),
            Kind::Custom => {
                let Provider::Named(name) = &stages.provider else {
                    return Side::Decided(no(Cause::CustomDenied, None));
                };
                if cell.verdict != Decided::Ask {
                    return Side::Decided(no(Cause::CustomDenied, None));
                }
                let providers = &bench.program.mesh.extension_providers;
                let provider = providers.iter().find(|p| p.name == *name).cloned();
                let label = self.label(provider);
                let rules = self.early(bench, &stages.custom, Cause::CustomDenied, back);
                any(rules, label, Cause::CustomDenied)
            }
            Kind::Audit | Kind::DryRunAllow | Kind::DryRunDeny => {
                let rules = match kind {
                    Kind::Audit => &stages.audit,
                    Kind::DryRunAllow => &stages.dry_run_allow,
                    _ => &stages.dry_run_deny,
                };
                let rules = self.late(bench, rules, Cause::AllowRule, back);
                any(rules, 0, Cause::AllowRule)
            }
            Kind::Authentication => Side::Decided(no(Cause::JwtInvalid, None)),
        }
    }

    fn reach(&mut self, bench: &Bench<'a>, cell: &CellData, stages: &Stages) -> Side {
        match cell.verdict {
            Decided::Deny => return Side::Decided(no(cell.cause, cell.rule)),
            Decided::Allow => return Side::Decided(yes(cell.cause, cell.rule)),
            Decided::Ask => {}
        }
        let back = cell.residual.forwarded_for;
        let mut deny = match stages.provider {
            Provider::Unresolved => {
                self.early(bench, &stages.custom, Cause::CustomUnresolved, back)
            }
            Provider::None | Provider::Named(_) => Vec::new(),
        };
        deny.extend(self.late(bench, &stages.deny, Cause::DenyRule, back));
        let otherwise = match stages.otherwise {
            Otherwise::Allow => yes(Cause::NoAllowPolicy, None),
            Otherwise::Deny => no(Cause::NoAllowMatched, None),
            Otherwise::DefaultDeny(rule) => no(Cause::DefaultDeny, Some(rule)),
        };
        Side::Open {
            deny,
            allow: self.late(bench, &stages.allow, Cause::AllowRule, back),
            label: 0,
            otherwise,
        }
    }

    /// Rules as they are asked once the tokens have been looked at.
    fn late(
        &mut self,
        bench: &Bench<'a>,
        rules: &[ResidualRule],
        cause: Cause,
        back: u32,
    ) -> Vec<Left> {
        self.rules(rules, cause, |atoms, id| match atoms.get(id) {
            Some(Atom::RemoteIp(_)) => atoms.variant(id, Variant::Forwarded(back)),
            Some(Atom::Header { name, .. }) if bench.outputs.contains(name) => {
                atoms.variant(id, Variant::Output)
            }
            _ => id,
        })
    }

    /// Rules as they are asked before that: CUSTOM's.
    fn early(
        &mut self,
        bench: &Bench<'a>,
        rules: &[ResidualRule],
        cause: Cause,
        back: u32,
    ) -> Vec<Left> {
        self.rules(rules, cause, |atoms, id| match atoms.get(id) {
            Some(Atom::RemoteIp(_)) => atoms.variant(id, Variant::Forwarded(back)),
            Some(Atom::Header { name, .. }) if bench.locations.contains(name) => {
                atoms.variant(id, Variant::Early)
            }
            _ => id,
        })
    }

    fn rules(
        &mut self,
        rules: &[ResidualRule],
        cause: Cause,
        number: impl Fn(&mut Atoms<'a>, AtomId) -> AtomId,
    ) -> Vec<Left> {
        let mut left = Vec::with_capacity(rules.len());
        for rule in rules {
            let mut clauses = rule.clauses.clone();
            for literal in literals(&mut clauses) {
                for atom in &mut literal.any {
                    *atom = number(&mut self.atoms, *atom);
                }
                literal.any.sort_unstable();
            }
            left.push(Left {
                rule: rule.rule,
                cause,
                content: self.decisions.content(clauses),
            });
        }
        left
    }

    fn label(&mut self, provider: Option<ExtensionProvider>) -> u32 {
        let known = self.providers.iter().position(|p| *p == provider);
        let number = known.unwrap_or_else(|| {
            self.providers.push(provider);
            self.providers.len() - 1
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// The name of a provider that a label stands for.
    pub fn provider(&self, label: u32) -> &str {
        let provider = self.providers.get(label as usize).and_then(Option::as_ref);
        provider.map_or("", |p| &p.name)
    }
}

fn literals(clauses: &mut [Clause]) -> impl Iterator<Item = &mut Literal> {
    clauses
        .iter_mut()
        .flat_map(|clause| &mut clause.any)
        .flat_map(|Alternative { all }| all)
}

fn yes(cause: Cause, rule: Option<RuleRef>) -> Said {
    Said {
        yes: true,
        label: 0,
        cause,
        rule,
    }
}

fn no(cause: Cause, rule: Option<RuleRef>) -> Said {
    Said {
        yes: false,
        ..yes(cause, rule)
    }
}

/// Whether any of the rules matches.
fn any(rules: Vec<Left>, label: u32, cause: Cause) -> Side {
    Side::Open {
        deny: Vec::new(),
        allow: rules,
        label,
        otherwise: no(cause, None),
    }
}

/// Whether the same is found whatever is spoken, without any condition.
fn alike(tcp: &[Finding], http: &[Finding]) -> bool {
    let plain = |f: &Finding| f.ways.iter().all(|w| w.conditions.is_empty());
    tcp.len() == http.len()
        && tcp
            .iter()
            .zip(http)
            .all(|(t, h)| plain(t) && plain(h) && (t.kind, t.said) == (h.kind, h.said))
}

/// HTTP that is not well-formed is answered with 400 where requests are judged one by one, and passes
/// where the kernel lets the connection through.
fn malformed(old: OneCell<'_, '_>, new: OneCell<'_, '_>) -> Option<Finding> {
    let verdict = |cell: OneCell<'_, '_>| -> Option<Said> {
        let (_, cell) = cell?;
        Some(match cell.verdict {
            Decided::Allow => yes(cell.cause, cell.rule),
            Decided::Deny => no(cell.cause, cell.rule),
            Decided::Ask if cell.residual.http.is_some() => no(Cause::BadRequest, None),
            // Judged as bytes, of which more is known only with the server's name.
            Decided::Ask => return None,
        })
    };
    let bytes = |cell: OneCell<'_, '_>| cell.is_some() && verdict(cell).is_none();
    let refuses = |cell| verdict(cell).is_some_and(|said| said.cause == Cause::BadRequest);
    let said = match (verdict(old), verdict(new)) {
        (Some(old), Some(new)) if old.yes != new.yes => Some((old, new)),
        _ => None,
    };
    let one = |cell, other| refuses(cell) && (said.is_some() || bytes(other));
    (one(old, new) || one(new, old)).then(|| Finding {
        kind: Kind::Reach,
        protocol: Protocol::Http,
        malformed: true,
        said,
        ways: vec![Way {
            conditions: Vec::new(),
            differ: said,
        }],
        more: false,
    })
}

/// What two equal findings have in common.
type Outline = (Kind, Protocol, bool, Option<(Said, Said)>, usize);

/// Findings by their cells, so that equal pairs are compared once.
#[derive(Debug, Default)]
pub(super) struct Compared {
    numbers: HashMap<[Option<CellData>; 2], usize>,
    /// Findings that may be equal, by what is easily compared.
    alike: HashMap<Vec<Outline>, Vec<usize>>,
    pub findings: Vec<Rc<Vec<Finding>>>,
}

impl Compared {
    /// The number of the findings of two cells; `None` when there are none.
    pub fn number<'a>(
        &mut self,
        judge: &mut Judge<'a>,
        benches: [Option<&Bench<'a>>; 2],
        cells: [Option<CellData>; 2],
    ) -> Option<usize> {
        if let Some(&number) = self.numbers.get(&cells) {
            return number.checked_sub(1);
        }
        let found = {
            let [old, new] = &cells;
            let [old_bench, new_bench] = benches;
            judge.compare(old_bench.zip(old.as_ref()), new_bench.zip(new.as_ref()))
        };
        let number = if found.is_empty() {
            0
        } else {
            self.numbered(found) + 1
        };
        self.numbers.insert(cells, number);
        number.checked_sub(1)
    }

    /// The number of findings; equal ones have the same, whatever cells they are of.
    fn numbered(&mut self, found: Vec<Finding>) -> usize {
        let outline = found
            .iter()
            .map(|f| (f.kind, f.protocol, f.malformed, f.said, f.ways.len()))
            .collect();
        let known = self.alike.entry(outline).or_default();
        let same = |number: &&usize| self.findings.get(**number).is_some_and(|f| **f == found);
        if let Some(number) = known.iter().find(same) {
            return *number;
        }
        known.push(self.findings.len());
        self.findings.push(Rc::new(found));
        self.findings.len() - 1
    }
}
