//! Who may reach whom: every workload, outside address and named identity as a source, every
//! workload as a destination, and between them the cells of the decision graph that `lower` makes.
//! The same cells become the words of a node's table; nothing is judged anew in here.
//!
//! [`Reach`] is the account; [`dot`] and [`page`] show it, [`compare`] sets two beside each other.

pub mod compare;
pub mod dot;
pub mod page;
mod parties;

use std::collections::HashMap;

use petgraph::graph::NodeIndex;

use crate::{
    attach::Attachments,
    cluster::{Cluster, Protocol},
    ir::{AtomId, Program},
    link::{LinkError, classes::Classes, scopes::Lowered},
    lower::{
        cell::{CellData, Decided},
        graph::{DecisionGraph, Node},
        scope::ScopeKey,
    },
};

/// Whom a program lets reach whom, in a cluster.
#[derive(Debug)]
pub struct Reach<'a> {
    pub program: &'a Program,
    /// Sources, and those of them that are destinations too; by namespace and name, the world
    /// outside last.
    pub parties: Vec<Party>,
    /// Atoms that are true of the sources of each class.
    pub classes: Vec<Vec<AtomId>>,
    pub scopes: Vec<ScopeReach>,
    pub cells: Vec<CellData>,
}

/// Somebody who may send, and mostly be sent to. Pods that no rule can tell apart, of one workload,
/// are one party.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Party {
    /// Empty for the world outside.
    pub namespace: String,
    pub name: String,
    pub kind: PartyKind,
    pub service_account: String,
    /// Names of its pods, sorted; none for a workload that is known by its template alone.
    pub members: Vec<String>,
    /// Of whose addresses it is, where its two families are told apart.
    pub family: Option<Family>,
    /// No address of it is known: it is taken for an address that is in no block.
    pub addressless: bool,
    /// Index into [`Reach::classes`].
    pub class: u16,
    /// `None`: nothing is enforced there.
    pub destination: Option<Destination>,
}

impl Party {
    /// Whether no connection can be between the two, their addresses being of two families.
    pub fn apart(&self, other: &Self) -> bool {
        matches!((self.family, other.family), (Some(a), Some(b)) if a != b)
    }
}

/// What a party is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PartyKind {
    /// By its kind, such as `Deployment`; `Pod` where no workload is known.
    Workload(String),
    /// An identity that policies name or the inventory lists, and that no pod runs as.
    Identity,
    /// Addresses within a block that policies name.
    Block,
    /// Every other address, without an identity.
    Elsewhere,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    V4,
    V6,
}

/// What a party is as a destination.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Destination {
    /// Index into [`Reach::scopes`].
    pub scope: usize,
    /// Ports that its manifests or its policies name, sorted.
    pub ports: Vec<Port>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Port {
    pub port: u16,
    pub declared: Protocol,
}

/// A scope's part of the decision map.
#[derive(Clone, Debug)]
pub struct ScopeReach {
    pub key: ScopeKey,
    /// (port, column), sorted; every other port has column 0.
    pub ports: Vec<(u16, u16)>,
    /// (class, row), sorted; every other class has row 0.
    pub classes: Vec<(u16, u16)>,
    /// Indices into [`Reach::cells`].
    pub rows: Vec<Vec<u32>>,
}

impl ScopeReach {
    /// Index of the cell for a class, and a port or any that is not listed.
    pub fn cell(&self, class: u16, port: Option<u16>) -> u32 {
        let find = |list: &[(u16, u16)], key: u16| {
            let found = list.binary_search_by_key(&key, |(k, _)| *k);
            found.ok().and_then(|i| list.get(i)).map_or(0, |(_, v)| *v)
        };
        let row = self.rows.get(usize::from(find(&self.classes, class)));
        let column = port.map_or(0, |port| find(&self.ports, port));
        // INVARIANT: every row has a cell for every column.
        row.and_then(|row| row.get(usize::from(column)))
            .copied()
            .unwrap_or(u32::MAX)
    }
}

impl<'a> Reach<'a> {
    /// Lowers the program for every workload of the cluster.
    ///
    /// # Errors
    /// More source classes or IP blocks than a table holds, or a pod whose policies ask for its
    /// address and that has several.
    pub fn new(program: &'a Program, cluster: &Cluster) -> Result<Self, LinkError> {
        let attachments = Attachments::new(program);
        let mut classes = Classes::new(program)?;
        let drafts = parties::find(program, cluster, &attachments, &mut classes)?;
        let classes = classes.close();
        let mut graph = DecisionGraph::default();
        let mut lowered = Lowered::new(program, &classes, &mut graph);
        let mut numbers: HashMap<&ScopeKey, usize> = HashMap::new();
        let mut nodes = Vec::new();
        for key in drafts.iter().filter_map(|d| d.scope.as_ref()) {
            numbers.entry(key).or_insert_with(|| {
                nodes.push((key, lowered.scope(key.clone())));
                nodes.len() - 1
            });
        }
        let mut cells = Cells::default();
        let scopes = nodes
            .iter()
            .map(|(key, node)| cells.scope(&graph, key, *node))
            .collect();
        let parties = drafts
            .iter()
            .map(|draft| Party {
                destination: draft.scope.as_ref().map(|key| Destination {
                    scope: numbers.get(key).copied().unwrap_or(usize::MAX),
                    ports: draft.ports.clone(),
                }),
                ..draft.party.clone()
            })
            .collect();
        Ok(Self {
            program,
            parties,
            classes: classes.signatures,
            scopes,
            cells: cells.all,
        })
    }

    /// The cell between two parties; `None` where nothing is enforced, or where no connection can
    /// be, their addresses being of two families. `port`: `None` for any that is not listed.
    pub fn cell(&self, from: &Party, to: &Party, port: Option<u16>) -> Option<&CellData> {
        if from.apart(to) {
            return None;
        }
        let scope = self.scopes.get(to.destination.as_ref()?.scope)?;
        self.cells.get(scope.cell(from.class, port) as usize)
    }

    /// The block, or the rest of the world, that all addresses of a block are in which this side
    /// does not name.
    fn around(&self, block: &str) -> Option<&Party> {
        let block: ipnet::IpNet = block.parse().ok()?;
        let holds = |party: &&Party| {
            let net = party.name.parse::<ipnet::IpNet>();
            party.kind == PartyKind::Elsewhere || net.is_ok_and(|net| net.contains(&block))
        };
        let narrow = |party: &&Party| {
            party
                .name
                .parse()
                .map_or(0, |net: ipnet::IpNet| net.prefix_len())
        };
        let all = self.parties.iter().filter(|p| p.namespace.is_empty());
        all.filter(holds).max_by_key(narrow)
    }

    /// Parties that something may be sent to.
    pub fn destinations(&self) -> impl Iterator<Item = &Party> {
        self.parties.iter().filter(|p| p.destination.is_some())
    }
}

/// The cells that scopes lead to, each once.
#[derive(Default)]
struct Cells {
    all: Vec<CellData>,
    numbers: HashMap<NodeIndex, u32>,
}

impl Cells {
    fn scope(&mut self, graph: &DecisionGraph, key: &ScopeKey, node: NodeIndex) -> ScopeReach {
        let (ports, classes) = match graph.node(node) {
            Some(Node::Scope(scope)) => (scope.ports.clone(), scope.classes.clone()),
            _ => (Vec::new(), Vec::new()),
        };
        let rows = graph.children(node).into_iter().map(|row| {
            let cells = graph.children(row).into_iter();
            cells.map(|cell| self.number(graph, cell)).collect()
        });
        ScopeReach {
            key: key.clone(),
            ports,
            classes,
            rows: rows.collect(),
        }
    }

    fn number(&mut self, graph: &DecisionGraph, node: NodeIndex) -> u32 {
        if let Some(&number) = self.numbers.get(&node) {
            return number;
        }
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        if let Some(Node::Cell(cell)) = graph.node(node) {
            self.all.push((**cell).clone());
        }
        self.numbers.insert(node, number);
        number
    }
}

impl Family {
    fn of(v6: bool) -> Self {
        if v6 { Self::V6 } else { Self::V4 }
    }
}

/// The word for what a cell comes to, from a user's side.
pub fn verdict(decided: Decided) -> &'static str {
    match decided {
        Decided::Allow => "kernel",
        Decided::Ask => "userspace",
        Decided::Deny => "denied",
    }
}
