//! How well each kind is known: since when, how much, and what stands in the way. Ages are those of
//! this machine's own monotonic clock: no other clock is compared with it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::kind::Kind;

/// An agent that has not been in step with the API server for so long is not ready.
const BEHIND_MAX: Duration = Duration::from_secs(60);
/// Lines of diagnostics that are shown.
const LINES_MAX: usize = 20;

/// What is known of the kinds. Shared by whoever follows them and whoever reports.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    /// Policies come from the cluster.
    policies: bool,
}

#[derive(Debug)]
struct State {
    kinds: BTreeMap<Kind, Known>,
    compiled: Compiled,
    /// Objects that cannot be read, by name.
    wrong: BTreeMap<String, Vec<String>>,
}

#[derive(Debug)]
struct Known {
    stage: Stage,
    /// Since when nobody can say that nothing was missed; `None` while it is watched.
    behind: Option<Instant>,
    heard: Option<Instant>,
    /// It was listed to the end at least once.
    complete: bool,
    objects: usize,
    events: u64,
    lists: u64,
    trouble: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Listing,
    Watched,
    Absent,
    Failing,
}

/// The last compilation of the cluster's policies.
#[derive(Clone, Default, Debug)]
pub struct Compiled {
    /// Why the policies as they are now are not in force.
    pub errors: Vec<String>,
    /// What is worth knowing: probes that policies close.
    pub notes: Vec<String>,
    pub policies: usize,
    pub took: Duration,
    /// Compilations so far, and how many of them failed.
    pub times: u64,
    pub failed: u64,
}

/// For `enforcer status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// `cluster` or `bundle`
    pub policies: String,
    pub kinds: Vec<KindStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled: Option<CompiledStatus>,
    /// Objects that cannot be read and are taken as they were before, or not at all: lines, and how
    /// many there are in all.
    #[serde(default)]
    pub wrong: Vec<String>,
    #[serde(default)]
    pub wrong_objects: usize,
}

/// One kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KindStatus {
    pub kind: String,
    /// `listing`, `watched`, `absent` (not installed), `failing`
    pub state: String,
    pub objects: usize,
    pub events: u64,
    pub lists: u64,
    /// Since the server last said anything.
    pub heard_seconds: Option<u64>,
    /// How long changes may have gone unheard of; 0 while it is watched.
    pub behind_seconds: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The last compilation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CompiledStatus {
    pub policies: usize,
    pub took_us: u64,
    pub times: u64,
    pub failed: u64,
    /// The first of them, and how many there are in all. While there is one, the policies before
    /// stay in force.
    pub errors: Vec<String>,
    pub errors_count: usize,
    pub notes: Vec<String>,
}

impl Health {
    pub fn new(policies: bool) -> Self {
        Self {
            state: Mutex::new(State {
                kinds: Kind::wanted(policies)
                    .map(|kind| (kind, Known::new()))
                    .collect(),
                compiled: Compiled::default(),
                wrong: BTreeMap::new(),
            }),
            policies,
        }
    }

    /// Whether policies come from the cluster, too.
    pub fn has_policies(&self) -> bool {
        self.policies
    }

    /// A list was read to its end.
    pub fn listed(&self, kind: Kind) {
        self.of(kind, |known| {
            known.lists += 1;
            known.heard = Some(Instant::now());
        });
    }

    /// The watch is open: from here on everything is heard of. Says whether that is news.
    pub fn watched(&self, kind: Kind) -> bool {
        self.of(kind, |known| {
            (known.behind, known.trouble) = (None, None);
            known.heard = Some(Instant::now());
            std::mem::replace(&mut known.stage, Stage::Watched) == Stage::Failing
        })
    }

    /// The server said something.
    pub fn heard(&self, kind: Kind, is_change: bool) {
        self.of(kind, |known| {
            known.heard = Some(Instant::now());
            known.events += u64::from(is_change);
        });
    }

    /// The cluster has no such kind.
    pub fn absent(&self, kind: Kind) {
        self.of(kind, |known| {
            (known.stage, known.behind) = (Stage::Absent, None);
            known.heard = Some(Instant::now());
            known.trouble = None;
        });
    }

    /// It cannot be had. Says whether that is news.
    pub fn failing(&self, kind: Kind, trouble: String) -> bool {
        self.of(kind, |known| {
            known.behind.get_or_insert_with(Instant::now);
            known.stage = Stage::Failing;
            let before = known.trouble.replace(trouble);
            before != known.trouble
        })
    }

    /// The objects of a kind are all known.
    pub fn complete(&self, kind: Kind) {
        self.of(kind, |known| known.complete = true);
    }

    pub fn objects(&self, kind: Kind, count: usize) {
        self.of(kind, |known| known.objects = count);
    }

    /// What is wrong with an object; nothing: it is well, or gone.
    pub fn wrong(&self, name: &str, lines: Vec<String>) {
        let state = &mut *self.state();
        match lines.is_empty() {
            true => drop(state.wrong.remove(name)),
            false => drop(state.wrong.insert(name.into(), lines)),
        }
    }

    pub fn compiled(&self, now: Compiled) {
        let state = &mut *self.state();
        let failed = state.compiled.failed + u64::from(!now.errors.is_empty());
        state.compiled = Compiled {
            times: state.compiled.times + 1,
            failed,
            ..now
        };
    }

    /// Whether every kind has been listed.
    pub fn is_complete(&self) -> bool {
        self.state().kinds.values().all(|known| known.complete)
    }

    /// Why the agent cannot be relied on to know the cluster, a line each.
    pub fn troubles(&self) -> Vec<String> {
        let state = self.state();
        let mut lines = Vec::new();
        for (kind, known) in &state.kinds {
            let behind = known.behind.map(|since| since.elapsed());
            let trouble = known.trouble.as_deref();
            if !known.complete {
                let trouble = trouble.unwrap_or("the first list is on its way");
                lines.push(format!("{kind} are not known yet: {trouble}"));
            } else if let Some(behind) = behind.filter(|behind| *behind > BEHIND_MAX) {
                let seconds = behind.as_secs();
                let trouble = trouble.unwrap_or("no list so far");
                lines.push(format!("{kind} were last known {seconds} s ago: {trouble}"));
            }
        }
        lines
    }

    /// For reports.
    pub fn status(&self) -> ClusterStatus {
        let state = self.state();
        let kinds = state.kinds.iter().map(|(kind, known)| KindStatus {
            kind: kind.to_string(),
            state: known.stage.name().into(),
            objects: known.objects,
            events: known.events,
            lists: known.lists,
            heard_seconds: known.heard.map(|heard| heard.elapsed().as_secs()),
            behind_seconds: known.behind.map_or(0, |since| since.elapsed().as_secs()),
            trouble: known.trouble.clone(),
        });
        let wrong = state.wrong.values().flatten();
        ClusterStatus {
            policies: if self.policies { "cluster" } else { "bundle" }.into(),
            kinds: kinds.collect(),
            compiled: self.policies.then(|| state.compiled.status()),
            wrong: wrong.take(LINES_MAX).cloned().collect(),
            wrong_objects: state.wrong.len(),
        }
    }

    fn of<T>(&self, kind: Kind, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut state = self.state();
        change(state.kinds.entry(kind).or_insert_with(Known::new))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KindStatus {
    /// Whether changes are heard of as they happen.
    pub fn is_followed(&self) -> bool {
        self.state == Stage::Watched.name() || self.state == Stage::Absent.name()
    }
}

impl Known {
    fn new() -> Self {
        Self {
            stage: Stage::Listing,
            behind: Some(Instant::now()),
            heard: None,
            complete: false,
            objects: 0,
            events: 0,
            lists: 0,
            trouble: None,
        }
    }
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Listing => "listing",
            Self::Watched => "watched",
            Self::Absent => "absent",
            Self::Failing => "failing",
        }
    }
}

impl Compiled {
    fn status(&self) -> CompiledStatus {
        CompiledStatus {
            policies: self.policies,
            took_us: u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX),
            times: self.times,
            failed: self.failed,
            errors: self.errors.iter().take(LINES_MAX).cloned().collect(),
            errors_count: self.errors.len(),
            notes: self.notes.iter().take(LINES_MAX).cloned().collect(),
        }
    }
}
