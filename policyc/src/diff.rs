//! Which sources can newly reach, or no longer reach, which workload, port and operation: the
//! difference of two states of policies and cluster in what they mean, not in how they are written.
//!
//! Read in this order: `shared` (two programs over one table of atoms), `places` (destinations side
//! by side), `setting` and `filter` (what their policies tell apart, and whom a change passes by),
//! `sources` (every kind of source), `cells` (two cells, for each thing that may be spoken),
//! `decision` (two orders of judgement for all requests at once), `fields` and `strings` (what
//! requests there are), `tokens`, `moved` (sources that are somebody else now), `entries` (what is
//! told, grouped), `telling`, `operation` and `words` (in which words), `tried`, `request` and `prove`
//! (requests that show it), `text` and `markdown`.
//!
//! **Complete.** Nothing is sampled. For each workload whose policies say something else, every kind
//! of source, every port and every combination of what a client may say that some rule asks about is
//! compared. Where the combinations are too many, or where two fields depend on each other in a way
//! that is not followed, the difference is told as one that may be (`certain` is false), never left
//! out. **Sound.** A difference that is certain has been shown on a request, judged by the linked
//! table and the requests' engine of both sides: the `example`.
//!
//! **What is no difference.** A policy that is renamed, moved or written otherwise; another rule that
//! gives the same verdict.
//!
//! # The JSON form
//! One object. `format` is 1; fields are only ever added.
//! ```text
//! format, old, new          1, and what the sides were called
//! outcome                   same | differs | may_differ
//! widens, narrows           what --fail-on asks
//! differences[]
//!   kind                    reach | custom | authentication | audit | dry_run_allow | dry_run_deny
//!   change                  gains | loses | changes
//!   certain                 true | false
//!   destinations[]          "namespace/name"
//!   sources                 {text, service_accounts[], service_accounts_total}
//!   ports                   {text, list[], others, except[]}   others: every other port, but `except`
//!   protocol                any | http | tcp         tcp: anything but HTTP
//!   operation               {text, alternatives[][{field, is[], is_not[]}], more, malformed}
//!   before, after           {verdict, reason, policy, rule, provider}
//!   example                 a request of `policyc eval`, or null
//! added_destinations[], removed_destinations[]       {names[], policies[], reachable[] as above}
//! added_sources[], removed_sources[]                 {name, service_account, alone}
//! notes[]                   sentences
//! ```
//! An operation is one of its alternatives; an alternative is all of its fields; a field holds when
//! one of `is` does (anything, where there is none) and none of `is_not`.

mod cells;
mod decision;
mod entries;
mod fields;
mod filter;
mod markdown;
mod members;
mod moved;
mod operation;
mod places;
mod prove;
pub mod report;
mod request;
mod setting;
mod shared;
mod sources;
mod strings;
mod telling;
mod text;
mod tokens;
mod tried;
mod words;

pub use markdown::markdown;
pub use report::{Change, Diff, Difference, Kind, Outcome};
pub use text::text;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::{Cluster, Mesh, PathNormalization, Protocol as Declared},
    ir::{Atom, AtomId, JwtRule, Program},
    lower::{cell::cell, scope::ScopeKey},
    report::with_workloads,
};

use cells::{Compared, Judge};
use entries::{Entries, Everybody, Found};
use fields::Atoms;
use filter::Filter;
use places::Group;
use setting::{PortKind, Setting};
use tokens::tokens_differ;

/// One side of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What it is called.
    pub name: &'a str,
    pub program: &'a Program,
    /// Who is where; its policies are not looked at.
    pub cluster: &'a Cluster,
}

/// Compares two sides. `now`, in seconds since 1970, is the time of the requests that show
/// differences.
///
/// # Errors
/// A side that cannot be linked, or more than can be compared.
pub fn diff(old: &Side<'_>, new: &Side<'_>, now: u64) -> Result<Diff, String> {
    // A diagram is as deep as there are values to ask for one after the other.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        let running = thread.spawn_scoped(scope, || whole(old, new, now));
        let done = running
            .map_err(|e| format!("cannot start a thread: {e}"))?
            .join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Bytes of the stack that a comparison may use.
const STACK: usize = 256 << 20;

fn whole(old: &Side<'_>, new: &Side<'_>, now: u64) -> Result<Diff, String> {
    let worlds = [with_workloads(old.cluster), with_workloads(new.cluster)];
    let programs = shared::share(old.program, new.program);
    let [old_world, new_world] = &worlds;
    let worlds: [&Cluster; 2] = [old_world, new_world];
    let pairing = places::pair(worlds[0], worlds[1]);
    let groups = places::groups([&programs[0], &programs[1]], worlds, &pairing)
        .map_err(|e| e.to_string())?;
    let mut comparison = Comparison::new(&programs);
    let mut entries = Entries::new(&programs, worlds)?;
    for group in &groups {
        comparison.group(group, &mut entries)?;
    }
    moved::compare(&mut comparison, &mut entries, &pairing, &groups)?;
    entries.unpaired(&pairing);
    let notes = comparison.notes(&groups);
    let proved = prove::prove(entries, [old.program, new.program], worlds, now);
    Ok(proved.into_diff(old.name, new.name, notes))
}

/// What is compared, with what was found out already.
struct Comparison<'a> {
    programs: &'a [Program; 2],
    /// For each policy the number of what it says.
    contents: [Vec<u32>; 2],
    judge: Judge<'a>,
    compared: Compared,
    /// The meshes mean the same wherever nothing else differs.
    same_mesh: bool,
}

/// What a scope is, whatever its policies are called.
#[derive(PartialEq, Eq)]
struct Meaningful<'a> {
    policies: BTreeSet<u32>,
    rest: Rest<'a>,
}

#[derive(PartialEq, Eq)]
struct Rest<'a> {
    tokens: Vec<JwtRule>,
    ports: &'a std::collections::BTreeMap<u16, Declared>,
    destination: &'a BTreeSet<AtomId>,
    gateway: bool,
}

impl<'a> Comparison<'a> {
    fn new(programs: &'a [Program; 2]) -> Self {
        let mut numbers = shared::Contents::default();
        let [old, new] = programs;
        let contents = [numbers.of(old), numbers.of(new)];
        let modes = [old.mesh.path_normalization, new.mesh.path_normalization];
        let meaning = |program: &Program| Mesh {
            root_namespace: String::new(),
            trust_domain_aliases: Vec::new(),
            ..program.mesh.clone()
        };
        Self {
            programs,
            contents,
            judge: Judge::new(Atoms::new(&old.atoms, modes)),
            compared: Compared::default(),
            same_mesh: meaning(old) == meaning(new) && old.catch_all_deny == new.catch_all_deny,
        }
    }

    fn meaningful<'k>(&self, side: usize, key: &'k ScopeKey) -> Option<Meaningful<'k>> {
        let contents = self.contents.get(side)?;
        Some(Meaningful {
            policies: key
                .policies
                .iter()
                .filter_map(|id| contents.get(id.index()))
                .copied()
                .collect(),
            rest: Rest {
                tokens: shared::token_rules(self.programs.get(side)?, &key.authentications),
                ports: &key.ports,
                destination: &key.destination,
                gateway: key.gateway,
            },
        })
    }

    /// Whether everybody fares the same on both sides, but those who are somebody else there.
    fn same(&self, group: &Group) -> bool {
        let [Some(old), Some(new)] = &group.keys else {
            return false;
        };
        let alike = |(old, new)| self.meaningful(0, old) == self.meaningful(1, new);
        self.same_mesh && old.iter().zip(new).all(alike)
    }

    /// Compares all kinds of sources at all ports of a group of destinations.
    fn group(&mut self, group: &Group, entries: &mut Entries<'a>) -> Result<(), String> {
        if self.same(group) {
            return Ok(());
        }
        let programs = self.programs;
        let setting = Setting::new(programs, group);
        let families: Vec<bool> = group.families.iter().copied().collect();
        let domains = [0, 1].map(|i: usize| match programs.get(i) {
            Some(program) => program.mesh.trust_domain.as_str(),
            None => "",
        });
        let rows = sources::rows(
            &programs[0].atoms,
            &setting.asked,
            domains,
            &families,
            setting.apart,
        )?;
        let filter = Filter::new(self, group, &setting);
        let mut found = Found::default();
        for (number, row) in rows.iter().enumerate() {
            for (port, kind) in setting.ports.iter().enumerate() {
                if !filter.may_differ(&setting, row, kind) {
                    continue;
                }
                if let Some(finding) = self.pair(&setting, &row.sets, row.address.is_ipv6(), kind) {
                    found.add(finding, number, port);
                }
            }
        }
        entries.group(self, group, &setting, &rows, &found);
        let mut tokens: BTreeMap<String, Vec<&PortKind>> = BTreeMap::new();
        for port in &setting.ports {
            if let Some(text) = tokens_differ(&setting, port) {
                tokens.entry(text).or_default().push(port);
            }
        }
        for (text, ports) in tokens {
            let difference = Everybody {
                kind: Kind::Authentication,
                change: Change::Changes,
                certain: true,
                text,
            };
            entries.everybody(group, &setting, &ports, difference);
        }
        if let Some(difference) = self.paths_differ(&setting) {
            let http = |port: &&PortKind| port.declared.iter().any(|d| *d != Declared::Tcp);
            let ports: Vec<&PortKind> = setting.ports.iter().filter(http).collect();
            entries.everybody(group, &setting, &ports, difference);
        }
        Ok(())
    }

    /// The number of the findings for one source and port.
    fn pair(
        &mut self,
        setting: &Setting<'a>,
        sets: &[BTreeSet<AtomId>; 2],
        v6: bool,
        port: &PortKind,
    ) -> Option<usize> {
        let one = |side: usize| {
            let scope = setting.scope(side, v6)?;
            let (set, atom, declared) = (
                sets.get(side)?,
                *port.atoms.get(side)?,
                *port.declared.get(side)?,
            );
            Some(cell(scope, set, atom, declared))
        };
        let cells = [one(0), one(1)];
        let [old, new] = &setting.benches;
        let benches = [old.as_ref(), new.as_ref()];
        self.compared.number(&mut self.judge, benches, cells)
    }

    /// A target that the two sides read as different paths may be judged differently.
    fn paths_differ(&self, setting: &Setting<'_>) -> Option<Everybody> {
        let [old, new] = self.judge.atoms.modes;
        let both = setting.benches.iter().all(Option::is_some);
        // Where nothing is normalised a path may hold what is a malformed request otherwise.
        let nothing = [old, new].contains(&PathNormalization::None);
        let matters = setting.asks_path() || nothing && setting.asks_requests();
        (both && old != new && matters).then(|| Everybody {
            kind: Kind::Reach,
            change: Change::Changes,
            certain: false,
            text: format!("HTTP requests whose path {old:?} and {new:?} read differently"),
        })
    }

    fn notes(&self, groups: &[Group]) -> Vec<String> {
        let [old, new] = self.programs;
        let mut notes = Vec::new();
        let mut differ = |what: &str, old: String, new: String| {
            if old != new {
                notes.push(format!("{what}: {old} before, {new} after"));
            }
        };
        let normalization = |p: &Program| format!("{:?}", p.mesh.path_normalization);
        differ("path normalization", normalization(old), normalization(new));
        let domain = |p: &Program| p.mesh.trust_domain.clone();
        differ("the mesh's trust domain", domain(old), domain(new));
        let catch_all = |p: &Program| format!("{:?}", p.catch_all_deny);
        differ("a catch-all DENY", catch_all(old), catch_all(new));
        let nowhere = groups.iter().filter(|g| g.nowhere && !self.same(g));
        let asks = |g: &&Group| {
            let policies = g
                .keys
                .iter()
                .zip(self.programs)
                .flat_map(|(keys, program)| {
                    let keys = keys.iter().flatten();
                    keys.flat_map(|key| &key.policies)
                        .filter_map(|id| program.policies.get(id.index()))
                });
            let mut atoms = policies
                .flat_map(|policy| &policy.rules)
                .flat_map(crate::lower::scope::atoms);
            atoms.any(|id| matches!(old.atoms.get(id.index()), Some(Atom::DestinationIp(_))))
        };
        for group in nowhere.filter(asks) {
            let names: Vec<String> = group.places.iter().map(places::Place::shown).collect();
            notes.push(format!(
                "{}: a policy asks for `destination.ip`, and there is no address: compared as one that no block holds",
                names.join(", ")
            ));
        }
        notes
    }
}
