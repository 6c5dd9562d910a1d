//! A set, in few words: which features all of its members have and nobody else, or which nobody in
//! it has and everybody else.

use std::collections::{BTreeMap, BTreeSet};

/// The members of a universe that have one of `is` (all, where it is empty), and none of `not`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Words<F> {
    pub is: Vec<F>,
    pub not: Vec<F>,
    /// The words name the set and nothing else.
    pub exact: bool,
}

/// Describes the members numbered `set` of a universe, each given by its features.
pub(super) fn words<F: Copy + Ord>(universe: &[BTreeSet<F>], set: &BTreeSet<usize>) -> Words<F> {
    let mut having: BTreeMap<F, BTreeSet<usize>> = BTreeMap::new();
    for (number, features) in universe.iter().enumerate() {
        for &feature in features {
            having.entry(feature).or_default().insert(number);
        }
    }
    // The widest first: one that names many spares many that name few.
    let mut features: Vec<(F, BTreeSet<usize>)> = having.into_iter().collect();
    features.sort_by_key(|(feature, members)| (std::cmp::Reverse(members.len()), *feature));
    let all: BTreeSet<usize> = (0..universe.len()).collect();
    if *set == all {
        return Words {
            is: Vec::new(),
            not: Vec::new(),
            exact: true,
        };
    }
    let rest: BTreeSet<usize> = &all - set;
    let (is, covered) = cover(&features, set, set);
    let (not, excluded) = cover(&features, &rest, &rest);
    let short = not.len() < is.len();
    if covered == *set && !(excluded == rest && short) {
        return Words {
            is,
            not: Vec::new(),
            exact: true,
        };
    }
    if excluded == rest {
        return Words {
            is: Vec::new(),
            not,
            exact: true,
        };
    }
    // Too wide a name, less what of it is not meant.
    let mut nearest = features.clone();
    nearest.retain(|(_, members)| !members.is_disjoint(set));
    nearest.sort_by_key(|(_, members)| members.difference(set).count());
    let (is, covered) = cover(&nearest, set, &all);
    let (wide, is) = match covered.is_superset(set) {
        true => (covered, is),
        false => (all, Vec::new()),
    };
    let unwanted: BTreeSet<usize> = &wide - set;
    let (not, excluded) = cover(&features, &unwanted, &rest);
    let exact = excluded.is_superset(&unwanted);
    Words { is, not, exact }
}

/// As [`words`]; a set that no words name may still be two that words name.
pub(super) fn parts<F: Copy + Ord>(
    universe: &[BTreeSet<F>],
    set: &BTreeSet<usize>,
) -> Vec<(Words<F>, BTreeSet<usize>)> {
    let whole = words(universe, set);
    if !whole.exact {
        let within = |number: &usize| {
            let features = universe.get(*number);
            features.is_some_and(|features| features.iter().any(|f| only(universe, *f, set)))
        };
        let (named, rest): (BTreeSet<usize>, BTreeSet<usize>) =
            set.iter().copied().partition(within);
        let (one, other) = (words(universe, &named), words(universe, &rest));
        if one.exact && other.exact && !named.is_empty() && !rest.is_empty() {
            return vec![(one, named), (other, rest)];
        }
    }
    vec![(whole, set.clone())]
}

/// Whether only members of the set have the feature.
fn only<F: Ord>(universe: &[BTreeSet<F>], feature: F, set: &BTreeSet<usize>) -> bool {
    let mut members = universe.iter().enumerate();
    members.all(|(number, features)| !features.contains(&feature) || set.contains(&number))
}

/// Features whose members are all `allowed`, as few as a greedy choice finds, that together hold as
/// much of `wanted` as possible; and whom they hold.
fn cover<F: Copy>(
    features: &[(F, BTreeSet<usize>)],
    wanted: &BTreeSet<usize>,
    allowed: &BTreeSet<usize>,
) -> (Vec<F>, BTreeSet<usize>) {
    let mut chosen: Vec<(F, &BTreeSet<usize>)> = Vec::new();
    let mut covered: BTreeSet<usize> = BTreeSet::new();
    let mut left = wanted.len();
    for (feature, members) in features {
        if left == 0 {
            break;
        }
        if !members.is_subset(allowed) {
            continue;
        }
        let gained = members
            .iter()
            .filter(|m| wanted.contains(m) && !covered.contains(m))
            .count();
        if gained > 0 {
            chosen.push((*feature, members));
            left -= gained;
            covered.extend(members);
        }
    }
    // A name all of whose members others name, too, says nothing.
    let mut holders: BTreeMap<usize, usize> = BTreeMap::new();
    for member in chosen.iter().flat_map(|(_, members)| *members) {
        *holders.entry(*member).or_default() += 1;
    }
    chosen.retain(|(_, members)| {
        let own = |member: &usize| wanted.contains(member) && holders.get(member) == Some(&1);
        let needed = members.iter().any(own);
        if !needed {
            for member in *members {
                holders.entry(*member).and_modify(|count| *count -= 1);
            }
        }
        needed
    });
    let kept = chosen
        .iter()
        .flat_map(|(_, members)| members.iter().copied());
    let covered = kept.collect();
    (
        chosen.iter().map(|(feature, _)| *feature).collect(),
        covered,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(universe: &[&[char]], set: &[usize]) -> (String, String, bool) {
        let universe: Vec<BTreeSet<char>> = universe
            .iter()
            .map(|f| f.iter().copied().collect())
            .collect();
        let words = words(&universe, &set.iter().copied().collect());
        (
            words.is.iter().collect(),
            words.not.iter().collect(),
            words.exact,
        )
    }

    #[test]
    fn few_words() {
        let universe: &[&[char]] = &[&[], &['a'], &['a', 'b'], &['c']];
        let own = |is: &str, not: &str| (is.to_owned(), not.to_owned(), true);
        assert_eq!(told(universe, &[0, 1, 2, 3]), own("", ""), "everybody");
        assert_eq!(told(universe, &[1, 2]), own("a", ""));
        assert_eq!(told(universe, &[0, 3]), own("", "a"));
        assert_eq!(told(universe, &[1]), own("a", "b"));
        assert_eq!(told(universe, &[1, 2, 3]), own("ac", ""));
        assert_eq!(told(universe, &[0]), own("", "ac"));
        let methods: &[&[char]] = &[&['*'], &['*', 'g'], &['*', 'p'], &['*', 'p', 'o']];
        assert_eq!(told(methods, &[1, 2]), own("gp", "o"));
        let nested: &[&[char]] = &[&[], &['a'], &['a', 't'], &['a', 'n'], &['a', 'n', 't']];
        assert_eq!(told(nested, &[1, 2]), own("a", "n"), "`t` is within `a`");
        assert!(!told(&[&['a'], &['a']], &[0]).2, "nothing tells them apart");
        let paths: Vec<BTreeSet<char>> = [&[][..], &['a'], &['a', 'd'], &['v']]
            .iter()
            .map(|f| f.iter().copied().collect())
            .collect();
        let two = parts(&paths, &BTreeSet::from([0, 2]));
        let is: Vec<_> = two.iter().map(|(w, _)| (&w.is[..], &w.not[..])).collect();
        assert_eq!(is, [(&['d'][..], &[][..]), (&[][..], &['a', 'v'][..])]);
    }
}
