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
use ipnet::IpNet;

use super::LinkError;
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

/// Sorted set of atoms.
type Signature = Vec<AtomId>;

/// Finds the class of a source, and makes it where it is new.
#[derive(Debug)]
pub struct Classes<'a> {
    program: &'a Program,
    identities: IdentityAtoms<'a>,
    blocks: Blocks,
    by_identity: HashMap<Identity, u32>,
    identity_signatures: Interner,
    by_pair: HashMap<(u32, u32), u16>,
    signatures: Interner,
}

/// The finished classes.
#[derive(Clone, Debug, Default)]
pub struct Closed {
    /// Atoms that are true of each class, sorted.
    pub signatures: Vec<Vec<AtomId>>,
    /// Classes that each atom is true of.
    pub by_atom: HashMap<AtomId, Vec<u16>>,
}

impl<'a> Classes<'a> {
    pub fn new(program: &'a Program) -> Result<Self, LinkError> {
        Ok(Self {
            program,
            identities: IdentityAtoms::new(program),
            blocks: Blocks::new(program)?,
            by_identity: HashMap::new(),
            identity_signatures: Interner::new(),
            by_pair: HashMap::new(),
            signatures: Interner::new(),
        })
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
        let atoms = both(
            self.identity_signatures.get(identity),
            self.blocks.signatures.get(block),
        );
        let class = self.signatures.intern(atoms);
        let class = u16::try_from(class).map_err(|_| LinkError::Capacity {
            what: "source classes",
            count: class as usize + 1,
            limit: words::CLASSES_MAX as usize,
            fix: "name fewer distinct principals and IP blocks, or use namespaces",
        })?;
        self.by_pair.insert((identity, block), class);
        Ok(class)
    }

    pub fn close(self) -> Closed {
        self.finish().0
    }

    /// The finished classes, and what finds the class of a source that comes later.
    pub(crate) fn finish(self) -> (Closed, Partition) {
        let signatures = self.signatures.all;
        let mut by_atom: HashMap<AtomId, Vec<u16>> = HashMap::new();
        for (class, atoms) in (0..=u16::MAX).zip(&signatures) {
            for &atom in atoms {
                by_atom.entry(atom).or_default().push(class);
            }
        }
        let closed = Closed {
            signatures,
            by_atom,
        };
        let partition = Partition {
            blocks: self.blocks,
            by_identity: self.by_identity,
            identity_signatures: self.identity_signatures,
            numbers: self.signatures.numbers,
        };
        (closed, partition)
    }
}

/// The number of what no identity is known of: that of the empty set.
pub(crate) const NOBODY: u32 = 0;

/// The classes of a linked table, for sources that come later.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    blocks: Blocks,
    by_identity: HashMap<Identity, u32>,
    identity_signatures: Interner,
    numbers: HashMap<Signature, u32>,
}

impl Partition {
    /// The class of a source, where the table has one. `program` must be the one that was linked.
    pub fn class(&self, program: &Program, source: &Source) -> Option<u16> {
        let found;
        let identity = match &source.identity {
            None => &[],
            Some(identity) => match self.by_identity.get(identity) {
                Some(&number) => self.identity_signatures.get(number),
                None => {
                    found = IdentityAtoms::new(program).of(program, identity);
                    &found[..]
                }
            },
        };
        let block = source
            .address
            .map_or(0, |address| self.blocks.signature(address));
        let atoms = both(identity, self.blocks.signatures.get(block));
        let class = self.numbers.get(&atoms)?;
        u16::try_from(*class).ok()
    }
}

/// What is true of an identity, and of an address.
fn both(identity: &[AtomId], block: impl Iterator<Item = AtomId>) -> Signature {
    let atoms: BTreeSet<AtomId> = identity.iter().copied().chain(block).collect();
    atoms.into_iter().collect()
}

/// Numbers equal sets alike. Number 0 is the empty set.
#[derive(Clone, Debug)]
struct Interner {
    all: Vec<Signature>,
    numbers: HashMap<Signature, u32>,
}

impl Interner {
    fn new() -> Self {
        let mut interner = Self {
            all: Vec::new(),
            numbers: HashMap::new(),
        };
        interner.intern(Vec::new());
        interner
    }

    fn intern(&mut self, atoms: Signature) -> u32 {
        if let Some(&number) = self.numbers.get(&atoms) {
            return number;
        }
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        self.all.push(atoms.clone());
        self.numbers.insert(atoms, number);
        number
    }

    fn get(&self, number: u32) -> &[AtomId] {
        self.all.get(number as usize).map_or(&[], Vec::as_slice)
    }
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
    fn new(program: &'a Program) -> Self {
        let mut atoms = Self::default();
        for (number, atom) in (0u32..).zip(&program.atoms) {
            let id = AtomId(number);
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

/// A piece of one family's address space, from `start` to the start of the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub start: u128,
    signature: u32,
}

/// The IP blocks that policies name, and for every address which of them hold it.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// Every distinct block, shortest prefix first.
    pub nets: Vec<IpNet>,
    atoms: BTreeMap<IpNet, Vec<AtomId>>,
    signatures: Signatures,
    /// First address of each piece, with the number of its signature; IPv4 and IPv6.
    v4: Vec<Piece>,
    v6: Vec<Piece>,
}

#[derive(Clone, Debug)]
struct Signatures(Interner);

impl Signatures {
    fn get(&self, number: u32) -> impl Iterator<Item = AtomId> + '_ {
        self.0.get(number).iter().copied()
    }
}

impl Blocks {
    fn new(program: &Program) -> Result<Self, LinkError> {
        let mut atoms: BTreeMap<IpNet, Vec<AtomId>> = BTreeMap::new();
        for (number, atom) in (0u32..).zip(&program.atoms) {
            if let Atom::SourceIp(net) | Atom::RemoteIp(net) = atom {
                atoms.entry(*net).or_default().push(AtomId(number));
            }
        }
        LinkError::capacity(
            "IP blocks",
            atoms.len(),
            words::IP_BLOCKS_MAX,
            "merge neighbouring blocks, or select the sources by identity",
        )?;
        let mut nets: Vec<IpNet> = atoms.keys().copied().collect();
        nets.sort_by_key(|net| (net.prefix_len(), *net));
        let mut blocks = Self {
            nets,
            atoms,
            signatures: Signatures(Interner::new()),
            v4: Vec::new(),
            v6: Vec::new(),
        };
        blocks.v4 = blocks.pieces(|net| matches!(net, IpNet::V4(_)));
        blocks.v6 = blocks.pieces(|net| matches!(net, IpNet::V6(_)));
        Ok(blocks)
    }

    /// The IPv4 or the IPv6 address space, cut at the ends of all blocks, in order.
    pub fn pieces_of(&self, v6: bool) -> &[Piece] {
        if v6 { &self.v6 } else { &self.v4 }
    }

    /// Number of the set of blocks that hold the address; 0 for none.
    fn signature(&self, address: IpAddr) -> u32 {
        let (pieces, key) = match address {
            IpAddr::V4(a) => (&self.v4, u128::from(u32::from(a))),
            IpAddr::V6(a) => (&self.v6, u128::from(a)),
        };
        let after = pieces.partition_point(|piece| piece.start <= key);
        after
            .checked_sub(1)
            .and_then(|i| pieces.get(i))
            .map_or(0, |piece| piece.signature)
    }

    /// Cuts one family's address space at every block's ends. Blocks nest or are apart, so the
    /// blocks that hold a piece are those that are open when it starts.
    fn pieces(&mut self, family: impl Fn(&IpNet) -> bool) -> Vec<Piece> {
        let mut nets: Vec<(u128, u128, IpNet)> = self
            .nets
            .iter()
            .filter(|net| family(net))
            .map(|net| (first(net.network()), first(net.broadcast()), *net))
            .collect();
        nets.sort_by_key(|(start, end, _)| (*start, std::cmp::Reverse(*end)));
        let mut pieces = vec![Piece {
            start: 0,
            signature: 0,
        }];
        let mut open: Vec<(u128, IpNet)> = Vec::new();
        for (start, end, net) in nets {
            self.close(&mut open, &mut pieces, |last| last < start);
            open.push((end, net));
            self.cut(&open, start, &mut pieces);
        }
        self.close(&mut open, &mut pieces, |_| true);
        pieces
    }

    fn close(
        &mut self,
        open: &mut Vec<(u128, IpNet)>,
        pieces: &mut Vec<Piece>,
        ended: impl Fn(u128) -> bool,
    ) {
        while let Some((last, _)) = open.last().copied().filter(|(last, _)| ended(*last)) {
            open.pop();
            if let Some(next) = last.checked_add(1) {
                self.cut(open, next, pieces);
            }
        }
    }

    fn cut(&mut self, open: &[(u128, IpNet)], start: u128, pieces: &mut Vec<Piece>) {
        let mut atoms: Signature = open
            .iter()
            .filter_map(|(_, net)| self.atoms.get(net))
            .flatten()
            .copied()
            .collect();
        atoms.sort_unstable();
        let signature = self.signatures.0.intern(atoms);
        match pieces.last_mut() {
            Some(last) if last.start == start => last.signature = signature,
            _ => pieces.push(Piece { start, signature }),
        }
    }
}

fn first(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
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

    #[test]
    fn pieces_know_every_block_that_holds_them() {
        let net = |s: &str| s.parse::<IpNet>().unwrap();
        let program = Program {
            atoms: [
                "10.0.0.0/8",
                "10.1.0.0/16",
                "10.1.2.3/32",
                "0.0.0.0/0",
                "fd00::/8",
            ]
            .iter()
            .map(|s| Atom::SourceIp(net(s)))
            .collect(),
            ..Program::default()
        };
        let blocks = Blocks::new(&program).unwrap();
        let of = |s: &str| -> Vec<u32> {
            blocks
                .signatures
                .get(blocks.signature(s.parse().unwrap()))
                .map(|a| a.0)
                .collect()
        };
        assert_eq!(of("10.1.2.3"), [0, 1, 2, 3]);
        assert_eq!(of("10.1.2.4"), [0, 1, 3]);
        assert_eq!(of("10.2.0.0"), [0, 3]);
        assert_eq!(of("9.255.255.255"), [3]);
        assert_eq!(of("255.255.255.255"), [3]);
        assert_eq!(of("fd00::1"), [4]);
        assert_eq!(
            of("fe00::1"),
            Vec::<u32>::new(),
            "an IPv4 block never holds an IPv6 address"
        );
    }
}
