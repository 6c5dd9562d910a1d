//! A comparison as lines for a terminal.

use super::report::{Change, Destination, Diff, Difference, Kind, Outcome, Source, Verdict};

/// Differences that are spelled out.
const LINES: usize = 200;

/// The comparison for people.
pub fn text(diff: &Diff) -> String {
    let mut out = String::new();
    let mut shown = 0;
    let mut last: Option<(&[String], &str)> = None;
    for difference in &diff.differences {
        if is_implied(difference, &diff.differences) {
            continue;
        }
        if shown == LINES {
            let left = diff.differences.len() - LINES;
            line(
                &mut out,
                &format!("... and {left} more; --format json has all"),
            );
            break;
        }
        shown += 1;
        let place = (&difference.destinations[..], difference.ports.text.as_str());
        if last != Some(place) {
            if last.is_some() {
                line(&mut out, "");
            }
            line(&mut out, &format!("{}, {}", names(place.0), place.1));
            last = Some(place);
        }
        line(&mut out, &format!("  {}", sentence(diff, difference)));
        if let Some(example) = &difference.example
            && difference.protocol != super::report::Protocol::Any
            && let Ok(json) = serde_json::to_string(example)
        {
            line(&mut out, &format!("      {json}"));
        }
    }
    for (what, list) in [
        ("new destination", &diff.added_destinations),
        ("destination is gone", &diff.removed_destinations),
    ] {
        for destination in list {
            destination_lines(&mut out, what, destination);
        }
    }
    for (what, list) in [
        ("new source", &diff.added_sources),
        ("source is gone", &diff.removed_sources),
    ] {
        sources_lines(&mut out, what, list);
    }
    for note in &diff.notes {
        line(&mut out, &format!("note: {note}"));
    }
    line(&mut out, &summary(diff));
    out
}

/// Whether it says only that malformed HTTP fares as other requests of the same sources do.
pub(super) fn is_implied(d: &Difference, all: &[Difference]) -> bool {
    let same = |other: &&Difference| {
        !other.operation.malformed
            && (other.kind, other.change) == (d.kind, d.change)
            && other.sources.text == d.sources.text
            && other.ports == d.ports
            && other.destinations == d.destinations
    };
    d.operation.malformed && all.iter().any(|other| same(&other))
}

fn line(out: &mut String, text: &str) {
    // Values come from whoever wrote the policy: none of them steers the terminal.
    for c in text.chars() {
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out.push('\n');
}

/// The whole in one line.
pub(super) fn summary(diff: &Diff) -> String {
    let count =
        |wanted: fn(&Difference) -> bool| diff.differences.iter().filter(|d| wanted(d)).count();
    let (through, refused) = match diff.profiles {
        true => (
            format!("let through by {} alone", diff.new),
            format!("let through by {} alone", diff.old),
        ),
        false => ("let through".into(), "refused".into()),
    };
    let gains = count(|d| d.kind == Kind::Reach && d.change == Change::Gains);
    let loses = count(|d| d.kind == Kind::Reach && d.change == Change::Loses);
    let others = diff.differences.len() - gains - loses;
    let unsure = count(|d| !d.certain);
    match diff.outcome {
        Outcome::Same => "no difference".into(),
        _ => {
            let mut parts = Vec::new();
            for (number, word) in [
                (gains, through.as_str()),
                (loses, refused.as_str()),
                (others, "otherwise different"),
                (unsure, "not certain"),
                (diff.added_destinations.len(), "new destinations"),
                (diff.removed_destinations.len(), "destinations gone"),
            ] {
                if number > 0 {
                    parts.push(format!("{number} {word}"));
                }
            }
            if parts.is_empty() {
                parts.push("sources only".into());
            }
            format!("differences: {}", parts.join(", "))
        }
    }
}

/// A few names, and how many more.
pub(super) fn names(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = names
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

/// `+ default/sa/frontend gains GET /api/*: by default/x rule 0 (was: no ALLOW rule matched)`
pub(super) fn sentence(diff: &Diff, d: &Difference) -> String {
    let unsure = if d.certain { "" } else { "? " };
    let (claim, because) = match diff.profiles {
        true => (differs(diff, d), because(d, [&diff.old, &diff.new])),
        false => (claim(d), because(d, ["was", "now"])),
    };
    format!("{unsure}{} {claim}{because}", mark(d))
}

/// As [`claim`], of two readings of the same manifests.
fn differs(diff: &Diff, d: &Difference) -> String {
    let (who, what) = (&d.sources.text, &d.operation.text);
    let may = if d.certain { "" } else { "perhaps " };
    let only = |change: Change| match change {
        Change::Loses => format!("{may}{} alone", diff.old),
        Change::Gains => format!("{may}{} alone", diff.new),
        Change::Changes => format!("{may}each its own way"),
    };
    match d.kind {
        Kind::Reach => format!("{who}: {what} let through by {}", only(d.change)),
        Kind::Custom => format!("{who}: {what} put to an authorizer by {}", only(d.change)),
        Kind::Authentication => format!("{} after {}: {what}", diff.new, diff.old),
        Kind::Audit | Kind::DryRunAllow | Kind::DryRunDeny => {
            format!("{who}: {what} recorded by {}", only(d.change))
        }
    }
}

pub(super) fn mark(d: &Difference) -> char {
    match (d.kind, d.change) {
        (Kind::Reach, Change::Gains) => '+',
        (Kind::Reach, Change::Loses) => '-',
        _ => '~',
    }
}

fn claim(d: &Difference) -> String {
    let (who, what) = (&d.sources.text, &d.operation.text);
    let may = !d.certain;
    let provider = |v: &Verdict| v.provider.clone().unwrap_or_default();
    match (d.kind, d.change) {
        (Kind::Reach, Change::Gains) if may => format!("{who} may gain {what}"),
        (Kind::Reach, Change::Loses) if may => format!("{who} may lose {what}"),
        (Kind::Reach, Change::Gains) => format!("{who} gains {what}"),
        (Kind::Reach, Change::Loses) => format!("{who} loses {what}"),
        (Kind::Reach, Change::Changes) => format!("{who} may gain or lose {what}"),
        (Kind::Custom, Change::Gains) => {
            format!(
                "authorizer {} is asked about {what} of {who}",
                provider(&d.after)
            )
        }
        (Kind::Custom, Change::Loses) => format!(
            "authorizer {} is no longer asked about {what} of {who}",
            provider(&d.before)
        ),
        (Kind::Custom, Change::Changes) => format!(
            "authorizer {} is asked about {what} of {who}, before it was {}",
            provider(&d.after),
            provider(&d.before)
        ),
        (Kind::Authentication, _) => what.clone(),
        (kind, change) => {
            let rule = match kind {
                Kind::Audit => "AUDIT",
                Kind::DryRunAllow => "dry-run ALLOW",
                _ => "dry-run DENY",
            };
            let verb = match change {
                Change::Loses => "is no longer recorded",
                _ => "is recorded",
            };
            format!("{what} of {who} {verb} by {rule} rules")
        }
    }
}

fn because(d: &Difference, [old, new]: [&str; 2]) -> String {
    if d.kind == Kind::Authentication {
        return String::new();
    }
    let side = |verdict: &Verdict| match (&verdict.policy, verdict.rule, verdict.reason) {
        (Some(policy), Some(rule), _) => Some(format!("{policy} rule {rule}")),
        (_, _, Some(reason)) => Some(crate::explain::cause(reason).to_owned()),
        _ => None,
    };
    match (side(&d.before), side(&d.after)) {
        (None, None) => String::new(),
        (None, Some(after)) => format!(": {new} {after}"),
        (Some(before), None) => format!(": {old} {before}"),
        (Some(before), Some(after)) => format!(": {old} {before}, {new} {after}"),
    }
}

fn destination_lines(out: &mut String, what: &str, destination: &Destination) {
    let policies = match destination.policies.as_slice() {
        [] => "no policy applies: open to everybody".into(),
        policies => format!("under {}", names(policies)),
    };
    line(
        out,
        &format!("{what}: {} ({policies})", names(&destination.names)),
    );
    if destination.policies.is_empty() {
        return;
    }
    if destination.reachable.is_empty() {
        line(out, "  nobody reaches it");
    }
    for d in &destination.reachable {
        line(
            out,
            &format!(
                "  {} reaches {}, {}",
                d.sources.text, d.ports.text, d.operation.text
            ),
        );
    }
}

fn sources_lines(out: &mut String, what: &str, sources: &[Source]) {
    for source in sources.iter().take(LINES) {
        let alone = match source.alone {
            true => ", which nobody else ran as",
            false => "",
        };
        line(
            out,
            &format!(
                "{what}: {} (as {}{alone})",
                source.name, source.service_account
            ),
        );
    }
    if sources.len() > LINES {
        line(out, &format!("... and {} more", sources.len() - LINES));
    }
}
