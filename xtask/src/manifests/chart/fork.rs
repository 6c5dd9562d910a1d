//! What the base and each component say at one place of an object, side by side.

use serde_json::Value;

/// What the base says at one place, and what components say that says something else.
pub struct Fork<'a> {
    pub base: Option<&'a Value>,
    /// By the component's number. `None`: it has taken it away.
    pub others: Vec<(usize, Option<&'a Value>)>,
}

impl<'a> Fork<'a> {
    pub fn new(base: Option<&'a Value>, all: impl Iterator<Item = Option<&'a Value>>) -> Self {
        let others = all.enumerate().filter(|(_, other)| *other != base);
        Self {
            base,
            others: others.collect(),
        }
    }

    pub fn plain(base: &'a Value) -> Self {
        Self {
            base: Some(base),
            others: Vec::new(),
        }
    }

    /// The same one step further down.
    pub fn step(&self, get: impl Fn(&'a Value) -> Option<&'a Value>) -> Self {
        let base = self.base.and_then(&get);
        let others = self
            .others
            .iter()
            .map(|(i, other)| (*i, other.and_then(&get)));
        Self {
            base,
            others: others.filter(|(_, other)| *other != base).collect(),
        }
    }

    /// Whether all of them are there, and of a kind.
    pub fn all(&self, is: impl Fn(&Value) -> bool) -> bool {
        self.base.is_some_and(&is) && self.others.iter().all(|(_, other)| other.is_some_and(&is))
    }

    /// Keys of all of them, the base's first.
    pub fn keys(&self, keys: impl Fn(&'a Value) -> Vec<&'a str>) -> Vec<&'a str> {
        let mut all = Vec::new();
        let others = self.others.iter().filter_map(|(_, other)| *other);
        for value in self.base.into_iter().chain(others) {
            for key in keys(value) {
                if !all.contains(&key) {
                    all.push(key);
                }
            }
        }
        all
    }
}
