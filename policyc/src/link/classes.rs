//! Source classes: sources that no rule can tell apart. The classes index the table, so its size
//! follows the policies, not the pods.
//!
//! A source is described by the set of atoms that are true of it: those about its identity, and
//! those about its address. Equal sets are one class; the empty set is class 0.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use enforcer_ebpf::words;
use foldhash::fast::FixedState;
use indexmap::IndexMap;

use super::{
    LinkError,
    blocks::{Blocks, Piece},
    interner::{Interner, Signature},
};
use crate::ir::{Atom, AtomId, Pattern, Program};

/// Who a source is: what its certificate would say.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity {
    pub trust_domain: String,
    pub namespace: String,
    pub service_account: String,
}

impl Identity {
    /// `<trust domain>/ns/<namespace>/sa/<service account>`
    pub fn principal(&self) -> String {
        format!(
            "{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

/// Whom a connection comes from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Source {
    pub identity: Option<Identity>,
    pub address: Option<IpAddr>,
}

/// Finds the class of a source, and makes it where it is new.
#[derive(Debug)]
pub struct Classes<'a> {
    program: &'a Program,
    asked: BTreeSet<AtomId>,
    identities: IdentityAtoms<'a>,
    pub(super) blocks: Blocks,
    /// In the order in which they were met.
    pub(super) by_identity: IndexMap<Identity, u32>,
    pub(super) identity_signatures: Interner,
    /// By the numbers of what is true of the identity and of the address.
    by_pair: HashMap<(u32, u32), u16, FixedState>,
    pub(super) signatures: Interner,
}

/// So many identities have classes though nobody may have them.
const NAMED_MAX: usize = 4_096;

/// The finished classes.
#[derive(Clone, Debug, Default)]
pub struct Closed {
    /// Atoms that are true of each class, sorted.
    pub signatures: Vec<Vec<AtomId>>,
    /// Classes that each atom is true of.
    pub by_atom: HashMap<AtomId, Vec<u16>>,
    /// How many there are: a number may be nobody's, and has no atoms then.
    pub count: usize,
}

impl<'a> Classes<'a> {
    /// Classes that every rule of a program tells apart.
    ///
    /// # Errors
    /// More IP blocks than a table holds.
    pub fn new(program: &'a Program) -> Result<Self, LinkError> {
        let all = (0u32..).zip(&program.atoms);
        Self::asking(program, all.map(|(number, _)| AtomId(number)).collect())
    }

    /// Classes that some of the atoms tell apart: what no policy of a node asks, its table need not
    /// know.
    ///
    /// # Errors
    /// More IP blocks than a table holds.
    pub fn asking(program: &'a Program, asked: BTreeSet<AtomId>) -> Result<Self, LinkError> {
        Ok(Self {
            program,
            identities: IdentityAtoms::new(program, &asked),
            blocks: Blocks::new(program, asked.iter().copied())?,
            asked,
            by_identity: IndexMap::new(),
            identity_signatures: Interner::new(),
            by_pair: HashMap::default(),
            signatures: Interner::new(),
        })
    }

    /// Makes the classes of those whom policies name, whether or not anybody is there: who comes
    /// later needs no other table. Not where they are too many for that.
    ///
    /// # Errors
    /// More classes than a cell's index holds.
    pub(crate) fn expect_named(&mut self, trust_domain: &str) -> Result<(), LinkError> {
        let named = self.identities.named(trust_domain);
        if named.len() <= NAMED_MAX {
            for identity in named {
                let number = self.identity(&identity);
                self.pair(number, 0)?;
            }
        }
        Ok(())
    }

    /// The IP blocks that policies name.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// The class of a piece of address space, from which no identity comes.
    ///
    /// # Errors
    /// More classes than a cell's index holds.
    pub fn anonymous(&mut self, piece: Piece) -> Result<u16, LinkError> {
        self.pair(0, piece.signature)
    }

    /// The class of a source.
    ///
    /// # Errors
    /// More classes than a cell's index holds.
    pub fn class(&mut self, source: &Source) -> Result<u16, LinkError> {
        let identity = match &source.identity {
            Some(identity) => self.identity(identity),
            None => NOBODY,
        };
        self.at(identity, source.address)
    }

    /// The number of an identity, for [`Classes::at`].
    pub(crate) fn identity(&mut self, identity: &Identity) -> u32 {
        if let Some(&number) = self.by_identity.get(identity) {
            return number;
        }
        let atoms = self.identities.of(self.program, identity);
        let number = self.identity_signatures.intern(atoms);
        self.by_identity.insert(identity.clone(), number);
        number
    }

    /// The class of a source whose identity has that number.
    pub(crate) fn at(&mut self, identity: u32, address: Option<IpAddr>) -> Result<u16, LinkError> {
        let block = address.map_or(0, |address| self.blocks.signature(address));
        self.pair(identity, block)
    }

    fn pair(&mut self, identity: u32, block: u32) -> Result<u16, LinkError> {
        if let Some(&class) = self.by_pair.get(&(identity, block)) {
            return Ok(class);
        }
        let atoms = self.atoms((identity, block));
        let class = self.signatures.intern(atoms);
        self.pair_is((identity, block), class)
    }

    /// What is true of an identity and of an address, by their numbers.
    pub(super) fn atoms(&self, (identity, block): (u32, u32)) -> Signature {
        both(
            self.identity_signatures.get(identity),
            self.blocks.atoms(block),
        )
    }

    /// Remembers the class of a pair.
    pub(super) fn pair_is(&mut self, pair: (u32, u32), class: u32) -> Result<u16, LinkError> {
        let class = u16::try_from(class).map_err(|_| LinkError::Capacity {
            what: "source classes",
            count: class as usize + 1,
            limit: words::CLASSES_MAX as usize,
            fix: "name fewer distinct principals and IP blocks, or use namespaces",
        })?;
        self.by_pair.insert(pair, class);
        Ok(class)
    }

    pub fn close(self) -> Closed {
        self.finish().0
    }

    /// The finished classes, and what finds the class of a source that comes later.
    pub(crate) fn finish(self) -> (Closed, Partition) {
        let mut pairs: Vec<_> = self.by_pair.into_iter().collect();
        pairs.sort_unstable();
        let partition = Partition {
            asked: self.asked,
            blocks: self.blocks,
            by_identity: self.by_identity,
            identity_signatures: self.identity_signatures,
            pairs: pairs.into_iter().collect(),
            signatures: self.signatures.clone(),
        };
        let count = self.signatures.len();
        let signatures = self.signatures.into_all();
        let mut by_atom: HashMap<AtomId, Vec<u16>> = HashMap::new();
        for (class, atoms) in (0..=u16::MAX).zip(&signatures) {
            for &atom in atoms {
                by_atom.entry(atom).or_default().push(class);
            }
        }
        let closed = Closed {
            signatures,
            by_atom,
            count,
        };
        (closed, partition)
    }
}

/// The number of what no identity is known of: that of the empty set.
pub(crate) const NOBODY: u32 = 0;

/// The classes of a linked table, for sources that come later.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    asked: BTreeSet<AtomId>,
    pub(super) blocks: Blocks,
    pub(super) by_identity: IndexMap<Identity, u32>,
    identity_signatures: Interner,
    pub(super) pairs: BTreeMap<(u32, u32), u16>,
    signatures: Interner,
}

impl Partition {
    /// The class of a source, where the table has one. `program` must be the one that was linked.
    pub fn class(&mut self, program: &Program, source: &Source) -> Option<u16> {
        let identity = match &source.identity {
            None => NOBODY,
            Some(identity) => match self.by_identity.get(identity) {
                Some(&number) => number,
                None => {
                    let atoms = IdentityAtoms::new(program, &self.asked).of(program, identity);
                    let number = self.identity_signatures.intern(atoms);
                    self.by_identity.insert(identity.clone(), number);
                    number
                }
            },
        };
        let block = source
            .address
            .map_or(0, |address| self.blocks.signature(address));
        if let Some(&class) = self.pairs.get(&(identity, block)) {
            return Some(class);
        }
        let atoms = both(
            self.identity_signatures.get(identity),
            self.blocks.atoms(block),
        );
        let class = u16::try_from(self.signatures.find(&atoms)?).ok()?;
        self.pairs.insert((identity, block), class);
        Some(class)
    }
}

/// What is true of an identity, and of an address.
fn both(identity: &[AtomId], block: &[AtomId]) -> Signature {
    let mut atoms: Signature = identity.iter().chain(block).copied().collect();
    atoms.sort_unstable();
    atoms.dedup();
    atoms
}

/// Atoms about identities, filed so that exact ones need no search.
#[derive(Debug, Default)]
struct IdentityAtoms<'a> {
    principals: HashMap<&'a str, AtomId>,
    namespaces: HashMap<&'a str, AtomId>,
    service_accounts: HashMap<(&'a str, &'a str), AtomId>,
    /// Patterns, tried one by one for each distinct identity.
    others: Vec<AtomId>,
}

impl<'a> IdentityAtoms<'a> {
    fn new(program: &'a Program, asked: &BTreeSet<AtomId>) -> Self {
        let mut atoms = Self::default();
        for &id in asked {
            let Some(atom) = program.atoms.get(id.index()) else {
                continue;
            };
            match atom {
                Atom::Principal(Pattern::Exact(value)) => {
                    atoms.principals.insert(value, id);
                }
                Atom::Namespace(value) if !value.contains('*') => {
                    atoms.namespaces.insert(value, id);
                }
                Atom::ServiceAccount { namespace, name } => {
                    atoms.service_accounts.insert((namespace, name), id);
                }
                Atom::Principal(_) | Atom::Namespace(_) | Atom::TrustDomain(_) => {
                    atoms.others.push(id);
                }
                _ => {}
            }
        }
        atoms
    }

    /// Whom exact values name, in order.
    fn named(&self, trust_domain: &str) -> BTreeSet<Identity> {
        let identity = |trust_domain: &str, namespace: &str, service_account: &str| Identity {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        };
        let principals = self.principals.keys().filter_map(|principal| {
            let (domain, rest) = principal.split_once("/ns/")?;
            let (namespace, account) = rest.split_once("/sa/")?;
            Some(identity(domain, namespace, account))
        });
        let accounts = self.service_accounts.keys();
        let accounts = accounts.map(|(namespace, name)| identity(trust_domain, namespace, name));
        principals.chain(accounts).collect()
    }

    fn of(&self, program: &Program, identity: &Identity) -> Signature {
        let principal = identity.principal();
        let mut found: Signature = Vec::new();
        found.extend(self.principals.get(principal.as_str()));
        found.extend(self.namespaces.get(identity.namespace.as_str()));
        found.extend(self.service_accounts.get(&(
            identity.namespace.as_str(),
            identity.service_account.as_str(),
        )));
        found.extend(
            self.others
                .iter()
                .filter(|id| match program.atoms.get(id.index()) {
                    Some(Atom::Principal(pattern)) => pattern.matches(&principal),
                    Some(Atom::Namespace(pattern)) => wildcard(pattern, &identity.namespace),
                    Some(Atom::TrustDomain(pattern)) => pattern.matches(&identity.trust_domain),
                    _ => false,
                }),
        );
        found.sort_unstable();
        found
    }
}

/// A pattern in which every `*` stands for any text, the empty one included. It is compared with
/// the namespace alone: Istio's regular expression lets a star eat the rest of the identity, so
/// that `*sa` matches every peer; no author of a policy means that.
fn wildcard(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or(""),
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_in_a_namespace_stands_for_any_text_of_the_namespace() {
        for (pattern, text, expected) in [
            ("*", "a", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*sa", "prod-sa", true),
            ("*sa", "default", false),
            ("a*b", "a-x-b", true),
            ("a*b", "ab", true),
            ("a*b", "a-x-c", false),
            ("a*b*c", "abbc", true),
        ] {
            assert_eq!(
                wildcard(pattern, text),
                expected,
                "`{pattern}` against `{text}`"
            );
        }
    }
}
