//! The decision graph of a node: scope -> row -> cell, with everything that is equal shared.
//!
//! A scope's edges lead to its distinct rows, in the order of their numbers; a row's edges lead to
//! the cell of each port class. Nodes are hash-consed, so two workloads under the same policies,
//! however these are named, are one node. `link` walks the graph to write the table.

use std::collections::HashMap;

use petgraph::{
    Direction,
    graph::{DiGraph, NodeIndex},
    visit::EdgeRef,
};

use crate::lower::cell::CellData;

/// A node of the graph.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Node {
    Scope(ScopeNode),
    Row,
    Cell(Box<CellData>),
}

/// How a scope finds its row and its column.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ScopeNode {
    /// (port, port class), sorted; every other port is of class 0.
    pub ports: Vec<(u16, u16)>,
    /// (source class, row), sorted; every other class has row 0.
    pub classes: Vec<(u16, u16)>,
}

/// The graph under construction.
#[derive(Debug, Default)]
pub struct DecisionGraph {
    graph: DiGraph<Node, u32>,
    cells: HashMap<CellData, NodeIndex>,
    rows: HashMap<Vec<NodeIndex>, NodeIndex>,
    scopes: HashMap<(ScopeNode, Vec<NodeIndex>), NodeIndex>,
    /// Cells in the order in which they were first met: record numbers follow it.
    order: Vec<NodeIndex>,
}

impl DecisionGraph {
    /// The node of a cell.
    pub fn cell(&mut self, data: CellData) -> NodeIndex {
        if let Some(&node) = self.cells.get(&data) {
            return node;
        }
        let node = self.graph.add_node(Node::Cell(Box::new(data.clone())));
        self.cells.insert(data, node);
        self.order.push(node);
        node
    }

    /// The node of a row with these cells.
    pub fn row(&mut self, cells: Vec<NodeIndex>) -> NodeIndex {
        if let Some(&node) = self.rows.get(&cells) {
            return node;
        }
        let node = self.graph.add_node(Node::Row);
        self.connect(node, &cells);
        self.rows.insert(cells, node);
        node
    }

    /// The node of a scope with these rows.
    pub fn scope(&mut self, scope: ScopeNode, rows: Vec<NodeIndex>) -> NodeIndex {
        let key = (scope, rows);
        if let Some(&node) = self.scopes.get(&key) {
            return node;
        }
        let node = self.graph.add_node(Node::Scope(key.0.clone()));
        self.connect(node, &key.1);
        self.scopes.insert(key, node);
        node
    }

    /// The data of a node.
    pub fn node(&self, node: NodeIndex) -> Option<&Node> {
        self.graph.node_weight(node)
    }

    /// The nodes that a node leads to, in order.
    pub fn children(&self, node: NodeIndex) -> Vec<NodeIndex> {
        let mut edges: Vec<(u32, NodeIndex)> = self
            .graph
            .edges_directed(node, Direction::Outgoing)
            .map(|edge| (*edge.weight(), edge.target()))
            .collect();
        edges.sort_unstable();
        edges.into_iter().map(|(_, target)| target).collect()
    }

    /// All cells, in the order in which they were first met.
    pub fn cells(&self) -> &[NodeIndex] {
        &self.order
    }

    /// Number of nodes and edges, for reports.
    pub fn size(&self) -> (usize, usize) {
        (self.graph.node_count(), self.graph.edge_count())
    }

    fn connect(&mut self, from: NodeIndex, to: &[NodeIndex]) {
        for (number, &target) in (0u32..).zip(to) {
            self.graph.add_edge(from, target, number);
        }
    }
}
