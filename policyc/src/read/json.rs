//! JSON documents to values, through serde_json.

use std::ops::Range;

use serde::de::{DeserializeSeed, IgnoredAny};

use super::value::{Builder, Fault, OVER_BUDGET, Value};
use crate::diagnostic::Path;

/// Values of one document.
const NODES_MAX: usize = 32_000_000;

/// Why a document could not be read; line and column count from 1 within its text.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub line: usize,
    pub column: usize,
    pub too_deep: bool,
}

/// The byte ranges of the values that `text` consists of. `kubectl` prints one object; other tools
/// write one after another. What cannot be read is the last range, to the end of the text.
pub fn documents(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    loop {
        let start = values.byte_offset();
        let leading = text[start..].len() - text[start..].trim_start().len();
        match values.next() {
            Some(Ok(_)) => ranges.push(start + leading..values.byte_offset()),
            Some(Err(_)) => {
                ranges.push(start + leading..text.len());
                return ranges;
            }
            None => return ranges,
        }
    }
}

/// Reads one value, which must be all of `text`.
pub fn read(text: &str) -> Result<(Value, Vec<(Fault, Path)>), Failure> {
    let builder = Builder::json(text.len(), NODES_MAX);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = builder
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    match value {
        Ok(value) => Ok((value, builder.into_faults())),
        Err(error) => Err(failure(&error)),
    }
}

fn failure(error: &serde_json::Error) -> Failure {
    let text = error.to_string();
    Failure {
        too_deep: text.contains("recursion limit exceeded") || text.contains(OVER_BUDGET),
        message: match text.find(" at line ") {
            Some(at) => text[..at].to_owned(),
            None => text,
        },
        line: error.line(),
        column: error.column(),
    }
}

#[cfg(test)]
mod tests {
    use super::{documents, read};
    use crate::read::value::Fault;

    #[test]
    fn values_one_after_another() {
        assert_eq!(documents(" {\"a\":1}\n[2] "), [1..8, 9..12]);
        assert_eq!(
            documents("{} {\"a\": "),
            [0..2, 3..9],
            "the rest is one broken value"
        );
    }

    #[test]
    fn a_duplicate_key_is_a_fault_with_its_path() {
        let (_, faults) = read(r#"{"a":{"b":1,"c":2,"b":3}}"#).expect("valid JSON");
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].0, Fault::DuplicateKey);
        assert_eq!(faults[0].1.to_string(), "a.b");
    }

    #[test]
    fn nesting_is_bounded() {
        let failure = read(&"[".repeat(1_000_000)).expect_err("too deep");
        assert!(failure.too_deep, "{}", failure.message);
    }
}
