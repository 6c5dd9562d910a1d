//! What is asked, in words.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    decision::{Condition, Way},
    fields::{Atoms, Cells, Field, Value},
    report::{FieldWords, Operation, Protocol},
    words::{Words, parts},
};
use crate::ir::{Atom, AtomId};

/// Alternatives that a text spells out.
const SPELLED_OUT: usize = 3;
/// Values of one list that a text spells out.
const VALUES: usize = 4;

/// The operation that these ways lead to.
pub(super) fn operation(
    atoms: &Atoms<'_>,
    ways: &[Way],
    more: bool,
    malformed: bool,
    protocol: Protocol,
) -> Operation {
    let mut alternatives: Vec<Vec<FieldWords>> = Vec::new();
    for fields in ways.iter().flat_map(|way| fields(atoms, way)) {
        if !alternatives.contains(&fields) {
            alternatives.push(fields);
        }
    }
    let everything = || {
        match (malformed, protocol) {
            (true, _) => "malformed HTTP",
            (_, Protocol::Any) => "everything",
            (_, Protocol::Http) => "every HTTP request",
            (_, Protocol::Tcp) => "everything but HTTP",
        }
        .to_owned()
    };
    let mut texts: Vec<String> = alternatives
        .iter()
        .take(SPELLED_OUT)
        .map(|fields| match fields.as_slice() {
            [] => everything(),
            fields => sentence(fields, protocol),
        })
        .collect();
    let left = alternatives.len().saturating_sub(SPELLED_OUT);
    if left > 0 || more {
        let plus = if more { "at least " } else { "" };
        texts.push(format!("{plus}{left} more"));
    }
    Operation {
        text: texts.join("; or "),
        alternatives,
        more,
        malformed,
    }
}

/// An operation without conditions.
pub(super) fn plain(text: String) -> Operation {
    Operation {
        text,
        alternatives: Vec::new(),
        more: false,
        malformed: false,
    }
}

/// The alternatives that a way is made of: more than one where a field's values are told in parts.
fn fields(atoms: &Atoms<'_>, way: &Way) -> Vec<Vec<FieldWords>> {
    let mut all: Vec<Vec<FieldWords>> = vec![Vec::new()];
    let mut told = Vec::new();
    let mut several: BTreeMap<Field, (Vec<AtomId>, Vec<AtomId>)> = BTreeMap::new();
    for condition in &way.conditions {
        match condition {
            Condition::Atom(atom, truth) => {
                let (is, is_not) = several.entry(atoms.field(*atom)).or_default();
                if *truth { is } else { is_not }.push(*atom);
            }
            Condition::Cells(field, cells, numbers) => {
                let parts = cell_words(atoms, field, cells, numbers);
                let longer = |told: &Vec<FieldWords>| -> Vec<Vec<FieldWords>> {
                    let one =
                        |part: &FieldWords| [told.as_slice(), std::slice::from_ref(part)].concat();
                    parts.iter().map(one).collect()
                };
                all = all.iter().flat_map(longer).collect();
            }
        }
    }
    for (field, (is, is_not)) in several {
        let name = name(atoms, &field, is.first().or(is_not.first()));
        // All that are there must be: each is a condition of its own.
        for atom in &is {
            told.push(FieldWords {
                field: name.clone(),
                is: values(atoms, &[*atom]),
                is_not: Vec::new(),
            });
        }
        if !is_not.is_empty() {
            told.push(FieldWords {
                field: name,
                is: Vec::new(),
                is_not: values(atoms, &is_not),
            });
        }
    }
    for alternative in &mut all {
        alternative.extend(told.iter().cloned());
        alternative.retain(|field| !field.is.is_empty() || !field.is_not.is_empty());
        alternative.sort_by_key(|field| match field.field.as_str() {
            "method" => (0, String::new()),
            "path" => (1, String::new()),
            other => (2, other.to_owned()),
        });
    }
    all
}

fn cell_words(
    atoms: &Atoms<'_>,
    field: &Field,
    cells: &Cells,
    numbers: &[usize],
) -> Vec<FieldWords> {
    let universe: Vec<BTreeSet<AtomId>> = cells
        .cells
        .iter()
        .map(|cell| cell.true_.iter().copied().collect())
        .collect();
    let set: BTreeSet<usize> = numbers.iter().copied().collect();
    let field = name(atoms, field, cells.atoms.first());
    let one = |(words, set): (Words<AtomId>, BTreeSet<usize>)| {
        if words.exact {
            return FieldWords {
                field: field.clone(),
                is: values(atoms, &words.is),
                is_not: values(atoms, &words.not),
            };
        }
        // Nothing names these values: one of each kind stands for them.
        let such = set.iter().filter_map(|n| cells.cells.get(*n));
        FieldWords {
            field: field.clone(),
            is: such
                .map(|cell| format!("such as {}", shown(&cell.value)))
                .collect(),
            is_not: Vec::new(),
        }
    };
    parts(&universe, &set).into_iter().map(one).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Absent => "none".into(),
        Value::Text(text) => text.clone(),
        Value::Token(issuer, subject) => format!("{}/{}", issuer.join(","), subject.join(",")),
        Value::Address(address) => address.to_string(),
    }
}

fn values(atoms: &Atoms<'_>, of: &[AtomId]) -> Vec<String> {
    let value = |id: &AtomId| {
        let atom = atoms.get(*id)?;
        Some(match atom {
            Atom::Header { name, value } if name == ":path" => format!("{value} with its query"),
            _ => atom.value(),
        })
    };
    of.iter().filter_map(value).collect()
}

fn name(atoms: &Atoms<'_>, field: &Field, first: Option<&AtomId>) -> String {
    match field {
        Field::Method => "method".into(),
        Field::Target => "path".into(),
        Field::Authority => "host".into(),
        _ => {
            let atom = first.and_then(|id| atoms.get(*id));
            atom.map_or_else(String::new, Atom::field)
        }
    }
}

/// `GET or HEAD on /api/* but not /api/x, where host is a.example`
fn sentence(fields: &[FieldWords], protocol: Protocol) -> String {
    let mut method = None;
    let mut path = None;
    let mut rest = Vec::new();
    for field in fields {
        match field.field.as_str() {
            "method" => method = Some(valued(field, "any method")),
            "path" => path = Some(valued(field, "any path")),
            name => {
                let mut clauses = Vec::new();
                if !field.is.is_empty() {
                    clauses.push(format!("{name} is {}", list(&field.is)));
                }
                if !field.is_not.is_empty() {
                    clauses.push(format!("{name} is not {}", list(&field.is_not)));
                }
                rest.push(clauses.join(" and "));
            }
        }
    }
    let start = match (method, path) {
        (Some(method), Some(path)) if fields.iter().take(2).all(simple) => {
            format!("{method} {path}")
        }
        (Some(method), Some(path)) => format!("{method} on {path}"),
        (Some(method), None) => format!("{method} on any path"),
        (None, Some(path)) => format!("any method on {path}"),
        (None, None) => match protocol {
            Protocol::Any => "everything",
            Protocol::Http => "HTTP",
            Protocol::Tcp => "everything but HTTP",
        }
        .into(),
    };
    match rest.as_slice() {
        [] => start,
        rest => format!("{start} where {}", rest.join(", and ")),
    }
}

fn simple(field: &FieldWords) -> bool {
    field.is.len() == 1 && field.is_not.is_empty()
}

fn valued(field: &FieldWords, any: &str) -> String {
    match (field.is.is_empty(), field.is_not.is_empty()) {
        (true, _) => format!("{any} but {}", list(&field.is_not)),
        (_, true) => list(&field.is),
        _ => format!("{} but not {}", list(&field.is), list(&field.is_not)),
    }
}

/// `a or b or 3 more`
pub(super) fn list(values: &[String]) -> String {
    let mut shown: Vec<String> = values.iter().take(VALUES).cloned().collect();
    if values.len() > VALUES {
        shown.push(format!("{} more", values.len() - VALUES));
    }
    shown.join(" or ")
}
