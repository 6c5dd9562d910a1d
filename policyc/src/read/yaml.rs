//! YAML documents to values. The only module that knows serde_yaml, with the one that reads a
//! document again for its positions.
//!
//! serde_yaml keeps all events of a document in memory before it gives the first value, and its
//! time grows with the brackets that are open at once; so both are bounded before it begins.

use serde::de::DeserializeSeed;

use super::value::{Builder, FOREIGN_TAG, Fault, OVER_BUDGET, Value};
use crate::diagnostic::Path;

/// Bytes of one YAML document.
pub const DOCUMENT_BYTES_MAX: usize = 64 << 20;
/// Bytes of one line of YAML. Minified JSON may have longer ones; it has its own reader.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Brackets that are open at once. Those in texts count as well, so this is far more than what the
/// reader takes, 127 collections within collections.
const OPEN_MAX: usize = 1_000;
/// Places in one document where a value may begin: lines, items and keys.
const PLACES_MAX: usize = 8_000_000;
/// Values of one document after its aliases are followed.
const NODES_MAX: usize = 8_000_000;

/// Why a document could not be read, and where: line and column count from 1 within its text, and
/// a line of 0 is unknown.
#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    pub line: usize,
    pub column: usize,
}

#[derive(Debug)]
pub enum Kind {
    TooLarge(String),
    TooDeep,
    /// Aliases expand to too much.
    Aliases,
    Tag,
    Syntax(String),
}

impl Kind {
    fn at(self, text: &str, offset: usize) -> Failure {
        let before = &text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Failure {
            kind: self,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    fn nowhere(self) -> Failure {
        Failure {
            kind: self,
            line: 0,
            column: 0,
        }
    }
}

/// Reads one document.
pub fn read(text: &str) -> Result<(Value, Vec<(Fault, Path)>), Failure> {
    check_size(text)?;
    let builder = Builder::yaml(text, NODES_MAX);
    let value = build(&builder, text)?;
    Ok((value, builder.into_faults()))
}

/// The value of a document that was read before, with every one of several equal keys.
pub fn shape(text: &str) -> Result<Value, Failure> {
    check_size(text)?;
    build(&Builder::yaml(text, NODES_MAX).with_duplicates(), text)
}

fn build(builder: &Builder<'_>, text: &str) -> Result<Value, Failure> {
    let read = builder.deserialize(serde_yaml::Deserializer::from_str(text));
    read.map_err(|error| failure(&error))
}

/// Where a string is that was borrowed from the text.
pub fn range_of(text: &str, part: &str) -> Option<std::ops::Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let range = start..start.checked_add(part.len())?;
    text.get(range.clone()).map(|_| range)
}

/// Whether a string that was borrowed from the text stands there without quotes and without a tag.
/// A quote behind it can only be the end of its own: a plain scalar would have taken it in.
pub fn is_plain(text: &str, part: &str) -> bool {
    let Some(range) = range_of(text, part) else {
        return false;
    };
    if text[range.end..].starts_with(['"', '\'']) {
        return false;
    }
    let line = text[..range.start]
        .rfind(['\n', '\r'])
        .map_or(0, |at| at + 1);
    let before = text[line..range.start].trim_end();
    let last = before
        .rsplit([' ', '\t', '[', ',', '{'])
        .next()
        .unwrap_or("");
    !(last.starts_with('!') && before.len() < range.start - line)
}

fn check_size(text: &str) -> Result<(), Failure> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let message = format!(
            "a YAML document has more than {} MiB",
            DOCUMENT_BYTES_MAX >> 20
        );
        return Err(Kind::TooLarge(message).nowhere());
    }
    if text.len() > LINE_BYTES_MAX {
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            if line.len() > LINE_BYTES_MAX {
                let message = format!("a line of YAML has more than {} KiB", LINE_BYTES_MAX >> 10);
                return Err(Kind::TooLarge(message).at(text, start));
            }
            start += line.len();
        }
    }
    check_shape(text)?;
    check_tags(text)
}

/// Counts what may nest and what may be a value, in texts and comments as well: never too few.
fn check_shape(text: &str) -> Result<(), Failure> {
    let (mut open, mut places) = (0usize, 0usize);
    let mut before = b'\n';
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => (open, places) = (open + 1, places + 1),
            b']' | b'}' => open = open.saturating_sub(1),
            b',' | b'\n' => places += 1,
            b' ' if matches!(before, b':' | b'-' | b'?') => places += 1,
            _ => {}
        }
        if open > OPEN_MAX {
            return Err(Kind::TooDeep.at(text, at));
        }
        before = byte;
    }
    match places > PLACES_MAX {
        true => {
            let message =
                format!("a YAML document has more than {PLACES_MAX} lines, items and keys");
            Err(Kind::TooLarge(message).nowhere())
        }
        false => Ok(()),
    }
}

/// kubectl decodes what is tagged as binary; the reader would take its base64 for the text.
fn check_tags(text: &str) -> Result<(), Failure> {
    for tag in ["!!binary", "!<tag:yaml.org,2002:binary>"] {
        for (at, _) in text.match_indices(tag) {
            let before = text[..at].chars().next_back();
            let after = text[at + tag.len()..].chars().next();
            let begins = before.is_none_or(|c| c.is_whitespace() || "[{,".contains(c));
            if begins && after.is_none_or(char::is_whitespace) {
                return Err(Kind::Tag.at(text, at));
            }
        }
    }
    Ok(())
}

fn failure(error: &serde_yaml::Error) -> Failure {
    let text = error.to_string();
    let (line, column) = error.location().map_or((0, 0), |l| (l.line(), l.column()));
    let kind = if text.contains(FOREIGN_TAG) {
        Kind::Tag
    } else if text.contains("recursion limit exceeded") {
        Kind::TooDeep
    } else if text.contains(OVER_BUDGET) || text.contains("repetition limit exceeded") {
        Kind::Aliases
    } else {
        // The location is shown beside the message, so it need not be in it as well.
        Kind::Syntax(match text.find(" at line ") {
            Some(at) => text[..at].to_owned(),
            None => text,
        })
    };
    Failure { kind, line, column }
}

/// What kubectl makes of a scalar without quotes. It reads YAML 1.1, where more words are booleans
/// and more digits are numbers than in the YAML 1.2 that this reader follows.
pub fn kubectl_reads_as(plain: &str) -> Option<&'static str> {
    match plain {
        "" | "~" | "null" | "Null" | "NULL" => Some("null"),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            Some("true")
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            Some("false")
        }
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF"
        | "-.inf" | "-.Inf" | "-.INF" => Some("a number"),
        _ if is_number(plain) => Some("a number"),
        _ => None,
    }
}

/// A decimal number with optional point and exponent, or an integer in base 2, 8 or 16; both may
/// have underscores between digits.
fn is_number(plain: &str) -> bool {
    let digits = plain.strip_prefix(['+', '-']).unwrap_or(plain);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    let prefixed = |prefix: &str, radix: u32| {
        let rest = digits.strip_prefix(prefix);
        rest.is_some_and(|r| !r.is_empty() && r.chars().all(|c| c.is_digit(radix)))
    };
    if prefixed("0x", 16)
        || prefixed("0X", 16)
        || prefixed("0o", 8)
        || prefixed("0O", 8)
        || prefixed("0b", 2)
        || prefixed("0B", 2)
    {
        return true;
    }
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], Some(&digits[at + 1..])),
        None => (digits.as_str(), None),
    };
    let exponent_fits = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && e.bytes().all(|b| b.is_ascii_digit())
    });
    exponent_fits
        && mantissa.bytes().any(|b| b.is_ascii_digit())
        && mantissa.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && mantissa.matches('.').count() <= 1
}

#[cfg(test)]
mod tests {
    use super::{Failure, Kind, kubectl_reads_as, read};

    #[test]
    fn words_and_digits_that_kubectl_does_not_read_as_strings() {
        for plain in [
            "on", "yes", "N", "080", "8080", "1_000", "0x1F", "1e3", ".5", "~", "+1",
        ] {
            assert!(kubectl_reads_as(plain).is_some(), "`{plain}` needs quotes");
        }
        for plain in [
            "One",
            "1.2.3.4",
            "10.0.0.0/8",
            "1a",
            "2024-01-01",
            "0x",
            "e3",
            ".",
            "-",
            "*",
        ] {
            assert_eq!(kubectl_reads_as(plain), None, "`{plain}` is a string");
        }
    }

    #[test]
    fn nesting_and_aliases_are_bounded() {
        let deep = "[".repeat(100_000);
        assert!(
            matches!(
                read(&deep),
                Err(Failure {
                    kind: Kind::TooDeep,
                    ..
                })
            ),
            "flow nesting stops early"
        );
        let dashes = "- ".repeat(50_000);
        assert!(
            matches!(
                read(&dashes),
                Err(Failure {
                    kind: Kind::TooDeep,
                    ..
                })
            ),
            "block nesting stops early"
        );
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb += &format!("a{i}: &a{i} [{refs}]\n");
        }
        assert!(
            matches!(
                read(&bomb),
                Err(Failure {
                    kind: Kind::Aliases,
                    ..
                })
            ),
            "aliases stop at the budget"
        );
        let long = format!(
            "s: &s {}\nl: [{}]\n",
            "x".repeat(500_000),
            "*s, ".repeat(5_000)
        );
        assert!(
            matches!(
                read(&long),
                Err(Failure {
                    kind: Kind::Aliases,
                    ..
                })
            ),
            "so do aliases of a long string"
        );
    }
}
