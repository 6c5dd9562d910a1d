//! Sources in words, and as requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    members::{Account, Asked, Members, Sets},
    operation::list,
    report::{MEMBERS_MAX, Selector, Sources},
    setting::{PortKind, Setting},
    sources::Row,
    tried::{port_of, request},
    words::words,
};
use crate::{
    ir::{Atom, AtomId, Pattern, Program},
    request::{IpSource, Request, ServiceAccountSource, SourceRef},
};

/// What tells kinds of sources apart, for words.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Feature {
    Anybody,
    Nobody,
    Atom(AtomId),
}

/// Tells sources of one group of destinations.
pub(super) struct Telling<'t> {
    programs: &'t [Program; 2],
    members: &'t Members,
    rows: &'t [Row],
    /// Kinds of addresses of each identity.
    pieces: usize,
    asked: Asked,
    asked_atoms: Vec<AtomId>,
    /// Requests must name the source's address.
    addressed: bool,
}

impl<'t> Telling<'t> {
    pub fn new(
        programs: &'t [Program; 2],
        members: &'t Members,
        setting: &Setting<'_>,
        rows: &'t [Row],
    ) -> Self {
        let atoms = &programs[0].atoms;
        let is_block = |id: &&AtomId| {
            matches!(
                atoms.get(id.index()),
                Some(Atom::SourceIp(_) | Atom::RemoteIp(_))
            )
        };
        Self {
            programs,
            members,
            rows,
            pieces: rows
                .iter()
                .take_while(|row| row.who.is_none())
                .count()
                .max(1),
            asked: members.asked(&setting.asked),
            asked_atoms: setting.asked.iter().copied().collect(),
            addressed: setting.apart || setting.asked.iter().any(|id| is_block(&id)),
        }
    }

    fn is_block(&self, id: AtomId) -> bool {
        let atom = self.programs[0].atoms.get(id.index());
        matches!(atom, Some(Atom::SourceIp(_) | Atom::RemoteIp(_)))
    }

    /// What is true of a row's identity alone.
    fn identity(&self, row: &Row) -> Sets {
        row.sets
            .clone()
            .map(|set| set.into_iter().filter(|id| !self.is_block(*id)).collect())
    }

    pub fn sources(&self, rows: &BTreeSet<usize>) -> Sources {
        let mut identities: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for row in rows {
            let pieces = identities.entry(row / self.pieces).or_default();
            pieces.insert(row % self.pieces);
        }
        let mut by_pieces: BTreeMap<BTreeSet<usize>, BTreeSet<usize>> = BTreeMap::new();
        let mut accounts: BTreeSet<&Account> = BTreeSet::new();
        let mut total = 0;
        let mut sets = BTreeSet::new();
        for (identity, pieces) in identities {
            by_pieces.entry(pieces).or_default().insert(identity);
            if let Some(row) = self.rows.get(identity * self.pieces)
                && row.who.as_ref().is_some_and(|w| w.trust_domain.is_none())
            {
                let own = self.identity(row);
                let (count, some) = self.members.having(&self.asked, &own, MEMBERS_MAX);
                total += count;
                accounts.extend(some.iter().filter_map(|n| self.members.account(*n)));
            }
        }
        for row in rows.iter().filter_map(|row| self.rows.get(*row)) {
            let [_, new] = &row.sets;
            let numbers = self.asked_atoms.iter().enumerate();
            let true_ = numbers.filter(|(_, id)| new.contains(id)).map(|(n, _)| n);
            sets.insert((row.who.is_some(), true_.collect()));
        }
        let texts: Vec<String> = by_pieces
            .iter()
            .map(|(pieces, identities)| self.identities(identities) + &self.addresses(pieces))
            .collect();
        Sources {
            text: texts.join("; "),
            service_accounts: accounts
                .into_iter()
                .take(MEMBERS_MAX)
                .map(|(namespace, name)| format!("{namespace}/{name}"))
                .collect(),
            service_accounts_total: total,
            selector: Selector {
                atoms: self
                    .asked_atoms
                    .iter()
                    .filter_map(|id| self.programs[0].atoms.get(id.index()))
                    .cloned()
                    .collect(),
                sets,
                names: Vec::new(),
            },
        }
    }

    fn identities(&self, some: &BTreeSet<usize>) -> String {
        let all = self.rows.len() / self.pieces;
        let universe: Vec<BTreeSet<Feature>> = (0..all)
            .filter_map(|identity| self.rows.get(identity * self.pieces))
            .map(|row| {
                let [_, new] = self.identity(row);
                let mut features: BTreeSet<Feature> = new.into_iter().map(Feature::Atom).collect();
                features.insert(match row.who {
                    Some(_) => Feature::Anybody,
                    None => Feature::Nobody,
                });
                features
            })
            .collect();
        let words = words(&universe, some);
        let names = |features: &[Feature]| -> String {
            let names: Vec<String> = features.iter().map(|f| self.feature(*f)).collect();
            list(&names)
        };
        if !words.exact {
            let such: Vec<String> = some
                .iter()
                .filter_map(|identity| self.rows.get(identity * self.pieces))
                .map(|row| self.witness(row))
                .collect();
            return format!("sources such as {}", list(&such));
        }
        match (words.is.is_empty(), words.not.is_empty()) {
            (true, true) => "anyone".into(),
            (true, false) => format!("anyone but {}", names(&words.not)),
            (false, true) => names(&words.is),
            (false, false) => format!("{} but not {}", names(&words.is), names(&words.not)),
        }
    }

    fn addresses(&self, some: &BTreeSet<usize>) -> String {
        let universe: Vec<BTreeSet<AtomId>> = self
            .rows
            .iter()
            .take(self.pieces)
            .map(|row| {
                row.sets[1]
                    .iter()
                    .filter(|id| self.is_block(**id))
                    .copied()
                    .collect()
            })
            .collect();
        let words = words(&universe, some);
        let names = |atoms: &[AtomId]| -> String {
            let value = |id: &AtomId| self.programs[0].atoms.get(id.index()).map(Atom::value);
            let mut names: Vec<String> = atoms.iter().filter_map(value).collect();
            names.dedup();
            list(&names)
        };
        if !words.exact {
            let such = some.iter().filter_map(|piece| self.rows.get(*piece));
            let such: Vec<String> = such.map(|row| row.address.to_string()).collect();
            return format!(" from addresses such as {}", list(&such));
        }
        match (words.is.is_empty(), words.not.is_empty()) {
            (true, true) => String::new(),
            (true, false) => format!(" from outside {}", names(&words.not)),
            (false, true) => format!(" from {}", names(&words.is)),
            (false, false) => {
                format!(" from {} but not {}", names(&words.is), names(&words.not))
            }
        }
    }

    fn feature(&self, feature: Feature) -> String {
        let atom = match feature {
            Feature::Anybody => return "any identity".into(),
            Feature::Nobody => return "sources without identity".into(),
            Feature::Atom(id) => self.programs[0].atoms.get(id.index()),
        };
        let own = &self.programs[1].mesh.trust_domain;
        match atom {
            Some(Atom::Principal(Pattern::Exact(text))) => {
                let rest = text.strip_prefix(own.as_str());
                match rest.and_then(|rest| rest.strip_prefix("/ns/")) {
                    Some(rest) => rest.to_owned(),
                    None => text.clone(),
                }
            }
            Some(Atom::ServiceAccount { namespace, name }) => format!("{namespace}/sa/{name}"),
            Some(atom @ Atom::Principal(_)) => format!("principal {}", atom.value()),
            Some(atom @ Atom::Namespace(_)) => format!("namespace {}", atom.value()),
            Some(atom @ Atom::TrustDomain(_)) => format!("trust domain {}", atom.value()),
            Some(atom) => format!("{} {}", atom.field(), atom.value()),
            None => String::new(),
        }
    }

    fn witness(&self, row: &Row) -> String {
        match &row.who {
            None => "one without identity".into(),
            Some(who) => who
                .identity(&self.programs[1].mesh.trust_domain)
                .principal(),
        }
    }

    /// Requests of some of the sources, of which the rest is for others to say.
    pub fn bases(&self, rows: &BTreeSet<usize>, ports: &[&PortKind]) -> Vec<Request> {
        let mut bases: Vec<(bool, Request)> = Vec::new();
        for row in rows.iter().filter_map(|row| self.rows.get(*row)) {
            if bases.len() >= 64 {
                break;
            }
            let own = self.identity(row);
            let named = row.who.as_ref().filter(|who| who.trust_domain.is_none());
            let member = named.and_then(|_| {
                let (_, some) = self.members.having(&self.asked, &own, 1);
                some.first().and_then(|n| self.members.account(*n))
            });
            let address: Option<IpAddr> = self.addressed.then_some(row.address);
            let (src, src_ip, domain) = match (&row.who, member) {
                (None, _) => (SourceRef::Ip(IpSource { ip: row.address }), None, None),
                (Some(_), Some((namespace, name))) => (account(namespace, name), address, None),
                (Some(who), None) => (
                    account(&who.namespace, &who.service_account),
                    address,
                    who.trust_domain.clone(),
                ),
            };
            let known = member.is_some();
            bases.push((
                known,
                Request {
                    src_ip,
                    src_trust_domain: domain,
                    ..request(src, port_of(ports))
                },
            ));
        }
        bases.sort_by_key(|(known, _)| !known);
        bases.into_iter().map(|(_, base)| base).take(3).collect()
    }
}

fn account(namespace: &str, name: &str) -> SourceRef {
    SourceRef::ServiceAccount(ServiceAccountSource {
        sa: format!("{namespace}/{name}"),
    })
}
