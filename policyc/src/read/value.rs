//! A document as a tree of plain values: what YAML and JSON have in common.
//!
//! The tree is built through serde, so both readers share the checks that neither makes itself:
//! duplicate keys, merge keys, foreign tags, and a budget that aliases cannot exceed.

use std::{cell::RefCell, collections::HashSet, fmt};

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor,
};

use crate::diagnostic::{Path, Step};

/// A value, with the keys of a mapping in the order of the text.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    String(String),
    List(Vec<Value>),
    Map(Vec<(Key, Value)>),
}

/// A key of a mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    pub text: String,
    /// The text has it as a number, a boolean or null, without quotes.
    pub not_a_string: bool,
}

impl Value {
    /// What it is, in words for a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::String(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }

    /// The value of a key, if this is a mapping that has it with a value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Map(entries) => entries
                .iter()
                .find(|(k, _)| k.text == key)
                .map(|(_, v)| v)
                .filter(|v| **v != Self::Null),
            _ => None,
        }
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
}

/// What is wrong with the shape of a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    DuplicateKey,
    MergeKey,
}

/// Collects faults while a tree is built, and stops one that grows beyond its text.
pub struct Builder {
    state: RefCell<State>,
}

struct State {
    path: Vec<Step>,
    faults: Vec<(Fault, Path)>,
    nodes_left: usize,
    bytes_left: usize,
}

/// What a [`Builder`] reports when the values of a document outgrow its text.
pub const OVER_BUDGET: &str = "the document expands to far more than its text";
/// What a [`Builder`] reports on a tag such as `!secret`.
pub const FOREIGN_TAG: &str = "a tag that Kubernetes does not know";

/// Faults kept for one document: past that many, more would only be noise.
const FAULTS_MAX: usize = 100;

impl Builder {
    /// A builder for a document of `text_bytes`.
    ///
    /// Without aliases a document cannot have more nodes or string bytes than its text has bytes
    /// (an escape may stand for up to twice its own length), so the budget only stops aliases.
    pub fn new(text_bytes: usize, nodes_max: usize) -> Self {
        let state = State {
            path: Vec::new(),
            faults: Vec::new(),
            nodes_left: text_bytes.saturating_add(1_000_000).min(nodes_max),
            bytes_left: text_bytes.saturating_mul(2).saturating_add(16 << 20),
        };
        Self {
            state: RefCell::new(state),
        }
    }

    pub fn into_faults(self) -> Vec<(Fault, Path)> {
        self.state.into_inner().faults
    }

    fn spend<E: Error>(&self, string_bytes: usize) -> Result<(), E> {
        let mut state = self.state.borrow_mut();
        match (
            state.nodes_left.checked_sub(1),
            state.bytes_left.checked_sub(string_bytes),
        ) {
            (Some(nodes), Some(bytes)) => {
                (state.nodes_left, state.bytes_left) = (nodes, bytes);
                Ok(())
            }
            _ => Err(E::custom(OVER_BUDGET)),
        }
    }

    fn inside<T>(&self, step: Step, build: impl FnOnce() -> T) -> T {
        self.state.borrow_mut().path.push(step);
        let built = build();
        self.state.borrow_mut().path.pop();
        built
    }

    fn fault(&self, fault: Fault, key: &str) {
        let mut state = self.state.borrow_mut();
        if state.faults.len() < FAULTS_MAX {
            let mut path = Path(state.path.clone());
            path.0.push(Step::Key(key.into()));
            state.faults.push((fault, path));
        }
    }
}

impl<'de> DeserializeSeed<'de> for &Builder {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Builder {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Null)
    }
    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Bool(value))
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.visit_i128(value.into())
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.visit_i128(value.into())
    }
    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Integer(value))
    }
    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        self.visit_i128(i128::try_from(value).unwrap_or(i128::MAX))
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Float(value))
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(Value::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut list = Vec::new();
        loop {
            let step = Step::Index(u32::try_from(list.len()).unwrap_or(u32::MAX));
            match self.inside(step, || access.next_element_seed(self))? {
                Some(value) => list.push(value),
                None => return Ok(Value::List(list)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut entries: Vec<(Key, Value)> = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(key) = access.next_key::<Key>()? {
            self.spend(key.text.len())?;
            if key.text == "<<" {
                self.fault(Fault::MergeKey, &key.text);
            }
            let duplicate = is_duplicate(&entries, &mut seen, &key.text);
            if duplicate {
                self.fault(Fault::DuplicateKey, &key.text);
            }
            let step = Step::Key(key.text.clone());
            let value = self.inside(step, || access.next_value_seed(self))?;
            if !duplicate {
                entries.push((key, value));
            }
        }
        Ok(Value::Map(entries))
    }
    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom(FOREIGN_TAG))
    }
}

/// Few keys are compared one by one; a hash set is started when they become many.
fn is_duplicate(entries: &[(Key, Value)], seen: &mut HashSet<String>, key: &str) -> bool {
    const FEW: usize = 16;
    if entries.len() < FEW {
        return entries.iter().any(|(k, _)| k.text == key);
    }
    if seen.is_empty() {
        seen.extend(entries.iter().map(|(k, _)| k.text.clone()));
    }
    !seen.insert(key.to_owned())
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl KeyVisitor {
    fn other<E: Error>(text: String) -> Result<Key, E> {
        Ok(Key {
            text,
            not_a_string: true,
        })
    }
}

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string as the key")
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Key, E> {
        self.visit_string(value.to_owned())
    }
    fn visit_string<E: Error>(self, text: String) -> Result<Key, E> {
        Ok(Key {
            text,
            not_a_string: false,
        })
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Key, E> {
        Self::other(value.to_string())
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Key, E> {
        Self::other(value.to_string())
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Key, E> {
        Self::other(value.to_string())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Key, E> {
        Self::other(value.to_string())
    }
    fn visit_unit<E: Error>(self) -> Result<Key, E> {
        Self::other("null".into())
    }
    fn visit_none<E: Error>(self) -> Result<Key, E> {
        self.visit_unit()
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_any(self)
    }
}
