//! The classes of a table under other policies: as many sources as possible keep the number of their
//! class, so that few words of addresses change with the policies.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    LinkError,
    classes::{Classes, Identity, NOBODY, Partition},
};
use crate::ir::{AtomId, Program};

/// Classes, and the identities that have another class than before at some address.
pub(crate) struct Renumbered<'a> {
    pub classes: Classes<'a>,
    pub moved: Vec<Identity>,
}

/// Renumbers. `None`: the IP blocks are not those of before.
///
/// # Errors
/// A limit that is exceeded.
pub(crate) fn renumber<'a>(
    program: &'a Program,
    asked: BTreeSet<AtomId>,
    before: &Partition,
) -> Result<Option<Renumbered<'a>>, LinkError> {
    let mut classes = Classes::asking(program, asked)?;
    if classes.blocks.nets != before.blocks.nets {
        return Ok(None);
    }
    // From what was true of an identity to what is, with how many go that way.
    let mut ways: BTreeMap<(u32, u32), usize> = BTreeMap::from([((NOBODY, NOBODY), 0)]);
    for (identity, &was) in &before.by_identity {
        let is = classes.identity(identity);
        *ways.entry((was, is)).or_default() += 1;
    }
    let mut ordered: Vec<_> = ways.into_iter().collect();
    // Where there is no identity nothing moves: the words of ranges stay as they are.
    ordered.sort_by_key(|(way, count)| (*way != (NOBODY, NOBODY), Reverse(*count), *way));
    // Number 0 is nobody else's.
    let mut taken = BTreeSet::from([0]);
    let mut moved = BTreeSet::new();
    let mut homeless = Vec::new();
    for ((was, is), _) in ordered {
        for ((_, block), class) in before.pairs.range((was, 0)..=(was, u32::MAX)) {
            let pair = (is, *block);
            let atoms = classes.atoms(pair);
            let number = match classes.signatures.find(&atoms) {
                Some(number) => number,
                None if taken.insert(u32::from(*class)) => {
                    classes.signatures.give(u32::from(*class), atoms);
                    u32::from(*class)
                }
                None => {
                    homeless.push(pair);
                    moved.insert((was, is));
                    continue;
                }
            };
            if number != u32::from(*class) {
                moved.insert((was, is));
            }
            classes.pair_is(pair, number)?;
        }
    }
    let mut free = (1..).filter(|number| !taken.contains(number));
    for pair in homeless {
        let atoms = classes.atoms(pair);
        let number = match classes.signatures.find(&atoms) {
            Some(number) => number,
            None => {
                let number = free.next().unwrap_or(u32::MAX);
                classes.signatures.give(number, atoms);
                number
            }
        };
        classes.pair_is(pair, number)?;
    }
    let is_moved = |(identity, was): &(&Identity, &u32)| {
        let is = classes.by_identity.get(*identity);
        is.is_some_and(|is| moved.contains(&(**was, *is)))
    };
    let moved = before.by_identity.iter().filter(is_moved);
    let moved = moved.map(|(identity, _)| identity.clone()).collect();
    Ok(Some(Renumbered { classes, moved }))
}
