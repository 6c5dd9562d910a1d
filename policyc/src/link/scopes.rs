//! The scopes of this node's pods: each lowered once, rows only for the sources that differ.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use petgraph::graph::NodeIndex;

use super::{LinkError, Slotted, classes::Closed, project::project, qualified};
use crate::{
    attach::{self, Attachments},
    cluster::{Cluster, Pod, PodTemplate, Protocol, Service},
    ir::{Atom, AtomId, Fact, PolicyId, Program},
    lower::{
        cell,
        graph::{DecisionGraph, ScopeNode},
        scope::{self, Scope, ScopeKey},
    },
};

/// The scopes of one pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodScopes {
    pub v4: NodeIndex,
    pub v6: NodeIndex,
}

/// The scope keys of pods, for IPv4 and for IPv6 destinations.
///
/// # Errors
/// As [`keys`].
pub(super) fn keys_of(
    program: &Program,
    cluster: &Cluster,
    pods: &[Slotted<'_>],
) -> Result<Vec<[ScopeKey; 2]>, LinkError> {
    let attachments = Attachments::new(program);
    let mut services: BTreeMap<&str, Vec<&Service>> = BTreeMap::new();
    for service in &cluster.services {
        let namespace = services.entry(&service.namespace).or_default();
        namespace.push(service);
    }
    let of = |Slotted { pod, .. }: &Slotted<'_>| {
        let services = services.get(pod.namespace.as_str());
        let services = services.map_or(&[][..], Vec::as_slice);
        keys(program, &attachments, services, pod)
    };
    pods.iter().map(of).collect()
}

/// What scopes ask about sources.
pub(super) fn asked(program: &Program, keys: &[[ScopeKey; 2]]) -> BTreeSet<AtomId> {
    let policies: BTreeSet<PolicyId> = keys
        .iter()
        .flatten()
        .flat_map(|key| key.policies.iter().copied())
        .collect();
    let policies = policies.into_iter();
    let rules = policies
        .filter_map(|id| program.policies.get(id.index()))
        .flat_map(|policy| &policy.rules);
    let is_source = |id: &AtomId| {
        let fact = program.atoms.get(id.index()).map(Atom::fact);
        matches!(fact, Some(Fact::Source | Fact::RemoteAddress))
    };
    rules.flat_map(scope::atoms).filter(is_source).collect()
}

/// Lowers scopes into the graph, each key once.
pub(crate) struct Lowered<'a> {
    program: &'a Program,
    classes: &'a Closed,
    graph: &'a mut DecisionGraph,
    done: HashMap<ScopeKey, NodeIndex>,
}

impl<'a> Lowered<'a> {
    pub fn new(program: &'a Program, classes: &'a Closed, graph: &'a mut DecisionGraph) -> Self {
        Self {
            program,
            classes,
            graph,
            done: HashMap::new(),
        }
    }

    /// The node of a scope.
    pub fn scope(&mut self, key: ScopeKey) -> NodeIndex {
        if let Some(&node) = self.done.get(&key) {
            return node;
        }
        let scope = Scope::new(self.program, key.clone());
        let columns = Columns::new(&scope);
        let (projections, mut classes) = project(&scope, self.classes);
        let rows: Vec<Vec<NodeIndex>> = projections
            .iter()
            .map(|source| {
                columns
                    .kinds
                    .iter()
                    .map(|(atom, protocol)| {
                        self.graph
                            .cell(cell::cell(&scope, source, *atom, *protocol))
                    })
                    .collect()
            })
            .collect();
        let (ports, rows) = columns.merge(rows);
        let mut nodes: Vec<NodeIndex> = Vec::new();
        let mut known: HashMap<NodeIndex, usize> = HashMap::new();
        let mut numbers: Vec<u16> = Vec::new();
        for row in rows {
            let node = self.graph.row(row);
            let number = *known.entry(node).or_insert_with(|| {
                nodes.push(node);
                nodes.len() - 1
            });
            // INVARIANT: there are no more rows than source classes, of which there are 65 536.
            numbers.push(u16::try_from(number).unwrap_or(u16::MAX));
        }
        for (_, row) in &mut classes {
            *row = numbers.get(usize::from(*row)).copied().unwrap_or(0);
        }
        classes.retain(|(_, row)| *row != 0);
        let node = self.graph.scope(ScopeNode { ports, classes }, nodes);
        self.done.insert(key, node);
        node
    }
}

/// The scope keys of a pod, for IPv4 and for IPv6 destinations. `services` are those of its
/// namespace.
///
/// # Errors
/// A policy asks for `destination.ip`, and the pod has several addresses of one family.
pub fn keys(
    program: &Program,
    attachments: &Attachments<'_>,
    services: &[&Service],
    pod: &Pod,
) -> Result<[ScopeKey; 2], LinkError> {
    let key = ScopeKey {
        policies: attachments.policies(&pod.namespace, &pod.template),
        authentications: attachments.authentications(&pod.namespace, &pod.template),
        ports: declared(&pod.template, &pod.namespace, services),
        destination: BTreeSet::new(),
        gateway: attach::is_gateway(&pod.template),
    };
    let asked = destination_atoms(program, &key);
    let family = |v6: bool| -> Result<ScopeKey, LinkError> {
        let mut addresses = pod.ips.iter().filter(|a| a.is_ipv6() == v6);
        let address = addresses.next();
        if !asked.is_empty() && addresses.next().is_some() {
            return Err(LinkError::SeveralDestinations(qualified(pod)));
        }
        let holds = |net: &ipnet::IpNet| address.is_some_and(|a: &IpAddr| net.contains(a));
        let destination = asked
            .iter()
            .filter(|(_, net)| holds(net))
            .map(|(atom, _)| *atom)
            .collect();
        Ok(ScopeKey {
            destination,
            ..key.clone()
        })
    };
    Ok([family(false)?, family(true)?])
}

/// The port classes of a scope before equal ones are merged: what is known of a port.
struct Columns {
    kinds: Vec<(Option<AtomId>, Protocol)>,
    /// (port, index into `kinds`)
    ports: Vec<(u16, usize)>,
}

impl Columns {
    fn new(scope: &Scope<'_>) -> Self {
        let mut kinds = vec![(None, Protocol::Undeclared)];
        let mut ports = Vec::new();
        let named: BTreeSet<u16> = scope
            .port_atoms
            .keys()
            .chain(scope.key.ports.keys())
            .copied()
            .collect();
        for port in named {
            let protocol = scope
                .key
                .ports
                .get(&port)
                .copied()
                .unwrap_or(Protocol::Undeclared);
            let kind = (scope.port_atoms.get(&port).copied(), protocol);
            let index = kinds.iter().position(|k| *k == kind).unwrap_or_else(|| {
                kinds.push(kind);
                kinds.len() - 1
            });
            ports.push((port, index));
        }
        Self { kinds, ports }
    }

    /// Drops port classes that no source tells apart. Class 0 stays first.
    fn merge(&self, rows: Vec<Vec<NodeIndex>>) -> (Vec<(u16, u16)>, Vec<Vec<NodeIndex>>) {
        let column = |i: usize| rows.iter().map(move |row| row.get(i).copied());
        let mut kept: Vec<usize> = Vec::new();
        let mut numbers: HashMap<Vec<Option<NodeIndex>>, u16> = HashMap::new();
        let mut class_of = Vec::with_capacity(self.kinds.len());
        for i in 0..self.kinds.len() {
            let cells: Vec<Option<NodeIndex>> = column(i).collect();
            let next = u16::try_from(kept.len()).unwrap_or(u16::MAX);
            class_of.push(*numbers.entry(cells).or_insert_with(|| {
                kept.push(i);
                next
            }));
        }
        let ports = self
            .ports
            .iter()
            .map(|(port, kind)| (*port, class_of.get(*kind).copied().unwrap_or(0)))
            .filter(|(_, class)| *class != 0)
            .collect();
        let rows = rows
            .iter()
            .map(|row| kept.iter().filter_map(|i| row.get(*i).copied()).collect())
            .collect();
        (ports, rows)
    }
}

/// Ports of a pod that are declared to speak something.
fn declared(
    template: &PodTemplate,
    namespace: &str,
    services: &[&Service],
) -> BTreeMap<u16, Protocol> {
    let selecting: Vec<&Service> = services
        .iter()
        .copied()
        .filter(|service| service.selects(template))
        .collect();
    let ports: BTreeSet<u16> = template
        .ports
        .iter()
        .map(|p| p.port)
        .chain(
            selecting
                .iter()
                .flat_map(|s| &s.ports)
                .filter_map(|p| template.target(&p.target)),
        )
        .collect();
    ports
        .into_iter()
        .map(|port| (port, template.protocol(namespace, port, &selecting)))
        .filter(|(_, protocol)| *protocol != Protocol::Undeclared)
        .collect()
}

/// The `destination.ip` atoms that the policies of a scope ask.
fn destination_atoms(program: &Program, key: &ScopeKey) -> Vec<(AtomId, ipnet::IpNet)> {
    let atoms: BTreeSet<AtomId> = key
        .policies
        .iter()
        .filter_map(|id| program.policies.get(id.index()))
        .flat_map(|policy| &policy.rules)
        .flat_map(crate::lower::scope::atoms)
        .collect();
    atoms
        .into_iter()
        .filter_map(|id| match program.atoms.get(id.index()) {
            Some(Atom::DestinationIp(net)) => Some((id, *net)),
            _ => None,
        })
        .collect()
}
