//! Every source that the policies of a workload can tell from another, one of each kind.
//!
//! An identity is three parts: trust domain, namespace, service account. What an atom asks of it
//! falls apart into what it asks of each part, so the kinds are found part by part, and no identity
//! that could exist is passed over, whether somebody runs under it or not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use super::{
    fields,
    strings::{self, Class, Domain, Pattern as Part, Piece},
};
use crate::{
    ir::{Atom, AtomId, Pattern},
    link::Identity,
};

/// One kind of source: which atoms are true of it on either side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub who: Option<Who>,
    pub address: IpAddr,
    pub sets: [BTreeSet<AtomId>; 2],
}

/// An identity; its trust domain is the mesh's own, whichever that is on each side, unless given.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Who {
    pub trust_domain: Option<String>,
    pub namespace: String,
    pub service_account: String,
}

/// Rows that are compared for one workload.
const ROWS_MAX: usize = 2_000_000;

/// What an atom asks of the parts of an identity; nothing of one that is `None`.
#[derive(Clone, Debug, Default)]
struct Wants {
    parts: [Option<Part>; 3],
}

/// All kinds. `domains` are the mesh's own trust domains; `v6` the families of the destination's
/// addresses, `apart` whether policies tell these apart.
///
/// # Errors
/// More kinds than can be compared.
pub(super) fn rows(
    atoms: &[Atom],
    asked: &BTreeSet<AtomId>,
    domains: [&str; 2],
    families: &[bool],
    apart: bool,
) -> Result<Vec<Row>, String> {
    let too_many =
        || "too many kinds of sources to compare: name fewer distinct patterns".to_owned();
    let mut nets = Vec::new();
    for id in asked {
        if let Some(Atom::SourceIp(net) | Atom::RemoteIp(net)) = atoms.get(id.index()) {
            nets.push((*id, *net));
        }
    }
    let mut pieces: Vec<(IpAddr, Vec<AtomId>)> = fields::addresses(&nets)
        .into_iter()
        .filter(|(address, _)| families.contains(&address.is_ipv6()))
        .collect();
    if !apart {
        let mut known = BTreeSet::new();
        pieces.retain(|(_, holding)| known.insert(holding.clone()));
    }
    let identities = identities(atoms, asked, domains).ok_or_else(too_many)?;
    if identities.len().saturating_mul(pieces.len()) > ROWS_MAX {
        return Err(too_many());
    }
    let mut rows = Vec::with_capacity(identities.len() * pieces.len());
    for (who, sets) in &identities {
        for (address, holding) in &pieces {
            rows.push(Row {
                who: who.clone(),
                address: *address,
                sets: sets
                    .clone()
                    .map(|set| set.iter().chain(holding).copied().collect()),
            });
        }
    }
    Ok(rows)
}

type Kinds = Vec<(Option<Who>, [BTreeSet<AtomId>; 2])>;

/// Nobody first, then those whom no atom names.
fn identities(atoms: &[Atom], asked: &BTreeSet<AtomId>, domains: [&str; 2]) -> Option<Kinds> {
    let mut wants: Vec<(AtomId, Wants)> = Vec::new();
    for &id in asked {
        if let Some(parts) = atoms.get(id.index()).and_then(parts) {
            wants.push((id, Wants { parts }));
        }
    }
    let all: Vec<usize> = (0..wants.len()).collect();
    let mut finder = Finder {
        wants: &wants,
        memo: HashMap::new(),
    };
    let own = domains.map(|domain| finder.alive(&all, 0, domain));
    let mut choices: Vec<(Option<String>, [Vec<usize>; 2])> = vec![(None, own)];
    for (domain, alive) in finder.cells(&all, 0)? {
        if domains != [domain.as_str(); 2] {
            choices.push((Some(domain), [alive.clone(), alive]));
        }
    }
    let mut kinds: Kinds = vec![(None, [BTreeSet::new(), BTreeSet::new()])];
    let mut known: BTreeSet<[BTreeSet<AtomId>; 2]> = BTreeSet::new();
    for (domain, [old, new]) in choices {
        let either = union(&old, &new);
        for (namespace, in_namespace) in finder.cells(&either, 1)? {
            for (account, alive) in finder.cells(&in_namespace, 2)? {
                let set = |of: &[usize]| -> BTreeSet<AtomId> {
                    let both = alive.iter().filter(|i| of.binary_search(i).is_ok());
                    both.filter_map(|i| wants.get(*i))
                        .map(|(id, _)| *id)
                        .collect()
                };
                let sets = [set(&old), set(&new)];
                if known.insert(sets.clone()) {
                    let who = Who {
                        trust_domain: domain.clone(),
                        namespace: namespace.clone(),
                        service_account: account,
                    };
                    kinds.push((Some(who), sets));
                }
            }
        }
    }
    Some(kinds)
}

fn union(a: &[usize], b: &[usize]) -> Vec<usize> {
    let all: BTreeSet<usize> = a.iter().chain(b).copied().collect();
    all.into_iter().collect()
}

/// A witness for one part, and the wants that still hold with it.
type Choices = Vec<(String, Vec<usize>)>;

struct Finder<'a> {
    wants: &'a [(AtomId, Wants)],
    memo: HashMap<(usize, Vec<usize>), Option<Choices>>,
}

impl Finder<'_> {
    fn part(&self, want: usize, part: usize) -> Option<&Part> {
        self.wants.get(want)?.1.parts.get(part)?.as_ref()
    }

    /// The wants that hold for this value of a part.
    fn alive(&self, of: &[usize], part: usize, value: &str) -> Vec<usize> {
        let holds = |want: &&usize| match self.part(**want, part) {
            None => true,
            Some(pattern) => !strings::matching(std::slice::from_ref(pattern), value).is_empty(),
        };
        of.iter().filter(holds).copied().collect()
    }

    /// Every combination of wants that some value of a part makes hold.
    fn cells(&mut self, of: &[usize], part: usize) -> Option<Choices> {
        let key = (part, of.to_vec());
        if let Some(known) = self.memo.get(&key) {
            return known.clone();
        }
        let mut patterns: Vec<Part> = Vec::new();
        let mut numbers: HashMap<&Part, usize> = HashMap::new();
        let mut asking: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut indifferent = Vec::new();
        for &want in of {
            match self.part(want, part) {
                None => indifferent.push(want),
                Some(pattern) => {
                    let number = *numbers.entry(pattern).or_insert_with(|| {
                        patterns.push(pattern.clone());
                        patterns.len() - 1
                    });
                    asking.entry(number).or_default().push(want);
                }
            }
        }
        let cells = strings::cells(&patterns, Domain::Part).map(|cells| {
            let one = |cell: strings::Cell| {
                let mut alive = indifferent.clone();
                alive.extend(cell.matches.iter().filter_map(|n| asking.get(n)).flatten());
                alive.sort_unstable();
                (cell.witness, alive)
            };
            cells.into_iter().map(one).collect::<Choices>()
        });
        self.memo.insert(key, cells.clone());
        cells
    }
}

/// What an atom asks of trust domain, namespace and service account; `None` for one that no
/// identity satisfies, or that is not about identities.
fn parts(atom: &Atom) -> Option<[Option<Part>; 3]> {
    let exact = |text: &str| Some(Part::new(Part::literal(text)));
    Some(match atom {
        Atom::Principal(Pattern::Present) => [None, None, None],
        Atom::Principal(Pattern::Exact(text)) => principal(text, false, false)?,
        Atom::Principal(Pattern::Prefix(text)) => principal(text, false, true)?,
        Atom::Principal(Pattern::Suffix(text)) => principal(text, true, false)?,
        Atom::Namespace(glob) => [None, Some(Part::glob(glob)), None],
        Atom::ServiceAccount { namespace, name } => [None, exact(namespace), exact(name)],
        Atom::TrustDomain(pattern) => [Some(of_pattern(pattern)), None, None],
        _ => return None,
    })
}

fn of_pattern(pattern: &Pattern) -> Part {
    let any = Piece::Many(Class::Any);
    Part::new(match pattern {
        Pattern::Exact(text) => Part::literal(text),
        Pattern::Prefix(text) => [Part::literal(text), vec![any]].concat(),
        Pattern::Suffix(text) => [vec![any], Part::literal(text)].concat(),
        Pattern::Present => vec![any],
    })
}

/// Text of `<trust domain>/ns/<namespace>/sa/<service account>`, of which the beginning or the end
/// may be missing. The last segment that is there, or the first, may be cut.
fn principal(text: &str, cut_before: bool, cut_after: bool) -> Option<[Option<Part>; 3]> {
    const NAMES: [Option<&str>; 5] = [None, Some("ns"), None, Some("sa"), None];
    let segments: Vec<&str> = text.split('/').collect();
    let first = match cut_before {
        true => NAMES.len().checked_sub(segments.len())?,
        false => 0,
    };
    if !cut_before && !cut_after && segments.len() != NAMES.len() {
        return None;
    }
    let mut parts = [None, None, None];
    for (number, segment) in segments.iter().enumerate() {
        let before = cut_before && number == 0;
        let after = cut_after && number + 1 == segments.len();
        match NAMES.get(first + number)? {
            Some(name) => {
                let fits = match (before, after) {
                    (true, _) => name.ends_with(segment),
                    (_, true) => name.starts_with(segment),
                    _ => name == segment,
                };
                if !fits {
                    return None;
                }
            }
            None => {
                let part = match (before, after) {
                    (true, _) => Pattern::Suffix((*segment).into()),
                    (_, true) => Pattern::Prefix((*segment).into()),
                    _ => Pattern::Exact((*segment).into()),
                };
                *parts.get_mut((first + number) / 2)? = Some(of_pattern(&part));
            }
        }
    }
    Some(parts)
}

impl Who {
    /// The identity on a side whose own trust domain is that.
    pub fn identity(&self, own: &str) -> Identity {
        Identity {
            trust_domain: self.trust_domain.clone().unwrap_or_else(|| own.into()),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ir::Program,
        link::{Source, classes::Classes},
    };

    /// Every identity of short parts gives a kind that was found, and every kind is its witness's.
    #[test]
    fn no_identity_is_passed_over() {
        let principal = |text: &str| Atom::Principal(Pattern::parse(text));
        let account = |namespace: &str, name: &str| Atom::ServiceAccount {
            namespace: namespace.into(),
            name: name.into(),
        };
        let atoms = vec![
            principal("*"),
            principal("a/ns/b/sa/a"),
            principal("a/ns/*"),
            principal("a/n*"),
            principal("a*"),
            principal("*a"),
            principal("*a/sa/b"),
            principal("*/sa/a"),
            principal("*s/b/sa/a"),
            principal("a/ns/b*"),
            principal("a/ns/b/sa/a*"),
            principal("a/b"),
            Atom::Namespace("a*b".into()),
            Atom::Namespace("*a".into()),
            Atom::Namespace("b".into()),
            account("b", "a"),
            Atom::TrustDomain(Pattern::parse("a*")),
            Atom::TrustDomain(Pattern::parse("*b")),
        ];
        let program = Program {
            atoms: atoms.clone(),
            ..Program::default()
        };
        let asked: BTreeSet<AtomId> = (0..18).map(AtomId).collect();
        let kinds = identities(&atoms, &asked, ["own", "own"]).expect("few kinds");
        let mut classes = Classes::new(&program).expect("no blocks");
        let mut signature = |identity: Identity| {
            let source = Source {
                identity: Some(identity),
                address: None,
            };
            classes.class(&source).expect("few classes")
        };
        let mut found = BTreeSet::new();
        let mut sets = Vec::new();
        for (who, [set, _]) in &kinds {
            if let Some(who) = who {
                let class = signature(who.identity("own"));
                found.insert(class);
                sets.push((class, set.clone()));
            }
        }
        let words = [
            "a", "b", "ab", "ba", "aab", "abb", "x", "xa", "xb", "own", "bx",
        ];
        for trust_domain in words {
            for namespace in words {
                for service_account in words {
                    let identity = Identity {
                        trust_domain: trust_domain.into(),
                        namespace: namespace.into(),
                        service_account: service_account.into(),
                    };
                    let class = signature(identity.clone());
                    assert!(found.contains(&class), "{identity:?} is passed over");
                }
            }
        }
        let closed = classes.close();
        for (class, set) in sets {
            let own: BTreeSet<AtomId> = closed.signatures[usize::from(class)]
                .iter()
                .copied()
                .collect();
            assert_eq!(own, set, "what is true of a kind is true of its witness");
        }
    }
}
