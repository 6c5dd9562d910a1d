//! What is told: findings grouped by sources, ports and destinations, each with requests that may
//! show it.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use super::{
    Comparison,
    cells::Finding,
    decision::Said,
    members::Members,
    operation::{operation, plain},
    places::{Group, Pairing, Place},
    report::{
        Change, Destination, Difference, Kind, Ports, Protocol, Selector, Source, Sources, Verdict,
    },
    setting::{PortKind, Setting},
    sources::Row,
    telling::Telling,
    tried::{TRIED_MAX, tried},
};
use crate::{
    cluster::Cluster,
    ir::{Program, RuleRef},
    request::Request,
};

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
