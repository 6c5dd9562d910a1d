//! Spans of a YAML document, from the reader that gave its values, so that both agree on every text.
//!
//! serde_yaml tells no positions, but it borrows a scalar from the text where it can, and then the
//! scalar is where its bytes are. The others (escapes, blocks, folded lines, aliases) are found
//! behind what came before them. A first pass learns the shape, so that a second one may ask for
//! every scalar as a string.

mod cursor;

use std::{cell::RefCell, fmt, ops::Range};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use self::cursor::Cursor;
use super::{Children, Node, Positions};
use crate::read::{value::Value, yaml};

pub fn positions(text: &str) -> Positions {
    let Ok(shape) = yaml::shape(text) else {
        return Positions::default();
    };
    let tree = RefCell::new(Tree {
        cursor: Cursor::new(text),
        alias: None,
        nodes: Vec::new(),
    });
    let root = Seed {
        tree: &tree,
        shape: &shape,
        key: None,
    };
    // What was read once is read again; if not, the spans up to there are all that there is.
    let _ = root.deserialize(serde_yaml::Deserializer::from_str(text));
    Positions {
        nodes: tree.into_inner().nodes,
    }
}

struct Tree<'t> {
    cursor: Cursor<'t>,
    /// The alias whose collection is being followed: it is elsewhere in the text.
    alias: Option<Range<usize>>,
    nodes: Vec<Node>,
}

impl Tree<'_> {
    /// The span of a scalar: of `part`, where that was borrowed from the text.
    fn scalar(&mut self, part: Option<&str>) -> Range<usize> {
        match &self.alias {
            Some(alias) => part
                .and_then(|part| self.cursor.borrowed(part))
                .unwrap_or_else(|| alias.clone()),
            None => self.cursor.scalar(part),
        }
    }

    /// A new node, of which only the key is known.
    fn add(&mut self, key: Option<Range<usize>>, children: Children) -> usize {
        self.nodes.push(Node {
            key,
            value: 0..0,
            children,
        });
        self.nodes.len() - 1
    }
}

/// Reads one value, whose shape is known.
struct Seed<'a, 't> {
    tree: &'a RefCell<Tree<'t>>,
    shape: &'a Value,
    key: Option<Range<usize>>,
}

impl<'a, 't> Seed<'a, 't> {
    /// Enters a collection; the second value is the alias to go back to, where it is one itself.
    fn enter(&self, children: Children) -> (usize, bool) {
        let mut tree = self.tree.borrow_mut();
        let index = tree.add(self.key.clone(), children);
        let mut by_alias = false;
        let span = match &tree.alias {
            Some(alias) => alias.clone(),
            None => {
                let span = tree.cursor.collection();
                by_alias = tree.cursor.is_alias(&span);
                span
            }
        };
        tree.nodes[index].value = span.clone();
        if by_alias {
            tree.alias = Some(span);
        }
        (index, by_alias)
    }

    fn leave(&self, by_alias: bool) {
        if by_alias {
            self.tree.borrow_mut().alias = None;
        }
    }

    fn scalar(self, part: Option<&str>) {
        let mut tree = self.tree.borrow_mut();
        let index = tree.add(self.key, Children::Scalar);
        tree.nodes[index].value = tree.scalar(part);
    }

    /// Moves to the next item of a list, and gives the number of its node.
    fn item(&self) -> usize {
        let mut tree = self.tree.borrow_mut();
        if tree.alias.is_none() {
            tree.cursor.item();
        }
        tree.nodes.len()
    }

    fn child(&self, shape: &'a Value, key: Option<Range<usize>>) -> Seed<'a, 't> {
        Seed {
            tree: self.tree,
            shape,
            key,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.shape {
            Value::List(_) => deserializer.deserialize_seq(self),
            Value::Map(_) => deserializer.deserialize_map(self),
            _ => deserializer.deserialize_str(self),
        }
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what was read before")
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.scalar(None);
        Ok(())
    }
    fn visit_borrowed_str<E: Error>(self, part: &'de str) -> Result<(), E> {
        self.scalar(Some(part));
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let (index, by_alias) = self.enter(Children::List(Vec::new()));
        let Value::List(items) = self.shape else {
            return Ok(());
        };
        for item in items {
            let child = self.item();
            if access.next_element_seed(self.child(item, None))?.is_none() {
                break;
            }
            if let Children::List(list) = &mut self.tree.borrow_mut().nodes[index].children {
                list.push(child);
            }
        }
        self.leave(by_alias);
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let (index, by_alias) = self.enter(Children::Map(Vec::new()));
        let Value::Map(entries) = self.shape else {
            return Ok(());
        };
        for (key, value) in entries {
            let Some(span) = access.next_key_seed(KeySeed(self.tree))? else {
                break;
            };
            let child = self.tree.borrow().nodes.len();
            access.next_value_seed(self.child(value, Some(span)))?;
            if let Children::Map(map) = &mut self.tree.borrow_mut().nodes[index].children {
                map.push((key.text.clone(), child));
            }
        }
        self.leave(by_alias);
        Ok(())
    }
}

/// Reads a key, for its span alone.
struct KeySeed<'a, 't>(&'a RefCell<Tree<'t>>);

impl<'de> DeserializeSeed<'de> for KeySeed<'_, '_> {
    type Value = Range<usize>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_, '_> {
    type Value = Range<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(self.0.borrow_mut().scalar(None))
    }
    fn visit_borrowed_str<E: Error>(self, part: &'de str) -> Result<Self::Value, E> {
        Ok(self.0.borrow_mut().scalar(Some(part)))
    }
}

#[cfg(test)]
mod tests;
