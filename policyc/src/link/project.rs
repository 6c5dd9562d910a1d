//! The source classes as one scope sees them: classes for which all of its rules give the same
//! answers are one row, though others tell them apart.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::classes::Closed;
use crate::{
    ir::AtomId,
    lower::scope::{Scope, questions},
};

/// One set of true atoms for each distinct set of answers that some class gives, and for each class
/// that is not like most of them, which set. Set 0 is the one of most classes.
///
/// An answer is a field's: whether some value in the list holds. A list of a thousand principals is
/// one question, so it makes two rows and not a thousand.
pub(crate) fn project(
    scope: &Scope<'_>,
    classes: &Closed,
) -> (Vec<BTreeSet<AtomId>>, Vec<(u16, u16)>) {
    let answers = answers(scope, classes).by_class;
    let untouched = classes.signatures.len() - answers.len();
    let mut members: BTreeMap<&[u32], Vec<u16>> = BTreeMap::new();
    for (class, answers) in &answers {
        members.entry(answers).or_default().push(*class);
    }
    let most = members
        .iter()
        .filter(|(_, classes)| classes.len() > untouched)
        .max_by_key(|(_, classes)| classes.len())
        .map_or(&[][..], |(answers, _)| answers);
    let known = |class: u16| -> BTreeSet<AtomId> {
        let atoms = classes.signatures.get(usize::from(class));
        let own = |atom: &&AtomId| scope.source_atoms.contains(atom);
        atoms.into_iter().flatten().filter(own).copied().collect()
    };
    let first = members.get(most).and_then(|classes| classes.first());
    let mut sets = vec![first.map_or_else(BTreeSet::new, |class| known(*class))];
    let mut rows = Vec::new();
    if !most.is_empty() {
        let others = (0..=u16::MAX)
            .take(classes.signatures.len())
            .filter(|class| !answers.contains_key(class));
        members.insert(&[], others.collect());
    }
    for (of, classes) in &members {
        if *of == most {
            continue;
        }
        let Some(first) = classes.first() else {
            continue;
        };
        // INVARIANT: there are no more sets than source classes, of which there are 65 536.
        let number = u16::try_from(sets.len()).unwrap_or(u16::MAX);
        sets.push(known(*first));
        rows.extend(classes.iter().map(|class| (*class, number)));
    }
    rows.sort_unstable();
    (sets, rows)
}

/// What a scope asks of sources.
pub(crate) struct Answers<'a> {
    /// For each class of which some question is true, which ones, sorted.
    pub by_class: BTreeMap<u16, Vec<u32>>,
    /// The number of each question: of a field's values.
    pub asked: HashMap<&'a [AtomId], u32>,
}

/// Asks the questions of a scope of every class.
pub(crate) fn answers<'a>(scope: &Scope<'a>, classes: &Closed) -> Answers<'a> {
    let mut asked: HashMap<&[AtomId], u32> = HashMap::new();
    let mut by_atom: HashMap<AtomId, Vec<u32>> = HashMap::new();
    for rule in scope.rules() {
        for literal in questions(rule) {
            let next = u32::try_from(asked.len()).unwrap_or(u32::MAX);
            let number = *asked.entry(&literal.any).or_insert(next);
            if number == next {
                for atom in &literal.any {
                    by_atom.entry(*atom).or_default().push(number);
                }
            }
        }
    }
    let mut answers: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    for atom in &scope.source_atoms {
        let (Some(of), Some(questions)) = (classes.by_atom.get(atom), by_atom.get(atom)) else {
            continue;
        };
        for class in of {
            answers.entry(*class).or_default().extend(questions);
        }
    }
    for questions in answers.values_mut() {
        questions.sort_unstable();
        questions.dedup();
    }
    Answers {
        by_class: answers,
        asked,
    }
}
