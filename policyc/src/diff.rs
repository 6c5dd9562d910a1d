//! Which sources can newly reach, or no longer reach, which workload, port and operation: the
//! difference of two states of policies and cluster in what they mean, not in how they are written.
//!
//! Read in this order: `shared` (two programs over one table of atoms), `places` (destinations side
//! by side), `sources` (every kind of source that the policies of a workload tell apart), `cells`
//! (two cells, for each thing that may be spoken), `decision` (two orders of judgement for all
//! requests at once), `fields` and `strings` (what requests there are), `request` (one that shows a
//! difference), `entries` (what is told, grouped), `words`, `text` and `markdown`.
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
mod markdown;
mod members;
mod moved;
mod operation;
mod places;
mod prove;
pub mod report;
mod request;
mod shared;
mod sources;
mod strings;
mod text;
mod words;

pub use markdown::markdown;
pub use report::{Change, Diff, Difference, Kind, Outcome};
pub use text::text;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::{Cluster, Mesh, PathNormalization, Protocol as Declared},
    ir::{Action, Atom, AtomId, Fact, JwtRule, Otherwise, PolicyId, Program, Provider},
    lower::{
        cell::cell,
        evaluate::{self, Known, Meaning, Truth},
        scope::{Scope, ScopeKey, Stage},
    },
    report::with_workloads,
};

use cells::{Bench, Compared, Judge};
use entries::{Entries, Everybody, Found};
use fields::Atoms;
use places::Group;

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

/// Ports of which the same is known.
#[derive(Clone, PartialEq, Eq, Debug)]
struct PortKind {
    atoms: [Option<AtomId>; 2],
    declared: [Declared; 2],
    ports: Vec<u16>,
    /// Every port that nobody names, besides.
    others: bool,
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

/// The scopes of one group of destinations, and what they can tell apart.
struct Setting<'a> {
    /// By side, then by family; one for both where nothing tells these apart.
    scopes: [Option<Vec<Scope<'a>>>; 2],
    benches: [Option<Bench<'a>>; 2],
    /// Policies tell addresses of the destination apart.
    apart: bool,
    /// Atoms about the source.
    asked: BTreeSet<AtomId>,
    ports: Vec<PortKind>,
}

impl<'a> Setting<'a> {
    fn new(programs: &'a [Program; 2], group: &Group) -> Self {
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
    fn asks_path(&self) -> bool {
        self.atoms().any(|atom| match atom {
            Atom::Path(_) => true,
            Atom::Header { name, .. } => name == ":path",
            _ => false,
        })
    }

    /// Whether some connection is judged request by request.
    fn asks_requests(&self) -> bool {
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

    fn scope(&self, side: usize, v6: bool) -> Option<&Scope<'a>> {
        let scopes = self.scopes.get(side)?.as_ref()?;
        scopes.get(usize::from(v6 && self.apart))
    }
}

/// How tokens are verified otherwise than before; on a port that speaks TCP they are not.
fn tokens_differ(setting: &Setting<'_>, port: &PortKind) -> Option<String> {
    let [Some(old), Some(new)] = &setting.benches else {
        return None;
    };
    let verified = |bench: &'_ Bench<'_>, declared: Declared| match declared {
        Declared::Tcp => Vec::new(),
        Declared::Http | Declared::Undeclared => bench.tokens.clone(),
    };
    let [old, new] = [
        verified(old, port.declared[0]),
        verified(new, port.declared[1]),
    ];
    if old == new {
        return None;
    }
    let issuers: BTreeSet<&str> = [&old, &new]
        .into_iter()
        .flatten()
        .map(|rule| rule.issuer.as_str())
        .collect();
    let mut told = Vec::new();
    for issuer in issuers {
        let of = |tokens: &[JwtRule]| -> Vec<JwtRule> {
            let own = tokens.iter().filter(|rule| rule.issuer == issuer);
            own.cloned().collect()
        };
        let name = match issuer {
            "" => "any issuer".to_owned(),
            issuer => format!("issuer {issuer}"),
        };
        match (of(&old), of(&new)) {
            (before, after) if before == after => {}
            (before, _) if before.is_empty() => told.push(format!(
                "tokens of {name} are verified: a bad one is refused with 401"
            )),
            (_, after) if after.is_empty() => {
                told.push(format!("tokens of {name} are no longer verified"));
            }
            (before, after) => {
                let fields = before
                    .first()
                    .zip(after.first())
                    .map(|(b, a)| changed_fields(b, a));
                let fields = fields.filter(|fields| !fields.is_empty());
                let fields = fields.map_or_else(String::new, |f| format!(" ({})", f.join(", ")));
                told.push(format!("tokens of {name} are verified otherwise{fields}"));
            }
        }
    }
    if told.is_empty() {
        told.push("tokens are verified in another order".into());
    }
    Some(told.join("; "))
}

fn changed_fields(old: &JwtRule, new: &JwtRule) -> Vec<&'static str> {
    [
        ("audiences", old.audiences != new.audiences),
        (
            "keys",
            (&old.jwks, &old.jwks_uri) != (&new.jwks, &new.jwks_uri),
        ),
        (
            "where tokens are looked for",
            (&old.from_headers, &old.from_params, &old.from_cookies)
                != (&new.from_headers, &new.from_params, &new.from_cookies),
        ),
        (
            "headers that are set",
            (&old.output_payload_to_header, &old.output_claim_to_headers)
                != (&new.output_payload_to_header, &new.output_claim_to_headers),
        ),
        (
            "whether the token is forwarded",
            old.forward_original_token != new.forward_original_token,
        ),
        (
            "claims that are split",
            old.space_delimited_claims != new.space_delimited_claims,
        ),
        ("timeout", old.timeout_ms != new.timeout_ms),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(name, _)| name)
    .collect()
}

/// Passes over sources that only rules see which both sides have.
struct Filter {
    /// Everything but some policies is the same.
    only_policies: bool,
    /// Policies that one side has alone, with their side.
    changed: Vec<(usize, PolicyId)>,
}

impl Filter {
    fn new(comparison: &Comparison<'_>, group: &Group, setting: &Setting<'_>) -> Self {
        let all = Self {
            only_policies: false,
            changed: Vec::new(),
        };
        let [Some(old), Some(new)] = &group.keys else {
            return all;
        };
        let (Some(old_scope), Some(new_scope)) = (setting.scope(0, false), setting.scope(1, false))
        else {
            return all;
        };
        let denies = |scope: &Scope<'_>| scope.otherwise != Otherwise::Allow;
        let by_rule = |scope: &Scope<'_>| matches!(scope.otherwise, Otherwise::DefaultDeny(_));
        let alike =
            |(old, new)| match (comparison.meaningful(0, old), comparison.meaningful(1, new)) {
                (Some(old), Some(new)) => old.rest == new.rest,
                _ => false,
            };
        let only_policies = comparison.same_mesh
            && old.iter().zip(new).all(alike)
            && denies(old_scope) == denies(new_scope)
            && by_rule(old_scope) == by_rule(new_scope)
            && old_scope.provider == new_scope.provider
            && old_scope.provider_http_only == new_scope.provider_http_only;
        let content = |side: usize, id: PolicyId| {
            let contents = comparison.contents.get(side);
            contents.and_then(|c| c.get(id.index())).copied()
        };
        let contents = |side: usize, key: &ScopeKey| -> BTreeSet<Option<u32>> {
            key.policies.iter().map(|id| content(side, *id)).collect()
        };
        let both = [contents(0, &old[0]), contents(1, &new[0])];
        let mut changed = Vec::new();
        for (side, key, others) in [(0, &old[0], &both[1]), (1, &new[0], &both[0])] {
            let alone = |id: &&PolicyId| !others.contains(&content(side, **id));
            changed.extend(key.policies.iter().filter(alone).map(|id| (side, *id)));
        }
        Self {
            only_policies,
            changed,
        }
    }

    fn may_differ(&self, setting: &Setting<'_>, row: &sources::Row, port: &PortKind) -> bool {
        let [old, new] = &row.sets;
        if !self.only_policies || old != new {
            return true;
        }
        self.changed.iter().any(|(side, id)| {
            let (Some(scope), Some(source), Some(atom)) = (
                setting.scope(*side, row.address.is_ipv6()),
                row.sets.get(*side),
                port.atoms.get(*side),
            ) else {
                return true;
            };
            let Some(policy) = scope.program.policies.get(id.index()) else {
                return true;
            };
            let stage = match (&policy.action, policy.dry_run) {
                (Action::Allow, false) => Stage::Allow,
                (Action::Allow, true) => Stage::DryRunAllow,
                (Action::Deny, false) => Stage::Deny,
                (Action::Deny, true) => Stage::DryRunDeny,
                (Action::Audit, _) => Stage::Audit,
                (Action::Custom { .. }, _) => Stage::Custom,
            };
            [Meaning::Http, Meaning::Tcp].into_iter().any(|meaning| {
                let known = Known {
                    program: scope.program,
                    key: &scope.key,
                    source,
                    port: *atom,
                    meaning,
                };
                let may = |rule| evaluate::rule(&known, stage, rule) != Truth::False;
                policy.rules.iter().any(may)
            })
        })
    }
}
