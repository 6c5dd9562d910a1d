//! The account as a graph in the DOT language: workloads in their namespaces, an arrow for what may
//! be reached, labelled with ports and with who decides.
//!
//! Everybody may reach most things where there are few policies, and an arrow for each pair would
//! hide what matters. So "any other address" stands for what is open to everybody, a source has
//! arrows of its own only where it may do something else than that, and sources of a namespace that
//! may all do the same share one arrow from their namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{
    Party, PartyKind, Port, Reach,
    compare::{Change, Difference},
};
use crate::lower::cell::Decided;

/// What a source may do at a destination: a verdict for each port of interest, and for the rest.
type Profile = Vec<(Option<u16>, Decided)>;

/// The graph. `differences` are drawn over it.
pub fn dot(reach: &Reach<'_>, differences: &[Difference]) -> String {
    let mut text = String::from(HEADER);
    namespaces(&mut text, reach);
    let elsewhere = |p: &Party| p.kind == PartyKind::Elsewhere;
    let outside = reach.parties.iter().position(elsewhere);
    for (to_number, to) in reach.parties.iter().enumerate() {
        let Some(destination) = &to.destination else {
            continue;
        };
        let profile = |from: &Party| profile(reach, from, to, &destination.ports);
        let party = outside.and_then(|number| reach.parties.get(number));
        let everybody = party.map(profile).unwrap_or_default();
        if let Some(from) = outside.filter(|_| lets_through(&everybody)) {
            edge(&mut text, from, None, to_number, &everybody);
        }
        let others = reach.parties.iter().enumerate();
        let others = others.filter(|(from, party)| *from != to_number && !elsewhere(party));
        let own: BTreeMap<usize, Profile> = others
            .map(|(from, party)| (from, profile(party)))
            .filter(|(_, profile)| *profile != everybody && !profile.is_empty())
            .collect();
        for (from, cluster, profile) in shared(reach, to_number, &own) {
            edge(&mut text, from, cluster, to_number, profile);
        }
    }
    for difference in differences {
        changed(&mut text, difference);
    }
    text + "}\n"
}

const HEADER: &str = r##"digraph reachability {
  graph [rankdir=LR, compound=true, fontname="sans-serif", nodesep=0.3, ranksep=1.2, newrank=true];
  node [shape=box, style="rounded,filled", fillcolor="#ffffff", color="#57606a", fontname="sans-serif", fontsize=11];
  edge [fontname="sans-serif", fontsize=9, color="#57606a"];
"##;

/// The nodes, in a box for each namespace.
fn namespaces(text: &mut String, reach: &Reach<'_>) {
    let mut namespaces: BTreeMap<&str, Vec<(usize, &Party)>> = BTreeMap::new();
    for (number, party) in reach.parties.iter().enumerate() {
        namespaces
            .entry(&party.namespace)
            .or_default()
            .push((number, party));
    }
    for (number, (namespace, parties)) in namespaces.into_iter().enumerate() {
        if namespace.is_empty() {
            for (number, party) in parties {
                *text += &node("  ", number, party);
            }
            continue;
        }
        *text += &format!(
            "  subgraph cluster_{number} {{\n    label={}; style=\"rounded,filled\"; fillcolor=\"#f6f8fa\"; color=\"#d0d7de\";\n",
            quoted(namespace)
        );
        for (number, party) in parties {
            *text += &node("    ", number, party);
        }
        *text += "  }\n";
    }
}

fn node(indent: &str, number: usize, party: &Party) -> String {
    let mut label = party.name.clone();
    if party.members.len() > 1 {
        let _ = write!(label, "\n{} pods", party.members.len());
    }
    let style = match &party.kind {
        PartyKind::Workload(_) if party.destination.is_none() => ", style=\"rounded,dashed\"",
        PartyKind::Workload(_) => "",
        PartyKind::Identity => ", shape=ellipse, style=dashed",
        PartyKind::Block | PartyKind::Elsewhere => ", shape=ellipse",
    };
    format!("{indent}n{number} [label={}{style}];\n", quoted(&label))
}

/// What `from` may do at each port that is worth a word, and at any other. Empty where no
/// connection can be.
fn profile(reach: &Reach<'_>, from: &Party, to: &Party, ports: &[Port]) -> Profile {
    let listed = ports.iter().map(|p| Some(p.port));
    let all = listed.chain([None]);
    all.filter_map(|port| Some((port, reach.cell(from, to, port)?.verdict)))
        .collect()
}

fn lets_through(profile: &Profile) -> bool {
    profile.iter().any(|(_, verdict)| *verdict != Decided::Deny)
}

/// Arrows of single sources, and of namespaces all of whose sources may do the same.
fn shared<'p>(
    reach: &Reach<'_>,
    to: usize,
    own: &'p BTreeMap<usize, Profile>,
) -> Vec<(usize, Option<usize>, &'p Profile)> {
    let mut namespaces: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, party) in reach.parties.iter().enumerate() {
        namespaces.entry(&party.namespace).or_default().push(number);
    }
    let mut arrows = Vec::new();
    for (cluster, (namespace, members)) in namespaces.into_iter().enumerate() {
        let senders: Vec<usize> = members.iter().copied().filter(|n| *n != to).collect();
        let profiles: BTreeSet<Option<&Profile>> = senders.iter().map(|n| own.get(n)).collect();
        let inside = members.contains(&to);
        match (senders.as_slice(), profiles.first()) {
            ([first, _, ..], Some(Some(profile)))
                if profiles.len() == 1 && !namespace.is_empty() && !inside =>
            {
                arrows.push((*first, Some(cluster), *profile));
            }
            _ => {
                let single = senders.iter();
                arrows.extend(single.filter_map(|n| Some((*n, None, own.get(n)?))));
            }
        }
    }
    arrows
}

/// One arrow. A refusal is drawn where everybody else is let through.
fn edge(text: &mut String, from: usize, cluster: Option<usize>, to: usize, profile: &Profile) {
    let by = |verdict| ports(profile, verdict);
    let mut label = Vec::new();
    for (verdict, word) in [(Decided::Allow, "kernel"), (Decided::Ask, "userspace")] {
        label.extend(by(verdict).map(|ports| format!("{word}: {ports}")));
    }
    let style = match (by(Decided::Allow), by(Decided::Ask)) {
        (None, None) => "color=\"#cf222e\", fontcolor=\"#cf222e\", style=dotted, arrowhead=tee",
        (Some(_), None) => "color=\"#1a7f37\", fontcolor=\"#1a7f37\"",
        (None, Some(_)) => "color=\"#8250df\", fontcolor=\"#8250df\", style=dashed",
        (Some(_), Some(_)) => "color=\"#1a7f37:#8250df\"",
    };
    if label.is_empty() {
        label.push("denied".into());
    }
    let tail = cluster.map_or(String::new(), |n| format!("ltail=cluster_{n}, "));
    let label = quoted(&label.join("\n"));
    let _ = writeln!(text, "  n{from} -> n{to} [{tail}label={label}, {style}];");
}

/// The ports at which the verdict falls, in words.
fn ports(profile: &Profile, verdict: Decided) -> Option<String> {
    let with = |wanted: bool| -> Vec<String> {
        profile
            .iter()
            .filter(|(_, v)| (*v == verdict) == wanted)
            .filter_map(|(port, _)| port.map(|port| port.to_string()))
            .collect()
    };
    let rest = profile
        .iter()
        .any(|(port, v)| port.is_none() && *v == verdict);
    match (rest, with(true), with(false)) {
        (true, _, others) if others.is_empty() => Some("every port".into()),
        (true, _, others) => Some(format!("every port but {}", others.join(", "))),
        (false, own, _) if own.is_empty() => None,
        (false, own, _) => Some(own.join(", ")),
    }
}

fn changed(text: &mut String, difference: &Difference) {
    let (from, to) = (difference.from, difference.to);
    let (word, color) = match difference.change {
        Change::Opened => ("opened", "#bf3989"),
        Change::Closed => ("closed", "#9a6700"),
        Change::Reworded => ("other rules for requests", "#0969da"),
    };
    let mut ports = difference.ports.clone();
    // What is named comes first.
    ports.sort_by_key(|port| (port.is_none(), *port));
    let ports: Vec<String> = ports
        .into_iter()
        .map(|port| port.map_or("every other port".into(), |port| port.to_string()))
        .collect();
    let label = quoted(&format!("{word}: {}", ports.join(", ")));
    let _ = writeln!(
        text,
        "  n{from} -> n{to} [label={label}, color=\"{color}\", fontcolor=\"{color}\", penwidth=2, constraint=false];"
    );
}

/// A string in DOT's quotes: only the quote and the backslash mean something in there, and a line
/// break is written out.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => quoted.push('\u{fffd}'),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn quotes_backslashes_and_line_breaks_cannot_end_a_label() {
        assert_eq!(
            quoted("a\"];\n\\\"b\u{7}"),
            "\"a\\\"];\\n\\\\\\\"b\u{fffd}\"",
        );
    }
}
