//! What is told: findings grouped by sources, ports and destinations, each with requests that may
//! show it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    rc::Rc,
};

use super::{
    Comparison, PortKind, Setting,
    cells::Finding,
    decision::Said,
    members::{Account, Asked, Members, Sets},
    operation::{list, operation, plain},
    places::{Group, Pairing, Place},
    report::{
        Change, Destination, Difference, Kind, MEMBERS_MAX, Ports, Protocol, Selector, Source,
        Sources, Verdict,
    },
    request::{Spoken, spoken},
    sources::Row,
    words::words,
};
use crate::{
    cluster::Cluster,
    ir::{Atom, AtomId, Pattern, Program, RuleRef},
    request::{Authorizer, IpSource, Request, ServiceAccountSource, SourceRef, Wire},
};

/// Requests that are tried to show one difference.
const TRIED_MAX: usize = 8;

/// For each number of findings: sources, and the ports of each.
#[derive(Debug, Default)]
pub(super) struct Found(BTreeMap<usize, BTreeMap<usize, BTreeSet<usize>>>);

impl Found {
    pub fn add(&mut self, finding: usize, row: usize, port: usize) {
        let rows = self.0.entry(finding).or_default();
        rows.entry(row).or_default().insert(port);
    }
}

/// Where a difference is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Where {
    Changed,
    /// Index into the destinations that are there on one side alone.
    Added(usize),
    Removed(usize),
}

/// A difference that is not proved yet.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub difference: Difference,
    pub place: Where,
    pub said: Option<(Said, Said)>,
    /// With the destination as the old side calls it.
    pub tried: Vec<(String, Request)>,
}

/// A difference for everybody.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Everybody {
    pub kind: Kind,
    pub change: Change,
    pub certain: bool,
    pub text: String,
}

#[derive(Debug)]
pub(super) struct Entries<'a> {
    pub programs: &'a [Program; 2],
    members: Rc<Members>,
    pub entries: BTreeMap<String, Entry>,
    pub added: Vec<Destination>,
    pub removed: Vec<Destination>,
    pub added_sources: Vec<Source>,
    pub removed_sources: Vec<Source>,
}

/// What tells kinds of sources apart, for words.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Feature {
    Anybody,
    Nobody,
    Atom(AtomId),
}

impl<'a> Entries<'a> {
    pub fn new(programs: &'a [Program; 2], worlds: [&Cluster; 2]) -> Result<Self, String> {
        Ok(Self {
            programs,
            members: Rc::new(Members::new(programs, worlds)?),
            entries: BTreeMap::new(),
            added: Vec::new(),
            removed: Vec::new(),
            added_sources: Vec::new(),
            removed_sources: Vec::new(),
        })
    }

    /// Tells what was found for a group of destinations.
    pub fn group(
        &mut self,
        comparison: &mut Comparison<'a>,
        group: &Group,
        setting: &Setting<'a>,
        rows: &[Row],
        found: &Found,
    ) {
        let place = self.place(group);
        if found.0.is_empty() {
            return;
        }
        let members = Rc::clone(&self.members);
        let told = Telling::new(self.programs, &members, setting, rows);
        for (number, rows_of) in &found.0 {
            let Some(findings) = comparison.compared.findings.get(*number).cloned() else {
                continue;
            };
            let mut by_ports: BTreeMap<&BTreeSet<usize>, BTreeSet<usize>> = BTreeMap::new();
            for (row, ports) in rows_of {
                by_ports.entry(ports).or_default().insert(*row);
            }
            for (ports, members) in by_ports {
                for finding in findings.iter() {
                    let sources = told.sources(&members);
                    let ports: Vec<&PortKind> = ports
                        .iter()
                        .filter_map(|port| setting.ports.get(*port))
                        .collect();
                    let base = told.bases(&members, &ports);
                    let entry = self.entry(comparison, setting, group, finding, sources, &ports);
                    let tried = tried(comparison, setting, group, finding, &base);
                    self.add(Entry {
                        place,
                        tried,
                        ..entry
                    });
                }
            }
        }
    }

    /// A difference as it is told; where, and how it is shown, is the caller's business.
    pub fn entry(
        &self,
        comparison: &Comparison<'a>,
        setting: &Setting<'a>,
        group: &Group,
        finding: &Finding,
        sources: Sources,
        ports: &[&PortKind],
    ) -> Entry {
        let verdict = |side: usize| {
            let said = finding.said.map(|(old, new)| [old, new]);
            let said = said.and_then(|said| said.get(side).copied());
            self.verdict(comparison, side, finding.kind, said)
        };
        let atoms = &comparison.judge.atoms;
        Entry {
            difference: Difference {
                kind: finding.kind,
                change: change(finding),
                certain: false,
                destinations: group.places.iter().map(Place::shown).collect(),
                sources,
                ports: ports_of(ports, &setting.ports),
                protocol: finding.protocol,
                operation: operation(
                    atoms,
                    &finding.ways,
                    finding.more,
                    finding.malformed,
                    finding.protocol,
                ),
                before: verdict(0),
                after: verdict(1),
                example: None,
            },
            place: Where::Changed,
            said: finding.said,
            tried: Vec::new(),
        }
    }

    fn verdict(
        &self,
        comparison: &Comparison<'_>,
        side: usize,
        kind: Kind,
        said: Option<Said>,
    ) -> Verdict {
        let Some(said) = said else {
            return Verdict {
                verdict: "unknown".into(),
                ..Verdict::default()
            };
        };
        let (yes, no) = match kind {
            Kind::Reach => ("allow", "deny"),
            Kind::Custom => ("asked", "not_asked"),
            _ => ("recorded", "not_recorded"),
        };
        let policy = |rule: RuleRef| {
            let program = self.programs.get(side)?;
            let policy = program.policies.get(rule.policy.index())?;
            Some(policy.qualified_name())
        };
        let provider = || comparison.judge.provider(said.label).to_owned();
        Verdict {
            verdict: if said.yes { yes } else { no }.into(),
            reason: (kind == Kind::Reach).then_some(said.cause),
            policy: said.rule.and_then(policy),
            rule: said.rule.map(|rule| rule.rule),
            provider: (kind == Kind::Custom && said.yes).then(provider),
        }
    }

    /// Adds an entry; one that differs by its destinations alone joins the one that is there.
    pub fn add(&mut self, entry: Entry) {
        let d = &entry.difference;
        let key = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            entry.place,
            d.ports,
            d.kind,
            d.change,
            d.sources.text,
            d.protocol,
            d.operation,
            d.before,
            d.after,
        );
        match self.entries.get_mut(&key) {
            None => {
                self.entries.insert(key, entry);
            }
            Some(known) => {
                let destinations = &mut known.difference.destinations;
                destinations.extend(entry.difference.destinations);
                destinations.sort_unstable();
                destinations.dedup();
                let room = TRIED_MAX.saturating_sub(known.tried.len());
                known.tried.extend(entry.tried.into_iter().take(room));
                let selector = entry.difference.sources.selector;
                let own = &mut known.difference.sources.selector;
                if own.atoms == selector.atoms {
                    own.sets.extend(selector.sets);
                }
                own.names.extend(selector.names);
            }
        }
    }

    /// Tells a difference that is everybody's.
    pub fn everybody(
        &mut self,
        group: &Group,
        setting: &Setting<'a>,
        ports: &[&PortKind],
        all: Everybody,
    ) {
        let unknown = Verdict {
            verdict: "unknown".into(),
            ..Verdict::default()
        };
        self.add(Entry {
            difference: Difference {
                kind: all.kind,
                change: all.change,
                certain: all.certain,
                destinations: group.places.iter().map(Place::shown).collect(),
                sources: Sources {
                    text: "anyone".into(),
                    service_accounts: Vec::new(),
                    service_accounts_total: 0,
                    selector: Selector {
                        atoms: Vec::new(),
                        sets: BTreeSet::from([(true, Vec::new()), (false, Vec::new())]),
                        names: Vec::new(),
                    },
                },
                ports: ports_of(ports, &setting.ports),
                protocol: Protocol::Http,
                operation: plain(all.text),
                before: unknown.clone(),
                after: unknown,
                example: None,
            },
            place: Where::Changed,
            said: None,
            tried: Vec::new(),
        });
    }

    /// Where the differences of a group are told; one that is there on one side alone is told itself.
    fn place(&mut self, group: &Group) -> Where {
        let (side, keys) = match &group.keys {
            [None, Some(keys)] => (1, keys),
            [Some(keys), None] => (0, keys),
            _ => return Where::Changed,
        };
        let program = self.programs.get(side);
        let name = |id: &crate::ir::PolicyId| {
            let policy = program?.policies.get(id.index())?;
            Some(policy.qualified_name())
        };
        let destination = Destination {
            names: group.places.iter().map(Place::shown).collect(),
            policies: keys[0].policies.iter().filter_map(name).collect(),
            reachable: Vec::new(),
        };
        let (list, place): (_, fn(usize) -> Where) = match side {
            1 => (&mut self.added, Where::Added),
            _ => (&mut self.removed, Where::Removed),
        };
        list.push(destination);
        place(list.len() - 1)
    }

    /// Tells the sources that are there on one side alone.
    pub fn unpaired(&mut self, pairing: &Pairing<'_>) {
        let mut used = [BTreeSet::new(), BTreeSet::new()];
        for pods in pairing {
            for (pod, used) in pods.iter().zip(&mut used) {
                if let Some(pod) = pod {
                    used.insert((&pod.namespace, &pod.template.service_account));
                }
            }
        }
        let [old, new] = &used;
        for pods in pairing {
            let (pod, others, list) = match pods {
                [None, Some(pod)] => (pod, old, &mut self.added_sources),
                [Some(pod), None] => (pod, new, &mut self.removed_sources),
                _ => continue,
            };
            let account = &pod.template.service_account;
            list.push(Source {
                name: format!("{}/{}", pod.namespace, pod.name),
                service_account: format!("{}/{account}", pod.namespace),
                alone: !others.contains(&(&pod.namespace, account)),
            });
        }
        self.added_sources.sort();
        self.removed_sources.sort();
    }
}

fn change(finding: &Finding) -> Change {
    match finding.said {
        Some((old, new)) if old.yes == new.yes => Change::Changes,
        Some((_, new)) if new.yes => Change::Gains,
        Some(_) => Change::Loses,
        None => Change::Changes,
    }
}

/// Ports in words.
fn ports_of(some: &[&PortKind], all: &[PortKind]) -> Ports {
    let list_of = |kinds: &mut dyn Iterator<Item = &PortKind>| -> BTreeSet<u16> {
        kinds.flat_map(|kind| &kind.ports).copied().collect()
    };
    let list = list_of(&mut some.iter().copied());
    let others = some.iter().any(|kind| kind.others);
    let rest: BTreeSet<u16> = &list_of(&mut all.iter()) - &list;
    let numbers = |ports: &BTreeSet<u16>| -> String {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        ports.join(", ")
    };
    let text = match (others, rest.len()) {
        (true, 0) => "every port".into(),
        (true, _) => format!("every port but {}", numbers(&rest)),
        (false, _) if list.len() == 1 => format!("port {}", numbers(&list)),
        (false, _) => format!("ports {}", numbers(&list)),
    };
    Ports {
        text,
        list: list.into_iter().collect(),
        others,
        except: match others {
            true => rest.into_iter().collect(),
            false => Vec::new(),
        },
    }
}

/// Tells sources of one group of destinations.
struct Telling<'t> {
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
    fn new(
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

    fn sources(&self, rows: &BTreeSet<usize>) -> Sources {
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
    fn bases(&self, rows: &BTreeSet<usize>, ports: &[&PortKind]) -> Vec<Request> {
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

/// A connection, to be completed.
pub(super) fn request(src: SourceRef, port: u16) -> Request {
    Request {
        id: String::new(),
        src,
        src_ip: None,
        src_trust_domain: None,
        dst: String::new(),
        port,
        protocol: Wire::Tcp,
        http: None,
        sni: None,
        ext_authz: None,
        expect: None,
    }
}

/// One of the ports; a common one where it is none in particular.
pub(super) fn port_of(ports: &[&PortKind]) -> u16 {
    match ports.iter().find_map(|kind| kind.ports.first()) {
        Some(port) => *port,
        None => UNNAMED,
    }
}

/// Stands for the ports that nobody names; replaced where somebody does.
pub(super) const UNNAMED: u16 = 0;

/// Requests that may show a finding.
pub(super) fn tried<'a>(
    comparison: &mut Comparison<'a>,
    setting: &Setting<'a>,
    group: &Group,
    finding: &Finding,
    bases: &[Request],
) -> Vec<(String, Request)> {
    if finding.said.is_none() {
        return Vec::new();
    }
    let mut tried = Vec::new();
    let judge = &mut comparison.judge;
    let tokens: Vec<_> = setting
        .benches
        .iter()
        .rev()
        .flatten()
        .flat_map(|bench| bench.tokens.clone())
        .collect();
    let mut said: Vec<Spoken> = Vec::new();
    for turn in 0..4 {
        for way in finding.ways.iter().take(4) {
            let known = &mut judge.decisions.known;
            if let Some(one) = spoken(&judge.atoms, known, &tokens, way, turn)
                && !said.contains(&one)
            {
                said.push(one);
            }
        }
    }
    let providers: BTreeMap<String, Authorizer> = comparison
        .programs
        .iter()
        .flat_map(|program| &program.mesh.extension_providers)
        .map(|provider| {
            let answer = match finding.kind {
                Kind::Custom => Authorizer::Deny,
                _ => Authorizer::Allow,
            };
            (provider.name.clone(), answer)
        })
        .collect();
    let custom = setting
        .scopes
        .iter()
        .flatten()
        .flatten()
        .any(|scope| scope.provider != crate::ir::Provider::None);
    for base in bases {
        for one in &said {
            for place in group.places.iter().take(1) {
                let named = |side: usize| {
                    let name = place.names.get(side)?.as_ref();
                    name.map(|(namespace, name)| format!("{namespace}/{name}"))
                };
                let Some(dst) = named(1).or(named(0)) else {
                    continue;
                };
                let mut request = Request {
                    dst: dst.clone(),
                    ext_authz: custom.then(|| providers.clone()),
                    port: match base.port {
                        UNNAMED => unnamed(setting, group),
                        port => port,
                    },
                    ..base.clone()
                };
                speak(&mut request, finding, one);
                tried.push((named(0).unwrap_or(dst), request));
            }
        }
    }
    tried.truncate(TRIED_MAX);
    tried
}

/// A port that nobody names; one that the destination listens on, where there is one.
fn unnamed(setting: &Setting<'_>, group: &Group) -> u16 {
    let named = |port: &u16| setting.ports.iter().any(|kind| kind.ports.contains(port));
    let listens = group.listens.iter().copied();
    listens
        .chain(9_000..=u16::MAX)
        .chain(1..9_000)
        .find(|port| !named(port))
        .unwrap_or(0)
}

fn speak(request: &mut Request, finding: &Finding, one: &Spoken) {
    request.sni.clone_from(&one.sni);
    if finding.malformed {
        request.protocol = Wire::Http;
        request.http = Some(crate::request::Http {
            method: "GET".into(),
            path: "*".into(),
            ..crate::request::Http::default()
        });
    } else if finding.protocol == Protocol::Http {
        request.protocol = Wire::Http;
        request.http = Some(one.http.clone());
    } else if one.sni.is_some() {
        request.protocol = Wire::Tls;
    }
}
