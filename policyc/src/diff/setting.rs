//! The scopes of a group of destinations on both sides, and what they can tell apart.

use std::collections::BTreeSet;

use super::{cells::Bench, places::Group, shared};
use crate::{
    cluster::Protocol as Declared,
    ir::{Atom, AtomId, Fact, Program, Provider},
    lower::scope::Scope,
};

/// Ports of which the same is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PortKind {
    pub atoms: [Option<AtomId>; 2],
    pub declared: [Declared; 2],
    pub ports: Vec<u16>,
    /// Every port that nobody names, besides.
    pub others: bool,
}

/// The scopes of one group of destinations, and what they can tell apart.
pub(super) struct Setting<'a> {
    /// By side, then by family; one for both where nothing tells these apart.
    pub scopes: [Option<Vec<Scope<'a>>>; 2],
    pub benches: [Option<Bench<'a>>; 2],
    /// Policies tell addresses of the destination apart.
    pub apart: bool,
    /// Atoms about the source.
    pub asked: BTreeSet<AtomId>,
    pub ports: Vec<PortKind>,
}

impl<'a> Setting<'a> {
    pub fn new(programs: &'a [Program; 2], group: &Group) -> Self {
        let apart = group.keys.iter().flatten().any(|[v4, v6]| v4 != v6);
        let mut scopes = [None, None];
        let mut benches = [None, None];
        for (side, (program, keys)) in programs.iter().zip(&group.keys).enumerate() {
            let (Some(keys), Some(scopes), Some(bench)) =
                (keys, scopes.get_mut(side), benches.get_mut(side))
            else {
                continue;
            };
            let families = if apart { 2 } else { 1 };
            let made = keys.iter().take(families);
            *scopes = Some(made.map(|key| Scope::new(program, key.clone())).collect());
            let tokens = shared::token_rules(program, &keys[0].authentications);
            *bench = Some(Bench::new(program, tokens));
        }
        let all = || scopes.iter().flatten().flatten();
        let asked = all().flat_map(|s: &Scope<'_>| &s.source_atoms).copied();
        let asked: BTreeSet<AtomId> = asked.collect();
        let named: BTreeSet<u16> = all()
            .flat_map(|s| s.port_atoms.keys().chain(s.key.ports.keys()))
            .copied()
            .collect();
        let mut ports: Vec<PortKind> = Vec::new();
        let kind = |port: Option<u16>| {
            let mut atoms = [None, None];
            let mut declared = [Declared::Undeclared; 2];
            for ((scopes, atom), declared) in scopes.iter().zip(&mut atoms).zip(&mut declared) {
                let scope = scopes.as_ref().and_then(|s: &Vec<Scope<'_>>| s.first());
                if let (Some(scope), Some(port)) = (scope, port) {
                    *atom = scope.port_atoms.get(&port).copied();
                    *declared = scope.key.ports.get(&port).copied().unwrap_or(*declared);
                }
            }
            (atoms, declared)
        };
        let mut add = |port: Option<u16>| {
            let (atoms, declared) = kind(port);
            let known = ports
                .iter_mut()
                .find(|k| (k.atoms, k.declared) == (atoms, declared));
            match known {
                Some(known) => known.ports.extend(port),
                None => ports.push(PortKind {
                    atoms,
                    declared,
                    ports: port.into_iter().collect(),
                    others: port.is_none(),
                }),
            }
        };
        add(None);
        named.iter().for_each(|port| add(Some(*port)));
        Self {
            scopes,
            benches,
            apart,
            asked,
            ports,
        }
    }

    /// Whether any rule asks about the path.
    pub fn asks_path(&self) -> bool {
        self.atoms().any(|atom| match atom {
            Atom::Path(_) => true,
            Atom::Header { name, .. } => name == ":path",
            _ => false,
        })
    }

    /// Whether some connection is judged request by request.
    pub fn asks_requests(&self) -> bool {
        let scopes = || self.scopes.iter().flatten().flatten();
        let tokens = self.benches.iter().flatten().any(|b| !b.tokens.is_empty());
        let custom = scopes().any(|scope| scope.provider != Provider::None);
        let asked = |atom: &Atom| {
            !matches!(
                atom.fact(),
                Fact::Source | Fact::Destination | Fact::Nothing
            )
        };
        tokens || custom || self.atoms().any(asked)
    }

    fn atoms(&self) -> impl Iterator<Item = &Atom> {
        self.scopes.iter().flatten().flatten().flat_map(|scope| {
            let atoms = scope.rules().flat_map(crate::lower::scope::atoms);
            atoms.filter_map(|id| scope.program.atoms.get(id.index()))
        })
    }

    pub fn scope(&self, side: usize, v6: bool) -> Option<&Scope<'a>> {
        let scopes = self.scopes.get(side)?.as_ref()?;
        scopes.get(usize::from(v6 && self.apart))
    }
}
