//! Where each key and value of one document is, built only when a diagnostic asks.
//!
//! serde gives values without positions. So a document that something is said about is read a
//! second time into a tree of spans: YAML by the same reader, JSON by a small scanner.

mod json;
mod yaml;

use std::ops::Range;

use crate::diagnostic::{Path, Step};

/// How a document is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Yaml,
    Json,
    /// It could not be read: its range is the place of the first problem.
    Unread,
}

/// The spans of a document, as byte ranges of its text.
#[derive(Debug, Default)]
pub struct Positions {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    key: Option<Range<usize>>,
    value: Range<usize>,
    children: Children,
}

#[derive(Debug, Default)]
enum Children {
    #[default]
    Scalar,
    Map(Vec<(String, usize)>),
    List(Vec<usize>),
}

impl Positions {
    /// Reads `text`, which has been read before. What cannot be read a second time has no positions.
    pub fn of(text: &str, format: Format) -> Self {
        match format {
            Format::Yaml => yaml::positions(text),
            Format::Json => json::positions(text),
            Format::Unread => Self::default(),
        }
    }

    /// The span to underline for a path: the last key if `about_key`, else the value when it is a
    /// scalar, else its key. A path that leads nowhere ends at the last part of it that exists.
    pub fn find(&self, path: &Path, about_key: bool) -> Range<usize> {
        let (node, whole) = self.walk(path);
        let Some(node) = node else { return 0..0 };
        match &node.key {
            Some(key) if about_key || !whole => key.clone(),
            Some(key) if !matches!(node.children, Children::Scalar) => key.clone(),
            _ => self.head(node),
        }
    }

    /// Whether the whole path is there.
    pub fn has(&self, path: &Path) -> bool {
        self.walk(path).1
    }

    /// The deepest node on the path, and whether the whole path was followed.
    fn walk(&self, path: &Path) -> (Option<&Node>, bool) {
        let Some(mut node) = self.nodes.first() else {
            return (None, false);
        };
        for step in &path.0 {
            let child = match (&node.children, step) {
                // The last of several equal keys: the one that a duplicate is reported at.
                (Children::Map(entries), Step::Key(key)) => {
                    entries.iter().rfind(|(k, _)| k == key).map(|(_, i)| *i)
                }
                (Children::List(items), Step::Index(index)) => usize::try_from(*index)
                    .ok()
                    .and_then(|index| items.get(index))
                    .copied(),
                _ => None,
            };
            match child.and_then(|index| self.nodes.get(index)) {
                Some(child) => node = child,
                None => return (Some(node), false),
            }
        }
        (Some(node), true)
    }

    /// The beginning of a value: a scalar whole, of a collection its first key or item.
    fn head(&self, node: &Node) -> Range<usize> {
        let first = match &node.children {
            Children::Map(entries) => entries.first().map(|(_, i)| *i),
            Children::List(items) => items.first().copied(),
            Children::Scalar => None,
        };
        match first.and_then(|index| self.nodes.get(index)) {
            Some(child) => match &child.key {
                Some(key) => key.clone(),
                None => self.head(child),
            },
            None => node.value.clone(),
        }
    }
}
