//! What is left of rules once some atoms are known.

use crate::ir::{Alternative, AtomId, Clause, Literal};

/// What is left of a rule's clauses once some atoms are known: `None` when it cannot match.
pub(super) fn restrict(
    clauses: &[Clause],
    truth: &dyn Fn(AtomId) -> Option<bool>,
) -> Option<Vec<Clause>> {
    let mut left = Vec::new();
    for clause in clauses {
        let mut any = Vec::new();
        let mut holds = false;
        for alternative in &clause.any {
            match alternative_left(alternative, truth) {
                Some(alternative) if alternative.all.is_empty() => {
                    holds = true;
                    break;
                }
                Some(alternative) => any.push(alternative),
                None => {}
            }
        }
        if holds {
            continue;
        }
        if any.is_empty() {
            return None;
        }
        left.push(Clause { any });
    }
    Some(left)
}

fn alternative_left(
    alternative: &Alternative,
    truth: &dyn Fn(AtomId) -> Option<bool>,
) -> Option<Alternative> {
    let mut all = Vec::new();
    for literal in &alternative.all {
        let mut any = Vec::new();
        let mut holds = false;
        for &atom in &literal.any {
            match truth(atom) {
                Some(true) => holds = true,
                Some(false) => {}
                None => any.push(atom),
            }
        }
        let decided = if holds {
            Some(!literal.negated)
        } else if any.is_empty() {
            Some(literal.negated)
        } else {
            None
        };
        match decided {
            Some(false) => return None,
            Some(true) => {}
            None => all.push(Literal {
                any,
                negated: literal.negated,
            }),
        }
    }
    Some(Alternative { all })
}
