//! Two orders of judgement compared for every request at once: a decision diagram that asks one
//! field after the other, and ends where the two say the same or differ.
//!
//! Rules that both sides have are looked at only where a rule that one side has alone may matter.
//! Equal questions are answered once.

mod restrict;
mod ways;

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use super::{
    fields::{Atoms, Cells, Field, Known, values},
    shared::canonical,
};
use crate::{
    ir::{AtomId, Clause, RuleRef},
    request::Cause,
};

use restrict::restrict;

/// Steps after which a comparison is given up, and said to be undecided.
const STEPS_MAX: usize = 400_000;
/// Values of one list-like field that may be asked one after the other.
const PENDING_MAX: usize = 300;

/// What one side says, and why.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Said {
    pub yes: bool,
    /// Tells yes from yes: which provider is asked.
    pub label: u32,
    pub cause: Cause,
    pub rule: Option<RuleRef>,
}

/// A rule as it was, and what is left of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Left {
    pub rule: RuleRef,
    pub cause: Cause,
    pub content: u32,
}

/// One side: no where a rule of `deny` matches, else yes where one of `allow` does, else what is said
/// otherwise.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Side {
    Decided(Said),
    Open {
        deny: Vec<Left>,
        allow: Vec<Left>,
        /// For what `allow` matches.
        label: u32,
        otherwise: Said,
    },
}

pub(super) type NodeId = usize;
pub(super) const SAME: NodeId = 0;
const UNKNOWN: NodeId = 1;

#[derive(Debug)]
enum Node {
    Same,
    Unknown,
    Differ(Said, Said),
    /// Cells of one field, and where each leads.
    Field(Field, Rc<Cells>, Vec<(NodeId, Vec<usize>)>),
    /// An atom of a field that holds several values.
    Atom(AtomId, NodeId, NodeId),
}

/// A condition on the way to a difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    /// The field's value is in one of these cells.
    Cells(Field, Rc<Cells>, Vec<usize>),
    Atom(AtomId, bool),
}

/// A way to a difference; `None`: it could not be decided whether there is one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Way {
    pub conditions: Vec<Condition>,
    pub differ: Option<(Said, Said)>,
}

type Key = (Side, Side, Vec<(AtomId, bool)>);

/// What the two sides say where they differ; `None`: whether they do could not be decided.
type End = Option<(Said, Said)>;

/// What makes a node: the atoms of its field stand for its cells.
#[derive(PartialEq, Eq, Hash, Debug)]
enum Shape {
    Differ(Said, Said),
    Field(Field, Vec<AtomId>, Vec<(NodeId, Vec<usize>)>),
    Atom(AtomId, NodeId, NodeId),
}

/// Compares sides, and remembers.
#[derive(Debug)]
pub(super) struct Decisions {
    contents: Vec<Vec<Clause>>,
    /// What each content asks.
    asked: Vec<BTreeSet<AtomId>>,
    numbers: HashMap<Vec<Clause>, u32>,
    nodes: Vec<Node>,
    /// Nodes that say the same are one.
    shared: HashMap<Shape, NodeId>,
    memo: HashMap<Key, NodeId>,
    pub known: Known,
    steps: usize,
}

/// The content of a rule that has matched.
const TRUE: u32 = 0;

impl Decisions {
    pub fn new() -> Self {
        let mut decisions = Self {
            contents: Vec::new(),
            asked: Vec::new(),
            numbers: HashMap::new(),
            nodes: vec![Node::Same, Node::Unknown],
            shared: HashMap::new(),
            memo: HashMap::new(),
            known: Known::default(),
            steps: 0,
        };
        decisions.content(Vec::new());
        decisions
    }

    /// The number of a rule's clauses.
    pub fn content(&mut self, clauses: Vec<Clause>) -> u32 {
        let clauses = canonical(clauses);
        if let Some(&number) = self.numbers.get(&clauses) {
            return number;
        }
        let number = u32::try_from(self.contents.len()).unwrap_or(u32::MAX);
        let literals = clauses.iter().flat_map(|clause| &clause.any);
        let literals = literals.flat_map(|alternative| &alternative.all);
        self.asked
            .push(literals.flat_map(|l| l.any.iter().copied()).collect());
        self.contents.push(clauses.clone());
        self.numbers.insert(clauses, number);
        number
    }

    /// Compares two sides from the start.
    pub fn compare(&mut self, atoms: &Atoms<'_>, old: Side, new: Side) -> NodeId {
        self.steps = 0;
        // What the client has no say in is decided first.
        let fixed = |atom: AtomId| match atoms.field(atom) {
            Field::Fixed(truth) => Some(truth),
            _ => None,
        };
        let [old, new] = [old, new].map(|side| self.restrict(&side, &fixed));
        self.step(atoms, old, new, Vec::new())
    }

    fn step(
        &mut self,
        atoms: &Atoms<'_>,
        old: Side,
        new: Side,
        pending: Vec<(AtomId, bool)>,
    ) -> NodeId {
        if let (Side::Decided(old), Side::Decided(new)) = (&old, &new) {
            let same = old.yes == new.yes && (!old.yes || old.label == new.label);
            return if same {
                SAME
            } else {
                self.node(Node::Differ(*old, *new))
            };
        }
        let changed = changed(&old, &new);
        if changed.is_empty() {
            return SAME;
        }
        let key = (old, new, pending);
        if let Some(&node) = self.memo.get(&key) {
            return node;
        }
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return UNKNOWN;
        }
        let node = self.split(atoms, &key, &changed);
        self.memo.insert(key, node);
        node
    }

    fn split(&mut self, atoms: &Atoms<'_>, key: &Key, changed: &BTreeSet<u32>) -> NodeId {
        let ranked = |atom: &AtomId| (atoms.field(*atom), *atom);
        let asked = self.atoms_of(changed.iter().copied());
        let single = asked.iter().map(ranked).filter(|(f, _)| !f.holds_several());
        // Values of fields that hold several are asked one by one: a rule is asked to its end before
        // the next, or every set of half-asked rules would be a question of its own.
        let shortest = changed
            .iter()
            .filter_map(|content| self.asked.get(*content as usize))
            .filter(|asked| !asked.is_empty())
            .min_by_key(|asked| (asked.len(), asked.first().copied()));
        let several = || shortest?.iter().map(ranked).min();
        let first = single.min().or_else(several);
        let Some((field, atom)) = first else {
            // A rule without atoms is true or false: it was decided before.
            return UNKNOWN;
        };
        if field.holds_several() {
            return self.ask(atoms, key, &field, atom);
        }
        let (old, new, pending) = key;
        let all = self.atoms_of(contents(old).into_iter().chain(contents(new)));
        let own: Vec<AtomId> = all
            .into_iter()
            .filter(|a| atoms.field(*a) == field)
            .collect();
        let Some(cells) = self.known.cells(atoms, &field, &own) else {
            return UNKNOWN;
        };
        let mut edges: Vec<(NodeId, Vec<usize>)> = Vec::new();
        for (number, cell) in cells.cells.iter().enumerate() {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return UNKNOWN;
            }
            let truth = |atom: AtomId| {
                own.binary_search(&atom)
                    .is_ok()
                    .then(|| cell.true_.binary_search(&atom).is_ok())
            };
            let child = if self.vanish(old, new, changed, &truth) {
                SAME
            } else {
                let [old, new] = [old, new].map(|side| self.restrict(side, &truth));
                self.step(atoms, old, new, pending.clone())
            };
            match edges.iter_mut().find(|(known, _)| *known == child) {
                Some((_, numbers)) => numbers.push(number),
                None => edges.push((child, vec![number])),
            }
        }
        match edges.as_slice() {
            [] => SAME,
            [(only, _)] => *only,
            _ => self.node(Node::Field(field, cells, edges)),
        }
    }

    /// Asks one value of a field that holds several.
    fn ask(&mut self, atoms: &Atoms<'_>, key: &Key, field: &Field, atom: AtomId) -> NodeId {
        let (old, new, pending) = key;
        if pending.len() >= PENDING_MAX {
            return UNKNOWN;
        }
        let mut children = Vec::new();
        for truth in [true, false] {
            let mut pending = pending.clone();
            pending.push((atom, truth));
            pending.sort_unstable();
            let own: Vec<(AtomId, bool)> = pending
                .iter()
                .filter(|(a, _)| atoms.field(*a) == *field)
                .copied()
                .collect();
            let of: Vec<AtomId> = own.iter().map(|(a, _)| *a).collect();
            let Some(cells) = self.known.cells(atoms, field, &of) else {
                return UNKNOWN;
            };
            if values(&cells, true, &own).is_none() {
                continue;
            }
            let holds = |a: AtomId| (a == atom).then_some(truth);
            let [old, new] = [old, new].map(|side| self.restrict(side, &holds));
            // What nothing that is still asked can contradict is forgotten.
            let left = self.atoms_of(contents(&old).into_iter().chain(contents(&new)));
            let left: Vec<AtomId> = left
                .into_iter()
                .filter(|a| atoms.field(*a).holds_several())
                .collect();
            pending.retain(|(a, _)| left.iter().any(|other| atoms.may_meet(*a, *other)));
            children.push(self.step(atoms, old, new, pending));
        }
        match children.as_slice() {
            [yes, no] if yes != no => self.node(Node::Atom(atom, *yes, *no)),
            [one, ..] => *one,
            [] => SAME,
        }
    }

    /// Whether nothing is left of the rules that one side has alone, so that both are the same.
    fn vanish(
        &self,
        old: &Side,
        new: &Side,
        changed: &BTreeSet<u32>,
        truth: &dyn Fn(AtomId) -> Option<bool>,
    ) -> bool {
        let otherwise = |side: &Side| match side {
            Side::Decided(_) => None,
            Side::Open {
                otherwise, label, ..
            } => Some((otherwise.yes, otherwise.label, *label)),
        };
        let open = otherwise(old).is_some() && otherwise(old) == otherwise(new);
        let gone = |content: &u32| {
            let clauses = self.contents.get(*content as usize);
            clauses.is_none_or(|clauses| restrict(clauses, truth).is_none())
        };
        open && changed.iter().all(gone)
    }

    fn restrict(&mut self, side: &Side, truth: &dyn Fn(AtomId) -> Option<bool>) -> Side {
        let Side::Open {
            deny,
            allow,
            label,
            otherwise,
        } = side
        else {
            return side.clone();
        };
        let mut left = |rules: &[Left]| -> Vec<Left> {
            let mut kept: Vec<Left> = Vec::new();
            let mut known = BTreeSet::new();
            for rule in rules {
                let asked = self.asked.get(rule.content as usize);
                let decided = |atom: &AtomId| truth(*atom).is_some();
                let content = if asked.is_some_and(|asked| asked.iter().any(decided)) {
                    let clauses = self.contents.get(rule.content as usize);
                    match clauses.and_then(|c| restrict(c, truth)) {
                        Some(clauses) => self.content(clauses),
                        None => continue,
                    }
                } else {
                    rule.content
                };
                if known.insert(content) {
                    kept.push(Left { content, ..*rule });
                }
            }
            kept
        };
        let (deny, mut allow) = (left(deny), left(allow));
        if let Some(sure) = deny.iter().find(|rule| rule.content == TRUE) {
            return Side::Decided(Said {
                yes: false,
                label: 0,
                cause: sure.cause,
                rule: Some(sure.rule),
            });
        }
        let mut otherwise = *otherwise;
        if let Some(sure) = allow.iter().find(|rule| rule.content == TRUE) {
            otherwise = Said {
                yes: true,
                label: *label,
                cause: sure.cause,
                rule: Some(sure.rule),
            };
        }
        if otherwise.yes {
            allow.clear();
        }
        let decided = match otherwise.yes {
            true => deny.is_empty(),
            false => allow.is_empty(),
        };
        if decided {
            return Side::Decided(otherwise);
        }
        Side::Open {
            deny,
            allow,
            label: *label,
            otherwise,
        }
    }

    fn atoms_of(&self, contents: impl Iterator<Item = u32>) -> BTreeSet<AtomId> {
        contents
            .filter_map(|content| self.asked.get(content as usize))
            .flatten()
            .copied()
            .collect()
    }

    fn node(&mut self, node: Node) -> NodeId {
        let shape = match &node {
            Node::Same => return SAME,
            Node::Unknown => return UNKNOWN,
            Node::Differ(old, new) => Shape::Differ(*old, *new),
            Node::Atom(atom, yes, no) => Shape::Atom(*atom, *yes, *no),
            Node::Field(field, cells, edges) => {
                Shape::Field(field.clone(), cells.atoms.clone(), edges.clone())
            }
        };
        let next = self.nodes.len();
        let number = *self.shared.entry(shape).or_insert(next);
        if number == next {
            self.nodes.push(node);
        }
        number
    }
}

fn contents(side: &Side) -> BTreeSet<u32> {
    match side {
        Side::Decided(_) => BTreeSet::new(),
        Side::Open { deny, allow, .. } => {
            deny.iter().chain(allow).map(|rule| rule.content).collect()
        }
    }
}

/// The rules that one side has alone; none when both sides say the same of every request.
fn changed(old: &Side, new: &Side) -> BTreeSet<u32> {
    let (
        Side::Open {
            deny: old_deny,
            allow: old_allow,
            label: old_label,
            otherwise: old_otherwise,
        },
        Side::Open {
            deny: new_deny,
            allow: new_allow,
            label: new_label,
            otherwise: new_otherwise,
        },
    ) = (old, new)
    else {
        return &contents(old) | &contents(new);
    };
    let same = (old_otherwise.yes, old_otherwise.label) == (new_otherwise.yes, new_otherwise.label)
        && old_label == new_label;
    if !same {
        return &contents(old) | &contents(new);
    }
    let of = |rules: &[Left]| -> BTreeSet<u32> { rules.iter().map(|r| r.content).collect() };
    let apart = |old: &[Left], new: &[Left]| &of(old) ^ &of(new);
    &apart(old_deny, new_deny) | &apart(old_allow, new_allow)
}
