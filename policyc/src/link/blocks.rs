//! IP blocks that policies name: one family's address space, cut into pieces that no policy looks
//! into.

use std::{collections::BTreeMap, net::IpAddr};

use enforcer_ebpf::words;
use ipnet::IpNet;

use super::{
    LinkError,
    interner::{Interner, Signature},
};
use crate::ir::{Atom, AtomId, Program};

/// A piece of one family's address space, from `start` to the start of the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub start: u128,
    pub(super) signature: u32,
}

/// The IP blocks that policies name, and for every address which of them hold it.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// Every distinct block, shortest prefix first.
    pub nets: Vec<IpNet>,
    atoms: BTreeMap<IpNet, Vec<AtomId>>,
    signatures: Interner,
    /// First address of each piece, with the number of its signature; IPv4 and IPv6.
    v4: Vec<Piece>,
    v6: Vec<Piece>,
}

impl Blocks {
    /// Those of the atoms that are `asked`, in order.
    pub(super) fn new(
        program: &Program,
        asked: impl Iterator<Item = AtomId>,
    ) -> Result<Self, LinkError> {
        let mut atoms: BTreeMap<IpNet, Vec<AtomId>> = BTreeMap::new();
        for id in asked {
            if let Some(Atom::SourceIp(net) | Atom::RemoteIp(net)) = program.atoms.get(id.index()) {
                atoms.entry(*net).or_default().push(id);
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
            signatures: Interner::new(),
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

    /// What is true of every address of a set of blocks.
    pub(super) fn atoms(&self, signature: u32) -> &[AtomId] {
        self.signatures.get(signature)
    }

    /// Number of the set of blocks that hold the address; 0 for none. Blocks of the same nets number
    /// their sets alike.
    pub(super) fn signature(&self, address: IpAddr) -> u32 {
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
        let signature = self.signatures.intern(atoms);
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
        let all = (0..5).map(AtomId);
        let blocks = Blocks::new(&program, all).unwrap();
        let of = |s: &str| -> Vec<u32> {
            blocks
                .signatures
                .get(blocks.signature(s.parse().unwrap()))
                .iter()
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
