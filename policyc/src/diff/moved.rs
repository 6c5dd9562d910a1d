//! Sources that are somebody else on the new side: a workload whose service account changed, or a pod
//! whose address did. What it may reach changes though no policy does.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Comparison,
    entries::{Entries, Entry},
    places::{Group, Pairing},
    report::{Selector, Sources},
    setting::{PortKind, Setting},
    tried::{port_of, request, tried},
};
use crate::{
    cluster::Pod,
    ir::{AtomId, Program},
    link::{
        Identity, Source,
        classes::{Classes, Closed},
    },
    request::SourceRef,
};

/// A source on both sides, in one family of addresses.
struct Moved {
    /// `namespace/name`, of both sides.
    names: [String; 2],
    accounts: [String; 2],
    /// Class on either side, by family; where it has no address, as one that no block holds.
    classes: [[u16; 2]; 2],
}

/// Tells what moved sources newly reach, or no longer.
///
/// # Errors
/// More kinds of sources than a table holds.
pub(super) fn compare<'a>(
    comparison: &mut Comparison<'a>,
    entries: &mut Entries<'a>,
    pairing: &Pairing<'_>,
    groups: &[Group],
) -> Result<(), String> {
    let programs = comparison.programs;
    let [old, new] = programs;
    let mut classes = [
        Classes::new(old).map_err(|e| e.to_string())?,
        Classes::new(new).map_err(|e| e.to_string())?,
    ];
    let mut moved: BTreeMap<[[u16; 2]; 2], Vec<Moved>> = BTreeMap::new();
    for pods in pairing {
        let [Some(before), Some(after)] = pods else {
            continue;
        };
        if identity(old, before) == identity(new, after) && before.ips == after.ips {
            continue;
        }
        let mut of = [[0; 2]; 2];
        for (((of, classes), program), pod) in of
            .iter_mut()
            .zip(&mut classes)
            .zip(programs)
            .zip([before, after])
        {
            for (class, v6) in of.iter_mut().zip([false, true]) {
                let source = Source {
                    identity: identity(program, pod),
                    address: pod.ips.iter().find(|ip| ip.is_ipv6() == v6).copied(),
                };
                *class = classes.class(&source).map_err(|e| e.to_string())?;
            }
        }
        moved.entry(of).or_default().push(Moved {
            names: [before, after].map(|pod| format!("{}/{}", pod.namespace, pod.name)),
            accounts: [before, after]
                .map(|pod| format!("{}/{}", pod.namespace, pod.template.service_account)),
            classes: of,
        });
    }
    if moved.is_empty() {
        return Ok(());
    }
    let closed = classes.map(Classes::close);
    // Another address or another account of which policies know nothing is no move.
    let [before, after] = &closed;
    moved.retain(|[olds, news], _| {
        let mut families = olds.iter().zip(news);
        families.any(|(old, new)| {
            before.signatures.get(usize::from(*old)) != after.signatures.get(usize::from(*new))
        })
    });
    for group in groups.iter().filter(|_| !moved.is_empty()) {
        if group.keys.iter().any(Option::is_none) {
            continue;
        }
        let setting = Setting::new(programs, group);
        for alike in moved.values() {
            for v6 in &group.families {
                if *v6 && !setting.apart && group.families.len() > 1 && !depends(alike) {
                    continue;
                }
                one(comparison, entries, group, &setting, &closed, alike, *v6);
            }
        }
    }
    Ok(())
}

/// Whether the two families see different sources.
fn depends(alike: &[Moved]) -> bool {
    alike
        .first()
        .is_some_and(|m| m.classes.iter().any(|[v4, v6]| v4 != v6))
}

fn identity(program: &Program, pod: &Pod) -> Option<Identity> {
    (!pod.template.host_network).then(|| Identity {
        trust_domain: program.mesh.trust_domain.clone(),
        namespace: pod.namespace.clone(),
        service_account: pod.template.service_account.clone(),
    })
}

fn one<'a>(
    comparison: &mut Comparison<'a>,
    entries: &mut Entries<'a>,
    group: &Group,
    setting: &Setting<'a>,
    closed: &[Closed; 2],
    alike: &[Moved],
    v6: bool,
) {
    let Some(first) = alike.first() else { return };
    let mut sets: [BTreeSet<AtomId>; 2] = [BTreeSet::new(), BTreeSet::new()];
    for (((set, closed), classes), side) in sets.iter_mut().zip(closed).zip(&first.classes).zip(0..)
    {
        let class = classes[usize::from(v6)];
        let signature = closed.signatures.get(usize::from(class));
        let scope = setting.scope(side, v6);
        let asked = |id: &&AtomId| scope.is_some_and(|s| s.source_atoms.contains(id));
        set.extend(signature.into_iter().flatten().filter(asked));
    }
    // Whoever looks the same is told with all that look so.
    if sets[0] == sets[1] {
        return;
    }
    let mut by_finding: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (port, kind) in setting.ports.iter().enumerate() {
        if let Some(finding) = comparison.pair(setting, &sets, v6, kind) {
            by_finding.entry(finding).or_default().push(port);
        }
    }
    for (finding, ports) in by_finding {
        let Some(findings) = comparison.compared.findings.get(finding).cloned() else {
            continue;
        };
        let ports: Vec<&PortKind> = ports.iter().filter_map(|p| setting.ports.get(*p)).collect();
        for finding in findings.iter() {
            let entry = entries.entry(comparison, setting, group, finding, named(alike), &ports);
            let [_, name] = &first.names;
            let base = request(SourceRef::Pod(name.clone()), port_of(&ports));
            let tried = match first.names[0] == first.names[1] {
                true => tried(comparison, setting, group, finding, &[base]),
                false => Vec::new(),
            };
            entries.add(Entry { tried, ..entry });
        }
    }
}

fn named(alike: &[Moved]) -> Sources {
    let mut names: Vec<String> = alike.iter().map(|m| m.names[1].clone()).collect();
    names.sort_unstable();
    names.dedup();
    let accounts: BTreeSet<&[String; 2]> = alike.iter().map(|m| &m.accounts).collect();
    let why: Vec<String> = accounts
        .iter()
        .map(|[old, new]| match old == new {
            true => format!("{new} from another address"),
            false => format!("as {new}, was {old}"),
        })
        .collect();
    Sources {
        text: format!("{} ({})", super::operation::list(&names), why.join("; ")),
        service_accounts: accounts.iter().map(|[_, new]| new.clone()).collect(),
        service_accounts_total: accounts.len(),
        selector: Selector {
            names,
            ..Selector::default()
        },
    }
}
