//! Expectations beside policies: requests with the verdict that they should meet, in files that are
//! reviewed and kept with the policies, and how much of the policies they touch.
//!
//! An expectation is a request as `policyc eval` reads it, with `expect`: `allow`, `deny`, or an
//! object of what must come out (`verdict`, `layer`, `reason`, `policy`, `rule`, `audit`, `dry_run`, each
//! as eval writes it; what is left out is not compared). `id` may be left out. JSON lines, or YAML: a
//! list, or a document each.

pub mod coverage;
pub mod junit;

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::request::{Cause, DryRunHit, Expected, Hit, Judgement, Layer, Request};

/// A request and what must come of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Expectation {
    /// `file:line`, or `file entry N`.
    pub place: String,
    pub request: Request,
    pub expect: Wanted,
}

/// What must come of a request; what is absent may be anything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    #[serde(default)]
    pub verdict: Option<Expected>,
    #[serde(default)]
    pub layer: Option<Layer>,
    #[serde(default)]
    pub reason: Option<Cause>,
    /// `null` wants that no policy decides.
    #[serde(default, deserialize_with = "given")]
    pub policy: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    pub rule: Option<Option<u32>>,
    #[serde(default)]
    pub audit: Option<Vec<Hit>>,
    #[serde(default)]
    pub dry_run: Option<Vec<DryRunHit>>,
}

/// A value that is there, `null` included, as opposed to one that is not.
fn given<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(from).map(Some)
}

/// Why a file holds no expectations.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {why}")]
pub struct ReadError {
    pub place: String,
    pub why: String,
}

/// What came of one expectation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Passed,
    /// What is other than expected, a sentence each.
    Failed(Vec<String>),
    /// The request cannot be judged.
    Error(String),
}

/// Reads the expectations of a file: YAML where its name says so, else JSON lines. A file without one
/// is an error, because it would pass.
///
/// # Errors
/// The first thing that is wrong, and where.
pub fn read(name: &str, text: &str) -> Result<Vec<Expectation>, ReadError> {
    let extension = Path::new(name).extension().and_then(|e| e.to_str());
    let found = match extension {
        Some("yaml" | "yml") => yaml(name, text)?,
        _ => lines(name, text)?,
    };
    if found.is_empty() {
        return Err(error(name.into(), "it holds no expectation"));
    }
    Ok(found)
}

fn lines(name: &str, text: &str) -> Result<Vec<Expectation>, ReadError> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let place = format!("{name}:{number}");
        if !line.trim().is_empty() {
            let value: Value =
                serde_json::from_str(line).map_err(|why| error(place.clone(), why))?;
            found.push(one(place, value)?);
        }
    }
    Ok(found)
}

fn yaml(name: &str, text: &str) -> Result<Vec<Expectation>, ReadError> {
    let mut found: Vec<Expectation> = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        // Read as JSON values: a key that is no text, or a tag, is an error.
        let value = Value::deserialize(document).map_err(|why| error(name.into(), why))?;
        let entries = match value {
            Value::Null => Vec::new(),
            Value::Array(entries) => entries,
            other => vec![other],
        };
        for entry in entries {
            let place = format!("{name} entry {}", found.len() + 1);
            found.push(one(place, entry)?);
        }
    }
    Ok(found)
}

fn one(place: String, value: Value) -> Result<Expectation, ReadError> {
    let Value::Object(mut fields) = value else {
        return Err(error(place, "an expectation is an object"));
    };
    let expect = match fields.remove("expect") {
        Some(Value::Object(wanted)) if wanted.is_empty() => {
            return Err(error(place, "`expect` says nothing"));
        }
        Some(wanted @ Value::Object(_)) => serde_json::from_value(wanted),
        Some(verdict) => serde_json::from_value(verdict).map(|verdict| Wanted {
            verdict: Some(verdict),
            ..Wanted::default()
        }),
        None => {
            return Err(error(
                place,
                "`expect` is missing: `allow`, `deny`, or an object",
            ));
        }
    };
    let expect = expect.map_err(|why| error(place.clone(), format!("`expect`: {why}")))?;
    fields
        .entry("id")
        .or_insert_with(|| Value::String(place.clone()));
    let request = serde_json::from_value(Value::Object(fields));
    Ok(Expectation {
        request: request.map_err(|why| error(place.clone(), why))?,
        place,
        expect,
    })
}

fn error(place: String, why: impl ToString) -> ReadError {
    let why = why.to_string();
    ReadError { place, why }
}

impl Wanted {
    /// Compares with what came of the request.
    pub fn compare(&self, judged: &Result<Judgement, String>) -> Outcome {
        let judged = match judged {
            Ok(judged) => judged,
            Err(why) => return Outcome::Error(why.clone()),
        };
        let mut failures = Vec::new();
        let mut check = |what: &str, wanted: Option<String>, got: String| {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != got) {
                failures.push(format!("expected {what} {wanted}, got {got}"));
            }
        };
        check(
            "verdict",
            self.verdict.map(|v| json(&v)),
            json(&judged.verdict),
        );
        check("layer", self.layer.map(|v| json(&v)), json(&judged.layer));
        check(
            "reason",
            self.reason.map(|v| json(&v)),
            json(&judged.reason),
        );
        check(
            "policy",
            self.policy.as_ref().map(json),
            json(&judged.policy),
        );
        check("rule", self.rule.as_ref().map(json), json(&judged.rule));
        check("audit", self.audit.as_ref().map(json), json(&judged.audit));
        check(
            "dry_run",
            self.dry_run.as_ref().map(json),
            json(&judged.dry_run),
        );
        match failures.is_empty() {
            true => Outcome::Passed,
            false => Outcome::Failed(failures),
        }
    }
}

/// As eval writes it; a word without quotes.
fn json(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        Ok(Value::Null) => "none".into(),
        Ok(other) => other.to_string(),
        Err(why) => why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = r#""src":"a/x","dst":"a/y","port":80,"protocol":"tcp""#;

    #[test]
    fn expectations_are_read_strictly() {
        let read = |text: &str| read("t.jsonl", text).map_err(|e| e.to_string());
        let good = read(&format!("\n{{{REQUEST},\"expect\":\"deny\"}}\n")).expect("it is one");
        assert_eq!(good[0].request.id, "t.jsonl:2", "an id of its own");
        for (text, why) in [
            (String::new(), "no expectation"),
            (format!("{{{REQUEST}}}"), "`expect` is missing"),
            (
                format!("{{{REQUEST},\"expect\":\"no\"}}"),
                "unknown variant `no`",
            ),
            (format!("{{{REQUEST},\"expect\":{{}}}}"), "says nothing"),
            (
                format!("{{{REQUEST},\"expect\":{{\"verdct\":\"deny\"}}}}"),
                "unknown field `verdct`",
            ),
            (
                format!("{{{REQUEST},\"prot\":1,\"expect\":\"deny\"}}"),
                "unknown field `prot`",
            ),
            ("[]".into(), "is an object"),
        ] {
            let error = read(&text).expect_err(&text);
            assert!(
                error.contains(why) && error.contains("t.jsonl"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn yaml_is_a_list_or_documents() {
        let entry =
            "src: a/x\ndst: a/y\nport: 80\nprotocol: tcp\nexpect: {verdict: allow, rule: null}";
        let list = format!("- {}\n", entry.replace('\n', "\n  "));
        for text in [format!("{entry}\n---\n{entry}\n"), list.repeat(2)] {
            let found = read("t.yaml", &text).expect("two expectations");
            assert_eq!(found.len(), 2);
            assert_eq!(found[1].place, "t.yaml entry 2");
            assert_eq!(found[0].expect.rule, Some(None), "null is a value");
            assert_eq!(found[0].expect.policy, None, "absent is not");
        }
        assert!(read("t.yaml", "1: 2").is_err());
    }

    #[test]
    fn everything_that_is_expected_is_compared() {
        let judged = Judgement {
            verdict: Expected::Allow,
            layer: Layer::L4,
            reason: Cause::AllowRule,
            policy: Some("a/p".into()),
            rule: Some(0),
            audit: Vec::new(),
            dry_run: Vec::new(),
        };
        let compare = |expect: &str| {
            let line = format!("{{{REQUEST},\"expect\":{expect}}}");
            let read = read("t.jsonl", &line).expect(expect);
            read[0].expect.compare(&Ok(judged.clone()))
        };
        let whole = serde_json::to_string(&judged).expect("it is JSON");
        assert_eq!(compare(&whole), Outcome::Passed, "eval's own output");
        for (expect, why) in [
            (r#""deny""#, "expected verdict deny, got allow"),
            (r#"{"layer":"l7"}"#, "expected layer l7, got l4"),
            (
                r#"{"reason":"no_allow_policy"}"#,
                "expected reason no_allow_policy, got allow_rule",
            ),
            (r#"{"policy":"a/q"}"#, "expected policy a/q, got a/p"),
            (r#"{"policy":null}"#, "expected policy none, got a/p"),
            (r#"{"rule":1}"#, "expected rule 1, got 0"),
            (r#"{"audit":[{"policy":"a/q","rule":0}]}"#, "expected audit"),
            (
                r#"{"dry_run":[{"policy":"a/q","rule":0,"action":"DENY"}]}"#,
                "expected dry_run",
            ),
        ] {
            match compare(expect) {
                Outcome::Failed(found) => assert!(found[0].contains(why), "{expect}: {found:?}"),
                other => panic!("{expect}: {other:?}"),
            }
        }
        let error = Wanted::default().compare(&Err("no such pod".into()));
        assert_eq!(error, Outcome::Error("no such pod".into()));
    }
}
