//! A document as a tree of plain values: what YAML and JSON have in common.
//!
//! The tree is built through serde, so both readers share the checks that neither makes itself:
//! duplicate keys, merge keys, foreign tags, and a budget that aliases cannot exceed.

use std::{cell::RefCell, collections::HashSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

use super::yaml;
use crate::diagnostic::{Path, Step};

/// A value, with the keys of a mapping in the order of the text.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    String(String),
    /// A YAML scalar without quotes that kubectl does not read as a string, such as `on` or `080`.
    Word(String),
    List(Vec<Value>),
    Map(Vec<(Key, Value)>),
}

/// A key of a mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    pub text: String,
    /// The text has it as what kubectl reads as a number, a boolean or null, without quotes.
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
            Self::Word(text) => yaml::kubectl_reads_as(text).unwrap_or("a string"),
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
pub struct Builder<'t> {
    /// The text, where it is YAML: a string that is a part of it may stand there without quotes.
    yaml: Option<&'t str>,
    with_duplicates: bool,
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

impl<'t> Builder<'t> {
    /// A builder for a YAML document.
    pub fn yaml(text: &'t str, nodes_max: usize) -> Self {
        Self {
            yaml: Some(text),
            ..Self::json(text.len(), nodes_max)
        }
    }

    /// A builder for a JSON document of `text_bytes`, in which every string has quotes.
    ///
    /// Without aliases a document cannot have more nodes or string bytes than its text has bytes
    /// (an escape may stand for up to twice its own length), so the budget only stops aliases.
    pub fn json(text_bytes: usize, nodes_max: usize) -> Self {
        let state = State {
            path: Vec::new(),
            faults: Vec::new(),
            nodes_left: text_bytes.saturating_add(1_000_000).min(nodes_max),
            bytes_left: text_bytes.saturating_mul(2).saturating_add(16 << 20),
        };
        Self {
            yaml: None,
            with_duplicates: false,
            state: RefCell::new(state),
        }
    }

    /// Keeps every one of several equal keys, where only the first one is kept otherwise.
    pub fn with_duplicates(self) -> Self {
        Self {
            with_duplicates: true,
            ..self
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

    /// Whether a string that was found in the text is a word that kubectl reads as something else.
    fn is_word(&self, part: &str) -> bool {
        yaml::kubectl_reads_as(part).is_some() && self.yaml.is_some_and(|t| yaml::is_plain(t, part))
    }

    /// Builds what is one step further. The step is given back, so that no key is copied.
    fn inside<T>(&self, step: Step, build: impl FnOnce() -> T) -> (T, Option<Step>) {
        self.state.borrow_mut().path.push(step);
        let built = build();
        (built, self.state.borrow_mut().path.pop())
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

impl<'de> DeserializeSeed<'de> for &Builder<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Builder<'_> {
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
    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(match self.is_word(value) {
            true => Value::Word(value.to_owned()),
            false => Value::String(value.to_owned()),
        })
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
            match self.inside(step, || access.next_element_seed(self)).0? {
                Some(value) => list.push(value),
                None => return Ok(Value::List(list)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut entries: Vec<(Key, Value)> = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(key) = access.next_key_seed(KeySeed(self))? {
            self.spend(key.text.len())?;
            if key.text == "<<" {
                self.fault(Fault::MergeKey, &key.text);
            }
            let duplicate = is_duplicate(&entries, &mut seen, &key.text);
            if duplicate {
                self.fault(Fault::DuplicateKey, &key.text);
            }
            let Key { text, not_a_string } = key;
            let (value, step) = self.inside(Step::Key(text), || access.next_value_seed(self));
            let value = value?;
            if let Some(Step::Key(text)) = step
                && (!duplicate || self.with_duplicates)
            {
                entries.push((Key { text, not_a_string }, value));
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

/// Reads a key, as a scalar of any kind.
struct KeySeed<'b, 't>(&'b Builder<'t>);

impl<'de> DeserializeSeed<'de> for KeySeed<'_, '_> {
    type Value = Key;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl KeySeed<'_, '_> {
    fn key<E: Error>(text: impl ToString, not_a_string: bool) -> Result<Key, E> {
        Ok(Key {
            text: text.to_string(),
            not_a_string,
        })
    }
}

impl<'de> Visitor<'de> for KeySeed<'_, '_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string as the key")
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Key, E> {
        Self::key(value, false)
    }
    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Key, E> {
        Self::key(value, self.0.is_word(value))
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Key, E> {
        Self::key(value, true)
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Key, E> {
        Self::key(value, true)
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Key, E> {
        Self::key(value, true)
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Key, E> {
        Self::key(value, true)
    }
    fn visit_unit<E: Error>(self) -> Result<Key, E> {
        Self::key("null", true)
    }
    fn visit_none<E: Error>(self) -> Result<Key, E> {
        self.visit_unit()
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_any(self)
    }
}
