//! A bundle and a linked table as text, in the words that policies use: the identity map, the port
//! map and the decision map.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    net::IpAddr,
};

use enforcer_ebpf::{
    decide,
    words::{Address, Cell, Holder, Verdict, Words, index_bits, index_offset, scope},
};

use crate::{
    bundle::Bundle,
    cluster::Cluster,
    explain::cause,
    ir::{Action, Program},
    link::{Linked, LinkedPod},
};

/// The bundle's header and its policies, `lines` of each list at most.
pub fn program(bundle: &Bundle, lines: usize) -> String {
    let p = &bundle.program;
    let mut text = String::new();
    let written = (|| -> fmt::Result {
        writeln!(
            text,
            "generation {}, compiler {}",
            bundle.generation, bundle.compiler
        )?;
        writeln!(text, "sha256 {}", bundle.hash)?;
        if let Some(signer) = &bundle.signer {
            writeln!(
                text,
                "signed by key {signer}, as it says: `verify --signature`"
            )?;
        }
        writeln!(
            text,
            "trust domain {}, root namespace {}, catch-all DENY: {:?}",
            p.mesh.trust_domain, p.mesh.root_namespace, p.catch_all_deny
        )?;
        writeln!(
            text,
            "{} policies, {} distinct questions, {} RequestAuthentications",
            p.policies.len(),
            p.atoms.len(),
            p.authentications.len()
        )?;
        for policy in p.policies.iter().take(lines) {
            let action = match &policy.action {
                Action::Allow => "ALLOW".to_string(),
                Action::Deny => "DENY".to_string(),
                Action::Audit => "AUDIT".to_string(),
                Action::Custom { provider } => format!("CUSTOM {provider}"),
            };
            let dry_run = if policy.dry_run { ", dry run" } else { "" };
            writeln!(
                text,
                "\n{} ({action}{dry_run}), {}",
                policy.qualified_name(),
                policy.file
            )?;
            if policy.rules.is_empty() {
                writeln!(text, "  no rules: it matches nothing")?;
            }
            for (number, rule) in policy.rules.iter().enumerate() {
                if rule.clauses.is_empty() {
                    writeln!(text, "  rule {number}: everything")?;
                }
                for (i, clause) in rule.clauses.iter().enumerate() {
                    let lead = match i {
                        0 => format!("  rule {number}:"),
                        _ => "     and".to_string(),
                    };
                    writeln!(text, "{lead} {}", p.describe(clause))?;
                }
            }
        }
        more(&mut text, p.policies.len(), lines)
    })();
    finished(text, written)
}

/// The sections of a linked table, `lines` of each at most.
pub fn table(program: &Program, cluster: &Cluster, linked: &Linked, lines: usize) -> String {
    let mut text = String::new();
    let written = (|| -> fmt::Result {
        writeln!(text, "table: {} words", linked.words.len())?;
        identity_map(&mut text, cluster, linked, lines)?;
        let mut scopes: BTreeMap<u32, Vec<&LinkedPod>> = BTreeMap::new();
        for pod in &linked.pods {
            scopes.entry(pod.scope_v4).or_default().push(pod);
            if pod.scope_v6 != pod.scope_v4 {
                scopes.entry(pod.scope_v6).or_default().push(pod);
            }
        }
        for (at, pods) in scopes.iter().take(lines) {
            one_scope(&mut text, program, linked, *at, pods, lines)?;
        }
        more(&mut text, scopes.len(), lines)
    })();
    finished(text, written)
}

fn identity_map(
    text: &mut String,
    cluster: &Cluster,
    linked: &Linked,
    lines: usize,
) -> fmt::Result {
    writeln!(text, "\nidentity map (address: source class, holder)")?;
    let pods = cluster
        .pods
        .iter()
        .filter(|p| !p.finished && !p.template.host_network);
    let addresses: Vec<(&IpAddr, String)> = pods
        .flat_map(|p| {
            p.ips
                .iter()
                .map(|ip| (ip, format!("{}/{}", p.namespace, p.name)))
        })
        .collect();
    for (ip, pod) in addresses.iter().take(lines) {
        let address = look_up(linked, ip);
        let holder = match address.holder() {
            Holder::LocalPod(slot) => format!("local pod in slot {slot}"),
            Holder::RemotePod => "remote pod".into(),
            Holder::Node => "this node".into(),
            Holder::Unknown => "unknown".into(),
            Holder::Outside => "outside".into(),
        };
        writeln!(
            text,
            "  {ip:<24} class {:<6} {pod} ({holder})",
            address.class()
        )?;
    }
    more(text, addresses.len(), lines)
}

fn look_up(linked: &Linked, ip: &IpAddr) -> Address {
    match ip {
        IpAddr::V4(a) => decide::address_v4(&linked.words[..], u32::from(*a)),
        IpAddr::V6(a) => {
            let mut words = [0; 4];
            for (word, pair) in words.iter_mut().zip(a.segments().chunks_exact(2)) {
                *word = pair
                    .iter()
                    .fold(0, |word, part| word << 16 | u32::from(*part));
            }
            decide::address_v6(&linked.words[..], &words)
        }
    }
}

fn one_scope(
    text: &mut String,
    program: &Program,
    linked: &Linked,
    at: u32,
    pods: &[&LinkedPod],
    lines: usize,
) -> fmt::Result {
    let words = &linked.words[..];
    let word = |index: u32| words.at(at + index);
    writeln!(text, "\nscope at word {at}")?;
    let names: Vec<String> = pods
        .iter()
        .take(6)
        .map(|p| format!("{}/{}", p.namespace, p.name))
        .collect();
    let rest = if pods.len() > 6 {
        format!(" and {} more", pods.len() - 6)
    } else {
        String::new()
    };
    writeln!(text, "  pods          {}{rest}", names.join(", "))?;
    let ports = entries(words, word(scope::PORTS));
    let listed: Vec<String> = ports
        .iter()
        .map(|(port, class)| format!("{port}: {class}"))
        .collect();
    writeln!(
        text,
        "  port map      {}",
        if listed.is_empty() {
            "every port: 0".into()
        } else {
            listed.join(", ") + ", others: 0"
        }
    )?;
    let classes = entries(words, word(scope::CLASSES));
    let listed: Vec<String> = classes
        .iter()
        .take(lines)
        .map(|(class, row)| format!("{class}: {row}"))
        .collect();
    writeln!(
        text,
        "  class map     {}",
        if listed.is_empty() {
            "every class: row 0".into()
        } else {
            listed.join(", ") + ", others: row 0"
        }
    )?;
    let rows = classes.iter().map(|(_, row)| *row).max().unwrap_or(0) + 1;
    let width = word(scope::WIDTH);
    writeln!(text, "  decision map")?;
    for row in 0..rows {
        for column in 0..width {
            let cell = Cell(words.at(word(scope::CELLS) + row * width + column));
            writeln!(
                text,
                "    row {row} port class {column}: {}",
                describe(program, linked, cell)
            )?;
        }
    }
    Ok(())
}

fn describe(program: &Program, linked: &Linked, cell: Cell) -> String {
    let verdict = match cell.verdict() {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
        Verdict::Ask => return "ask userspace".into(),
    };
    let Some(record) = linked.records.get(cell.record() as usize) else {
        return verdict.into();
    };
    let named = record.rule.and_then(|rule| {
        let policy = program.policies.get(rule.policy.index())?;
        Some(format!(" ({} rule {})", policy.qualified_name(), rule.rule))
    });
    format!(
        "{verdict}, {}{}",
        cause(record.cause),
        named.unwrap_or_default()
    )
}

/// The entries of a u16 index, sorted.
fn entries(words: &[u32], reference: u32) -> Vec<(u32, u32)> {
    if reference == 0 {
        return Vec::new();
    }
    let start = index_offset(reference);
    let mut found: Vec<(u32, u32)> = (0..(4u32 << index_bits(reference)))
        .map(|i| words.at(start + i))
        .filter(|word| *word != 0)
        .map(|word| (word >> 16, word & 0xffff))
        .collect();
    found.sort_unstable();
    found
}

fn more(text: &mut String, all: usize, lines: usize) -> fmt::Result {
    if all > lines {
        writeln!(text, "... and {} more", all - lines)
    } else {
        Ok(())
    }
}

/// Writing to a string cannot fail; if it ever did, the text says so.
fn finished(mut text: String, written: fmt::Result) -> String {
    if written.is_err() {
        text.push_str("(cut short)\n");
    }
    text
}
