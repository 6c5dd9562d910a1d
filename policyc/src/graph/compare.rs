//! Two accounts of who may reach whom, set beside each other: what a source may do at a destination
//! and a port, by name. Verdicts are compared, and for those that userspace gives, the rules that it
//! judges by as they are written: two texts of one meaning are reported as a change.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Party, PartyKind, Reach};
use crate::{
    ir::{Program, ResidualRule, Stages},
    lower::cell::{CellData, Decided},
};

/// How a verdict moved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Change {
    /// More may be let through: a refusal was dropped, or what userspace judged passes as it is.
    Opened,
    /// Less may be let through.
    Closed,
    /// Userspace judges, by other rules than before.
    Reworded,
}

/// How one cell differs from another; `None` where it does not.
pub fn change(old: (&Program, &CellData), new: (&Program, &CellData)) -> Option<Change> {
    use Decided::{Allow, Ask, Deny};
    match (old.1.verdict, new.1.verdict) {
        (Deny, Allow) | (Deny, Ask) | (Ask, Allow) => Some(Change::Opened),
        (Allow, Deny) | (Ask, Deny) | (Allow, Ask) => Some(Change::Closed),
        (Ask, Ask) if residual(old.0, old.1) != residual(new.0, new.1) => Some(Change::Reworded),
        (Allow, Allow) | (Deny, Deny) | (Ask, Ask) => None,
    }
}

/// The rules that userspace judges a cell by, as text that does not depend on how a program numbers
/// its atoms and policies.
pub fn residual(program: &Program, cell: &CellData) -> String {
    let mut text = String::new();
    for (meaning, stages) in [
        ("http", cell.residual.http.as_ref()),
        ("tcp", Some(&cell.residual.tcp)),
    ] {
        if let Some(stages) = stages {
            text += meaning;
            text += &stages_text(program, stages);
        }
    }
    text
}

fn stages_text(program: &Program, stages: &Stages) -> String {
    let mut text = format!(" {:?} otherwise {:?}", stages.provider, otherwise(stages));
    for id in &stages.authentications {
        let rules = program.authentications.get(id.index());
        text += &format!(" tokens {:?}", rules.map(|a| &a.jwt_rules));
    }
    for (name, rules) in [
        ("custom", &stages.custom),
        ("deny", &stages.deny),
        ("allow", &stages.allow),
    ] {
        // What matters is which requests some rule matches, not the rule's name or place.
        let rules: BTreeSet<String> = rules.iter().map(|rule| rule_text(program, rule)).collect();
        text += &format!(" {name} {rules:?}");
    }
    text
}

fn otherwise(stages: &Stages) -> bool {
    stages.otherwise == crate::ir::Otherwise::Allow
}

fn rule_text(program: &Program, rule: &ResidualRule) -> String {
    let clauses: BTreeSet<String> = rule
        .clauses
        .iter()
        .map(|clause| {
            let alternatives: BTreeSet<String> = clause
                .any
                .iter()
                .map(|alternative| {
                    let literals: BTreeSet<String> = alternative
                        .all
                        .iter()
                        .map(|literal| {
                            let atoms = literal.any.iter().map(|id| program.atoms.get(id.index()));
                            let atoms: BTreeSet<String> =
                                atoms.map(|atom| format!("{atom:?}")).collect();
                            format!("{}{atoms:?}", if literal.negated { "not " } else { "" })
                        })
                        .collect();
                    format!("{literals:?}")
                })
                .collect();
            format!("{alternatives:?}")
        })
        .collect();
    format!("{clauses:?}")
}

/// One difference: a source, a destination, and the ports at which its verdict moved alike.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Difference {
    /// Indices into the new side's [`Reach::parties`].
    pub from: usize,
    pub to: usize,
    pub change: Change,
    /// `None`: every port that is not listed.
    pub ports: Vec<Option<u16>>,
}

/// Scope and class of the old side and of the new one, and a port: what a change depends on.
type Asked = (usize, u16, usize, u16, Option<u16>);

/// Every difference between parties that both sides know by name, in the order of the new side.
pub fn differences(old: &Reach<'_>, new: &Reach<'_>) -> Vec<Difference> {
    let before: HashMap<(&str, &str), &Party> = old
        .parties
        .iter()
        .map(|p| ((p.namespace.as_str(), p.name.as_str()), p))
        .collect();
    let of_old = |party: &Party| {
        let named = before.get(&(party.namespace.as_str(), party.name.as_str()));
        let block = party.kind == PartyKind::Block;
        named
            .copied()
            .or_else(|| old.around(&party.name).filter(|_| block))
    };
    let mut memo: HashMap<Asked, Option<Change>> = HashMap::new();
    let mut found = Vec::new();
    for (to_number, to) in new.parties.iter().enumerate() {
        let Some(old_to) = of_old(to) else { continue };
        let (Some(a), Some(b)) = (&old_to.destination, &to.destination) else {
            continue;
        };
        let ports: BTreeSet<Option<u16>> = std::iter::once(None)
            .chain(a.ports.iter().chain(&b.ports).map(|p| Some(p.port)))
            .collect();
        for (from_number, from) in new.parties.iter().enumerate() {
            let Some(old_from) = of_old(from) else {
                continue;
            };
            if from.apart(to) || old_from.apart(old_to) {
                continue;
            }
            let mut by_change: BTreeMap<Change, Vec<Option<u16>>> = BTreeMap::new();
            for &port in &ports {
                let key = (a.scope, old_from.class, b.scope, from.class, port);
                let change = *memo.entry(key).or_insert_with(|| {
                    let before = old.cell(old_from, old_to, port)?;
                    let after = new.cell(from, to, port)?;
                    change((old.program, before), (new.program, after))
                });
                if let Some(change) = change {
                    by_change.entry(change).or_default().push(port);
                }
            }
            found.extend(by_change.into_iter().map(|(change, ports)| Difference {
                from: from_number,
                to: to_number,
                change,
                ports,
            }));
        }
    }
    found
}
