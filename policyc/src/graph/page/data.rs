//! The page's data: numbers, and strings that are named by number. `data.js` reads it in the same
//! order.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::{
    cluster::Protocol,
    explain,
    graph::{Family, Party, PartyKind, Port, Reach, compare},
    ir::{Action, Atom, Clause, Fact, Policy},
    lower::cell::{CellData, Decided},
};

#[derive(Serialize)]
pub struct Page {
    strings: Vec<String>,
    now: Side,
    was: Option<Side>,
}

/// One account.
#[derive(Serialize)]
struct Side {
    atoms: Vec<(u32, u32, u8, bool)>,
    policies: Vec<PolicyData>,
    classes: Vec<Vec<u32>>,
    scopes: Vec<ScopeData>,
    cells: Vec<CellRow>,
    /// Lists of (port, protocol).
    ports: Vec<Vec<(u16, u8)>>,
    parties: Vec<PartyData>,
    trusted_proxies: u32,
    default_deny: bool,
}

/// Namespace, name, file, action, dry run, rules.
type PolicyData = (u32, u32, u32, u32, bool, Vec<RuleData>);
/// Line, then clauses of alternatives of literals; a literal is "not" and atoms.
type RuleData = (u32, Vec<Vec<Vec<(bool, Vec<u32>)>>>);
/// Policies, true destination atoms, gateway, tokens are read, ports and columns, declared ports,
/// classes and rows, rows of cells.
type ScopeData = (
    Vec<u32>,
    Vec<u32>,
    bool,
    bool,
    Vec<(u16, u16)>,
    Vec<(u16, u8)>,
    Vec<(u16, u16)>,
    Vec<Vec<u32>>,
);
/// Verdict, cause, policy and rule or nothing, what userspace judges by.
type CellRow = (u8, u32, Option<(u32, u32)>, u32);
/// Namespace, name, kind, service account, pods, family, addressless, class, scope, ports.
type PartyData = (
    u32,
    u32,
    u32,
    u32,
    Vec<u32>,
    u8,
    bool,
    u16,
    Option<usize>,
    usize,
);

/// Pods of a party that are named; the others are counted.
const MEMBERS_NAMED: usize = 20;

impl Page {
    pub fn new(now: &Reach<'_>, was: Option<&Reach<'_>>) -> Self {
        let mut strings = Strings::default();
        let mut residuals = was.map(|_| HashMap::new());
        let now = Side::new(now, &mut strings, &mut residuals);
        let was = was.map(|was| Side::new(was, &mut strings, &mut residuals));
        Self {
            strings: strings.all,
            now,
            was,
        }
    }
}

/// Each string once.
#[derive(Default)]
struct Strings {
    all: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Strings {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        self.all.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }
}

/// Numbers for what userspace judges by; only two sides need them.
type Residuals = Option<HashMap<String, u32>>;

impl Side {
    fn new(reach: &Reach<'_>, strings: &mut Strings, residuals: &mut Residuals) -> Self {
        let program = reach.program;
        let mut lists: BTreeMap<&[Port], usize> = BTreeMap::new();
        let mut ports = vec![Vec::new()];
        lists.insert(&[], 0);
        for destination in reach.parties.iter().filter_map(|p| p.destination.as_ref()) {
            lists.entry(&destination.ports).or_insert_with(|| {
                let list = destination.ports.iter();
                ports.push(list.map(|p| (p.port, protocol(p.declared))).collect());
                ports.len() - 1
            });
        }
        let parties = reach.parties.iter();
        let parties = parties.map(|p| party(p, strings, &lists)).collect();
        Self {
            atoms: program.atoms.iter().map(|a| atom(a, strings)).collect(),
            policies: program
                .policies
                .iter()
                .map(|p| policy(p, strings))
                .collect(),
            classes: reach
                .classes
                .iter()
                .map(|atoms| atoms.iter().map(|a| a.0).collect())
                .collect(),
            scopes: reach.scopes.iter().map(scope).collect(),
            cells: reach
                .cells
                .iter()
                .map(|c| cell(reach, c, strings, residuals))
                .collect(),
            ports,
            parties,
            trusted_proxies: program.mesh.trusted_proxies,
            default_deny: program.catch_all_deny == crate::options::CatchAllDeny::DefaultDeny,
        }
    }
}

fn atom(atom: &Atom, strings: &mut Strings) -> (u32, u32, u8, bool) {
    let fact = match atom.fact() {
        Fact::Source => 0,
        Fact::Destination => 1,
        Fact::RemoteAddress => 2,
        Fact::ServerName => 3,
        Fact::Http => 4,
        Fact::Nothing => 5,
    };
    (
        strings.number(&atom.field()),
        strings.number(&atom.value()),
        fact,
        atom.asks_token(),
    )
}

fn policy(policy: &Policy, strings: &mut Strings) -> PolicyData {
    let action = match &policy.action {
        Action::Allow => "ALLOW".to_owned(),
        Action::Deny => "DENY".to_owned(),
        Action::Audit => "AUDIT".to_owned(),
        Action::Custom { provider } => format!("CUSTOM {provider}"),
    };
    let rules = policy.rules.iter().zip(&policy.lines);
    (
        strings.number(&policy.namespace),
        strings.number(&policy.name),
        strings.number(&policy.file),
        strings.number(&action),
        policy.dry_run,
        rules
            .map(|(rule, line)| (*line, rule.clauses.iter().map(clause).collect()))
            .collect(),
    )
}

fn clause(clause: &Clause) -> Vec<Vec<(bool, Vec<u32>)>> {
    let alternatives = clause.any.iter();
    alternatives
        .map(|alternative| {
            let literals = alternative.all.iter();
            literals
                .map(|l| (l.negated, l.any.iter().map(|a| a.0).collect()))
                .collect()
        })
        .collect()
}

fn scope(scope: &crate::graph::ScopeReach) -> ScopeData {
    let key = &scope.key;
    (
        key.policies.iter().map(|p| p.0).collect(),
        key.destination.iter().map(|a| a.0).collect(),
        key.gateway,
        !key.authentications.is_empty(),
        scope.ports.clone(),
        key.ports.iter().map(|(p, d)| (*p, protocol(*d))).collect(),
        scope.classes.clone(),
        scope.rows.clone(),
    )
}

fn cell(
    reach: &Reach<'_>,
    cell: &CellData,
    strings: &mut Strings,
    residuals: &mut Residuals,
) -> CellRow {
    let verdict = match cell.verdict {
        Decided::Deny => 0,
        Decided::Allow => 1,
        Decided::Ask => 2,
    };
    let judged_by = match residuals {
        Some(numbers) if cell.verdict == Decided::Ask => {
            let next = u32::try_from(numbers.len() + 1).unwrap_or(u32::MAX);
            let text = compare::residual(reach.program, cell);
            *numbers.entry(text).or_insert(next)
        }
        _ => 0,
    };
    (
        verdict,
        strings.number(explain::cause(cell.cause)),
        cell.rule.map(|r| (r.policy.0, r.rule)),
        judged_by,
    )
}

fn party(party: &Party, strings: &mut Strings, lists: &BTreeMap<&[Port], usize>) -> PartyData {
    let kind = match &party.kind {
        PartyKind::Workload(kind) => kind.as_str(),
        PartyKind::Identity => "identity",
        PartyKind::Block => "addresses",
        PartyKind::Elsewhere => "elsewhere",
    };
    let mut members: Vec<u32> = party
        .members
        .iter()
        .take(MEMBERS_NAMED)
        .map(|name| strings.number(name))
        .collect();
    let more = party.members.len() - members.len();
    if more > 0 {
        members.push(strings.number(&format!("and {more} more")));
    }
    let destination = party.destination.as_ref();
    (
        strings.number(&party.namespace),
        strings.number(&party.name),
        strings.number(kind),
        strings.number(&party.service_account),
        members,
        match party.family {
            None => 0,
            Some(Family::V4) => 4,
            Some(Family::V6) => 6,
        },
        party.addressless,
        party.class,
        destination.map(|d| d.scope),
        destination
            .and_then(|d| lists.get(d.ports.as_slice()).copied())
            .unwrap_or(0),
    )
}

fn protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Undeclared => 0,
        Protocol::Http => 1,
        Protocol::Tcp => 2,
    }
}
