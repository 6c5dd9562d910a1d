//! Shows differences: the requests that were made for each are judged by the linked table and the
//! requests' engine of both sides. What is shown is certain; what is not, may be.

use super::{
    decision::Said,
    entries::{Entries, Entry, Where},
    report::{Destination, Diff, Difference, FORMAT, Kind, Outcome, Source},
};
use crate::{
    cluster::Cluster,
    engine,
    ir::Program,
    request::{Cause, Expected, Judgement, Request},
};

/// Everything that is told, each difference with what shows it.
#[derive(Debug)]
pub(super) struct Proved {
    entries: Vec<(Where, Difference)>,
    added: Vec<Destination>,
    removed: Vec<Destination>,
    added_sources: Vec<Source>,
    removed_sources: Vec<Source>,
}

/// Judges what was made for the entries.
pub(super) fn prove(
    entries: Entries<'_>,
    programs: [&Program; 2],
    worlds: [&Cluster; 2],
    now: u64,
) -> Proved {
    let all: Vec<Entry> = entries.entries.into_values().collect();
    let sides = [0, 1].map(|side: usize| {
        let requests: Vec<Request> = all
            .iter()
            .flat_map(|entry| &entry.tried)
            .enumerate()
            .map(|(number, (old_name, request))| Request {
                id: number.to_string(),
                dst: match side {
                    0 => old_name.clone(),
                    _ => request.dst.clone(),
                },
                ..request.clone()
            })
            .collect();
        match (programs.get(side), worlds.get(side)) {
            (Some(program), Some(world)) if !requests.is_empty() => {
                engine::judge(program, world, &requests, now)
            }
            _ => Vec::new(),
        }
    });
    let [old, new] = sides;
    let mut judged = old.into_iter().zip(new);
    let mut proved = Vec::new();
    for mut entry in all {
        for (_, request) in entry.tried {
            let Some((old, new)) = judged.next() else {
                continue;
            };
            let shows = match entry.said {
                Some(said) => shows(entry.place, entry.difference.kind, said, &old, &new),
                None => false,
            };
            if shows && entry.difference.example.is_none() {
                entry.difference.example = Some(request);
                entry.difference.certain = true;
            }
        }
        proved.push((entry.place, entry.difference));
    }
    Proved {
        entries: proved,
        added: entries.added,
        removed: entries.removed,
        added_sources: entries.added_sources,
        removed_sources: entries.removed_sources,
    }
}

/// Whether both sides judge the request as was said.
fn shows(
    place: Where,
    kind: Kind,
    (old_said, new_said): (Said, Said),
    old: &Result<Judgement, String>,
    new: &Result<Judgement, String>,
) -> bool {
    let one = |judged: &Result<Judgement, String>, said: Said| {
        judged
            .as_ref()
            .is_ok_and(|judged| yes(kind, judged) == said.yes)
    };
    match place {
        Where::Changed => one(old, old_said) && one(new, new_said),
        Where::Added(_) => one(new, new_said),
        Where::Removed(_) => one(old, old_said),
    }
}

fn yes(kind: Kind, judged: &Judgement) -> bool {
    let dry_run = |action: &str| judged.dry_run.iter().any(|hit| hit.action == action);
    match kind {
        Kind::Reach => judged.verdict == Expected::Allow,
        // The authorizer of these requests says no.
        Kind::Custom => judged.reason == Cause::CustomDenied,
        Kind::Audit => !judged.audit.is_empty(),
        Kind::DryRunAllow => dry_run("ALLOW"),
        Kind::DryRunDeny => dry_run("DENY"),
        Kind::Authentication => false,
    }
}

impl Proved {
    /// What is told in the end, in order.
    pub fn into_diff(mut self, old: &str, new: &str, notes: Vec<String>) -> Diff {
        self.entries
            .sort_by(|(_, a), (_, b)| order(a).cmp(&order(b)));
        let examples = self
            .entries
            .iter_mut()
            .filter_map(|(_, d)| d.example.as_mut());
        for (number, example) in (1u32..).zip(examples) {
            example.id = format!("{number}");
        }
        let mut differences = Vec::new();
        for (place, difference) in self.entries {
            match place {
                Where::Changed => differences.push(difference),
                Where::Added(number) => {
                    if let Some(destination) = self.added.get_mut(number) {
                        destination.reachable.push(difference);
                    }
                }
                Where::Removed(number) => {
                    if let Some(destination) = self.removed.get_mut(number) {
                        destination.reachable.push(difference);
                    }
                }
            }
        }
        let by_name = |a: &Destination, b: &Destination| a.names.cmp(&b.names);
        self.added.sort_by(by_name);
        self.removed.sort_by(by_name);
        let mut diff = Diff {
            format: FORMAT,
            old: old.into(),
            new: new.into(),
            outcome: Outcome::Same,
            widens: differences.iter().any(Difference::widens),
            narrows: differences.iter().any(Difference::narrows),
            differences,
            added_destinations: self.added,
            removed_destinations: self.removed,
            added_sources: self.added_sources,
            removed_sources: self.removed_sources,
            notes,
            profiles: false,
        };
        if !diff.is_empty() {
            let unsure = diff.added_destinations.is_empty()
                && diff.removed_destinations.is_empty()
                && diff.added_sources.is_empty()
                && diff.removed_sources.is_empty()
                && diff.differences.iter().all(|d| !d.certain);
            diff.outcome = if unsure {
                Outcome::MayDiffer
            } else {
                Outcome::Differs
            };
        }
        diff
    }
}

fn order(d: &Difference) -> impl Ord + '_ {
    (
        &d.destinations,
        d.ports.others,
        &d.ports.list,
        d.kind,
        d.change,
        &d.sources.text,
        d.protocol,
        d.operation.malformed,
        &d.operation.text,
        (
            &d.before.policy,
            d.before.rule,
            &d.after.policy,
            d.after.rule,
        ),
    )
}
