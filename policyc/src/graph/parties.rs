//! Finds who may send and who may be sent to: pods by the workload that made them, identities that
//! are only named, and the addresses outside.

mod outside;
mod owners;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Family, Party, PartyKind, Port};
use crate::{
    attach::Attachments,
    cluster::{Cluster, Pod, PodTemplate, Protocol, Service},
    ir::{Atom, Program},
    link::{Identity, LinkError, Source, classes::Classes, scopes},
    lower::scope::{self, ScopeKey},
};
use outside::{identities, outside};
use owners::Owners;

/// A party whose scope is not lowered yet.
pub(super) struct Draft {
    pub party: Party,
    pub scope: Option<ScopeKey>,
    pub ports: Vec<Port>,
}

/// All parties, sorted.
pub(super) fn find(
    program: &Program,
    cluster: &Cluster,
    attachments: &Attachments<'_>,
    classes: &mut Classes<'_>,
) -> Result<Vec<Draft>, LinkError> {
    let mut finder = Finder {
        program,
        cluster,
        attachments,
        classes,
        services: by_namespace(&cluster.services, |s| &s.namespace),
        found: BTreeMap::new(),
    };
    finder.pods()?;
    let mut drafts = finder.named();
    let taken: BTreeSet<u16> = drafts.iter().map(|d| d.party.class).collect();
    drafts.extend(identities(program, cluster, classes, taken)?);
    drafts.sort_by(|a, b| {
        let key = |p: &Party| (p.namespace.clone(), p.name.clone(), p.family);
        key(&a.party).cmp(&key(&b.party))
    });
    drafts.extend(outside(classes)?);
    Ok(drafts)
}

/// What makes pods of one workload one party.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Alike {
    namespace: String,
    workload: String,
    kind: String,
    class: u16,
    scope: Option<ScopeKey>,
    ports: Vec<Port>,
    family: Option<Family>,
    service_account: String,
    addressless: bool,
}

struct Finder<'a, 'p, 'c> {
    program: &'p Program,
    cluster: &'a Cluster,
    attachments: &'a Attachments<'p>,
    classes: &'a mut Classes<'c>,
    services: HashMap<&'a str, Vec<&'a Service>>,
    /// Names of the pods that are alike.
    found: BTreeMap<Alike, BTreeSet<String>>,
}

impl Finder<'_, '_, '_> {
    fn pods(&mut self) -> Result<(), LinkError> {
        let cluster = self.cluster;
        let owners = Owners::new(&cluster.workloads);
        let mut owning = BTreeSet::new();
        for pod in cluster.pods.iter().filter(|pod| !pod.finished) {
            let owner = owners.of(pod);
            let (workload, kind) = match owner {
                Some(owner) => (owner.name.as_str(), owner.kind.as_str()),
                None => (pod.name.as_str(), "Pod"),
            };
            if let Some(owner) = owner {
                owning.insert((&owner.namespace, &owner.name, &owner.kind));
            }
            self.pod(pod, workload, kind, Some(&pod.name))?;
        }
        for workload in &cluster.workloads {
            if owning.contains(&(&workload.namespace, &workload.name, &workload.kind)) {
                continue;
            }
            let pod = Pod {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
                template: workload.template.clone(),
                ..Pod::default()
            };
            self.pod(&pod, &workload.name, &workload.kind, None)?;
        }
        Ok(())
    }

    /// Adds a pod, once where its families are treated alike.
    fn pod(
        &mut self,
        pod: &Pod,
        workload: &str,
        kind: &str,
        member: Option<&str>,
    ) -> Result<(), LinkError> {
        let services = self.services.get(pod.namespace.as_str());
        let services = services.map_or(&[][..], Vec::as_slice);
        let keys = scopes::keys(self.program, self.attachments, services, pod)?;
        let identity = (!pod.template.host_network).then(|| Identity {
            trust_domain: self.cluster.mesh.trust_domain.clone(),
            namespace: pod.namespace.clone(),
            service_account: pod.template.service_account.clone(),
        });
        let mut halves = Vec::new();
        for (key, v6) in keys.into_iter().zip([false, true]) {
            let address = pod.ips.iter().find(|ip| ip.is_ipv6() == v6).copied();
            if address.is_some() || (pod.ips.is_empty() && !v6) {
                let source = Source {
                    identity: identity.clone(),
                    address,
                };
                let ports = ports(self.program, &key, &pod.template, services);
                halves.push(Alike {
                    namespace: pod.namespace.clone(),
                    workload: workload.into(),
                    kind: kind.into(),
                    class: self.classes.class(&source)?,
                    scope: (!pod.template.host_network).then_some(key),
                    ports,
                    family: Some(Family::of(v6)),
                    service_account: pod.template.service_account.clone(),
                    addressless: address.is_none(),
                });
            }
        }
        let whole = |half: &Alike| Alike {
            family: None,
            ..half.clone()
        };
        if halves.windows(2).all(|w| whole(&w[0]) == whole(&w[1])) {
            halves.truncate(1);
            halves.iter_mut().for_each(|half| half.family = None);
        }
        for half in halves {
            let members = self.found.entry(half).or_default();
            members.extend(member.map(str::to_owned));
        }
        Ok(())
    }

    /// Gives each party a name of its own.
    fn named(self) -> Vec<Draft> {
        let mut count: HashMap<(String, String), usize> = HashMap::new();
        for alike in self.found.keys() {
            *count
                .entry((alike.namespace.clone(), alike.workload.clone()))
                .or_default() += 1;
        }
        let mut taken: BTreeSet<(String, String)> = BTreeSet::new();
        let mut drafts = Vec::new();
        for (alike, members) in self.found {
            let key = (alike.namespace.clone(), alike.workload.clone());
            let several = count.get(&key).is_some_and(|count| *count > 1);
            let mut name = alike.workload.clone();
            if several {
                // Pods of one workload that some rule tells apart are named by the first of them.
                let first = members.first().filter(|first| **first != name);
                name += &match (first, alike.family) {
                    (Some(first), None) => format!(" ({first})"),
                    (Some(first), Some(family)) => format!(" ({first}, {})", family.name()),
                    (None, Some(family)) => format!(" ({})", family.name()),
                    (None, None) => format!(" ({})", alike.kind),
                };
            }
            let mut unique = name.clone();
            let mut number = 2;
            while !taken.insert((alike.namespace.clone(), unique.clone())) {
                unique = format!("{name} #{number}");
                number += 1;
            }
            drafts.push(Draft {
                party: Party {
                    namespace: alike.namespace,
                    name: unique,
                    kind: PartyKind::Workload(alike.kind),
                    service_account: alike.service_account,
                    members: members.into_iter().collect(),
                    family: alike.family,
                    addressless: alike.addressless,
                    class: alike.class,
                    destination: None,
                },
                scope: alike.scope,
                ports: alike.ports,
            });
        }
        drafts
    }
}

impl Family {
    /// `IPv4` or `IPv6`
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Ports that are worth a word of their own: declared by the pod, asked for by a Service, or named
/// by a policy.
fn ports(
    program: &Program,
    key: &ScopeKey,
    template: &PodTemplate,
    services: &[&Service],
) -> Vec<Port> {
    let own = template.ports.iter().map(|p| p.port);
    let selecting = services.iter().filter(|s| s.selects(template));
    let served = selecting
        .flat_map(|s| &s.ports)
        .filter_map(|p| template.target(&p.target));
    let policies = key.policies.iter();
    let rules = policies
        .filter_map(|id| program.policies.get(id.index()))
        .flat_map(|policy| &policy.rules);
    let named = rules
        .flat_map(scope::atoms)
        .filter_map(|id| match program.atoms.get(id.index()) {
            Some(Atom::DestinationPort(port)) => Some(*port),
            _ => None,
        });
    let all: BTreeSet<u16> = own.chain(served).chain(named).collect();
    let declared = |port: u16| template_protocol(key, port);
    all.into_iter()
        .map(|port| Port {
            port,
            declared: declared(port),
        })
        .collect()
}

fn template_protocol(key: &ScopeKey, port: u16) -> Protocol {
    let declared = key.ports.get(&port).copied();
    declared.unwrap_or(Protocol::Undeclared)
}

fn by_namespace<'a, T>(
    all: &'a [T],
    namespace: impl Fn(&'a T) -> &'a str,
) -> HashMap<&'a str, Vec<&'a T>> {
    let mut found: HashMap<&str, Vec<&T>> = HashMap::new();
    for one in all {
        found.entry(namespace(one)).or_default().push(one);
    }
    found
}
