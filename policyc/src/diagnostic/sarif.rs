//! Diagnostics as SARIF 2.1.0, which code hosts show beside the lines of a change.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Code, Diagnostic, Severity, render::in_order};
use crate::read::{Place, Sources};

/// Where the schema of the format is.
const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// All diagnostics as one SARIF log, in the order of files and lines. Each code that occurs is a
/// rule with its page. Columns count characters.
pub fn sarif(diagnostics: &[Diagnostic], sources: &Sources) -> String {
    let placed = in_order(diagnostics, sources);
    let mut rules: Vec<Code> = placed.iter().map(|(d, _)| d.code).collect();
    rules.sort_unstable();
    rules.dedup();
    let mut seen = HashMap::new();
    let results: Vec<Value> = placed
        .iter()
        .map(|(diagnostic, place)| result(diagnostic, place.as_ref(), &rules, &mut seen))
        .collect();
    let log = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "policyc",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules.iter().map(|code| rule(*code)).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    // INVARIANT: strings and numbers always have a JSON form.
    serde_json::to_string_pretty(&log).unwrap_or_default()
}

fn rule(code: Code) -> Value {
    let page = code.page();
    json!({
        "id": code.as_str(),
        "name": format!("{code:?}"),
        "shortDescription": {"text": page.title},
        "fullDescription": {"text": page.reason},
        "help": {"text": page.fix},
    })
}

fn result(
    diagnostic: &Diagnostic,
    place: Option<&Place<'_>>,
    rules: &[Code],
    seen: &mut HashMap<String, u32>,
) -> Value {
    let level = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let mut result = json!({
        "ruleId": diagnostic.code.as_str(),
        "ruleIndex": rules.binary_search(&diagnostic.code).unwrap_or_default(),
        "level": level,
        "message": {"text": format!("{}\n{}", diagnostic.message, diagnostic.help)},
        "partialFingerprints": {"policyc/v1": fingerprint(diagnostic, seen)},
    });
    let mut location = Map::new();
    if let Some(place) = place {
        location.insert("physicalLocation".into(), physical(place));
    }
    if let Some(policy) = &diagnostic.policy {
        let logical = json!([{"fullyQualifiedName": policy, "kind": "object"}]);
        location.insert("logicalLocations".into(), logical);
    }
    if !location.is_empty() {
        result["locations"] = json!([location]);
    }
    result
}

fn physical(place: &Place<'_>) -> Value {
    let mut physical = json!({"artifactLocation": {"uri": uri(place.file)}});
    // Of what could not be read there is nothing to show.
    if !place.text.is_empty() {
        let spanned = place.text.get(place.span.clone()).unwrap_or_default();
        let spanned = spanned.trim_end();
        let lines = spanned.matches('\n').count();
        let last = spanned.rsplit('\n').next().unwrap_or_default();
        let before = if lines == 0 { place.column } else { 1 };
        physical["region"] = json!({
            "startLine": place.line,
            "startColumn": place.column,
            "endLine": place.line + lines,
            "endColumn": before + last.chars().count(),
        });
    }
    physical
}

/// A file name as a URI reference: a path from the root as a `file` URI, any other as it is.
fn uri(file: &str) -> String {
    let file = file.strip_prefix("./").unwrap_or(file);
    let mut uri = String::new();
    if file.starts_with('/') {
        uri += "file://";
    }
    for byte in file.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                uri.push(char::from(byte));
            }
            _ => uri += &format!("%{byte:02X}"),
        }
    }
    uri
}

/// What stays the same when lines move, so that a host knows a finding again: code, policy and
/// message, and which of several such it is.
fn fingerprint(diagnostic: &Diagnostic, seen: &mut HashMap<String, u32>) -> String {
    let policy = diagnostic.policy.as_deref().unwrap_or_default();
    let text = format!("{}\0{policy}\0{}", diagnostic.code, diagnostic.message);
    let digest = Sha256::digest(text.as_bytes());
    let hex: String = digest.iter().take(12).map(|b| format!("{b:02x}")).collect();
    let number = seen.entry(hex.clone()).or_default();
    *number += 1;
    format!("{hex}:{number}")
}

#[cfg(test)]
mod tests {
    use super::uri;

    #[test]
    fn file_names_become_uris() {
        for (file, expected) in [
            ("policies/a.yaml", "policies/a.yaml"),
            ("./a b.yaml", "a%20b.yaml"),
            ("/etc/a#1.yaml", "file:///etc/a%231.yaml"),
            ("<stdin>", "%3Cstdin%3E"),
            ("ä.yaml", "%C3%A4.yaml"),
        ] {
            assert_eq!(uri(file), expected);
        }
    }
}
