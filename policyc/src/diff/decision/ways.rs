//! The ways through a finished diagram to where the two sides differ.

use std::{collections::BTreeSet, rc::Rc};

use super::*;

impl Decisions {
    /// Every pair of what the two sides say where they differ, `None` for what could not be decided;
    /// for each the ways there, at most `most` of them, and whether there are more.
    pub fn ways(&self, from: NodeId, most: usize) -> Vec<(End, Vec<Way>, bool)> {
        let order = self.below(from);
        let mut ends: Vec<End> = order.iter().filter_map(|n| self.end(*n)).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut all = Vec::with_capacity(ends.len());
        for end in ends {
            // Children stand before their parents.
            let mut leading: BTreeSet<NodeId> = BTreeSet::new();
            for &node in &order {
                let leads = self.children(node).any(|child| leading.contains(&child));
                if leads || self.end(node) == Some(end) {
                    leading.insert(node);
                }
            }
            let mut ways = Vec::new();
            let whole = self.walk(from, &leading, &mut Vec::new(), &mut |conditions| {
                if ways.len() == most {
                    return false;
                }
                ways.push(Way {
                    conditions: conditions.to_vec(),
                    differ: end,
                });
                true
            });
            all.push((end, ways, !whole));
        }
        all
    }

    /// What the two sides say at the end of a way, where it is one.
    fn end(&self, node: NodeId) -> Option<End> {
        match self.nodes.get(node) {
            Some(Node::Differ(old, new)) => Some(Some((*old, *new))),
            Some(Node::Unknown) => Some(None),
            _ => None,
        }
    }

    fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let (field, atom) = match self.nodes.get(node) {
            Some(Node::Field(_, _, edges)) => (Some(edges), None),
            Some(Node::Atom(_, yes, no)) => (None, Some([*yes, *no])),
            _ => (None, None),
        };
        let field = field.into_iter().flatten().map(|(child, _)| *child);
        field.chain(atom.into_iter().flatten())
    }

    /// The nodes of a diagram, children before parents: a child was made before.
    fn below(&self, from: NodeId) -> Vec<NodeId> {
        let mut found = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(node) = open.pop() {
            open.extend(self.children(node).filter(|child| found.insert(*child)));
        }
        found.into_iter().collect()
    }

    /// Calls `each` with every way along `leading` nodes until it says no.
    fn walk(
        &self,
        from: NodeId,
        leading: &BTreeSet<NodeId>,
        path: &mut Vec<Condition>,
        each: &mut dyn FnMut(&[Condition]) -> bool,
    ) -> bool {
        if !leading.contains(&from) {
            return true;
        }
        match self.nodes.get(from) {
            Some(Node::Field(field, cells, edges)) => edges.iter().all(|(child, numbers)| {
                path.push(Condition::Cells(
                    field.clone(),
                    Rc::clone(cells),
                    numbers.clone(),
                ));
                let on = self.walk(*child, leading, path, each);
                path.pop();
                on
            }),
            Some(Node::Atom(atom, yes, no)) => {
                [(true, *yes), (false, *no)].into_iter().all(|(truth, to)| {
                    path.push(Condition::Atom(*atom, truth));
                    let on = self.walk(to, leading, path, each);
                    path.pop();
                    on
                })
            }
            _ => each(path),
        }
    }
}
