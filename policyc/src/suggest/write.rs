//! Groups as YAML: what is equal is written once, and never joined to more than was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{
    Access, Source,
    group::{Group, Key},
};
use crate::{diagnostic::Code, lint::ACCEPTED_WARNINGS};

/// Rules that one policy may have.
const RULES_MAX: usize = 512;

/// One `operation`: every method on every path on every port was seen.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Operation {
    ports: BTreeSet<u16>,
    /// Empty: any.
    methods: BTreeSet<String>,
    /// Empty: any.
    paths: BTreeSet<String>,
}

/// What sources may do, and whether they are addresses.
type Rule = (Vec<Operation>, bool);

/// All policies, a document each. `accepted` are the warnings that each accepts.
pub(super) fn policies(
    groups: &BTreeMap<Key, Group>,
    accepted: &BTreeMap<String, BTreeSet<Code>>,
) -> String {
    let mut text = String::new();
    for ((namespace, labels), group) in groups {
        // Principals and addresses in one rule would look as if both were meant to hold.
        let mut rules: BTreeMap<Rule, BTreeSet<&Source>> = BTreeMap::new();
        for (source, ports) in &group.access {
            // ISTIO: an ALLOW rule with any field of HTTP is void on a TCP connection, all of it.
            let of_http = |operation: &Operation| !operation.methods.is_empty();
            let (http, whole): (Vec<_>, Vec<_>) = operations(ports).into_iter().partition(of_http);
            for operations in [whole, http].into_iter().filter(|list| !list.is_empty()) {
                let is_address = matches!(source, Source::Address(_));
                let rule = rules.entry((operations, is_address));
                rule.or_default().insert(source);
            }
        }
        let rules: Vec<_> = rules.into_iter().collect();
        for (part, rules) in rules.chunks(RULES_MAX).enumerate() {
            let name = match part {
                0 => group.policy.clone(),
                part => format!("{}.{}", group.policy, part + 1),
            };
            let accepted = accepted.get(&format!("{namespace}/{name}"));
            policy(&mut text, (namespace, &name), labels, accepted, rules);
        }
    }
    text
}

/// What a source may do, joined where that adds nothing: paths with the same methods, and ports with
/// the same paths and methods.
fn operations(ports: &BTreeMap<u16, Access>) -> Vec<Operation> {
    let mut joined: BTreeMap<(BTreeSet<String>, BTreeSet<String>), BTreeSet<u16>> = BTreeMap::new();
    for (port, access) in ports {
        if access.whole {
            joined.entry(Default::default()).or_default().insert(*port);
            continue;
        }
        let any_path = access.requests.get(&None).cloned().unwrap_or_default();
        let mut by_methods: BTreeMap<&BTreeSet<String>, BTreeSet<String>> = BTreeMap::new();
        for (path, methods) in &access.requests {
            by_methods.entry(methods).or_default().extend(path.clone());
        }
        for (methods, paths) in by_methods {
            let both = (methods.clone(), paths);
            // Without paths it is the entry of any path.
            if !both.1.is_empty() || *methods == any_path {
                joined.entry(both).or_default().insert(*port);
            }
        }
    }
    let operations = joined.into_iter();
    let mut operations: Vec<Operation> = operations
        .map(|((methods, paths), ports)| Operation {
            ports,
            methods,
            paths,
        })
        .collect();
    operations.sort();
    operations
}

fn policy(
    text: &mut String,
    (namespace, name): (&str, &str),
    labels: &BTreeMap<String, String>,
    accepted: Option<&BTreeSet<Code>>,
    rules: &[(Rule, BTreeSet<&Source>)],
) {
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {}\n  namespace: {}\n",
        quoted(name),
        quoted(namespace)
    );
    if let Some(codes) = accepted {
        let codes: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
        let codes = quoted(&codes.join(", "));
        let _ = write!(text, "  annotations:\n    {ACCEPTED_WARNINGS}: {codes}\n");
    }
    *text += "spec:\n  selector:\n    matchLabels:\n";
    for (label, value) in labels {
        let _ = writeln!(text, "      {}: {}", quoted(label), quoted(value));
    }
    *text += "  action: ALLOW\n  rules:\n";
    for ((operations, _), sources) in rules {
        *text += "  - from:\n";
        let principals = sources.iter().filter_map(|source| match source {
            Source::Principal(principal) => Some(principal.clone()),
            Source::Address(_) => None,
        });
        let blocks = sources.iter().filter_map(|source| match source {
            Source::Principal(_) => None,
            Source::Address(address) => Some(address.to_string()),
        });
        field(text, "source", &[("principals", principals.collect())]);
        field(text, "source", &[("ipBlocks", blocks.collect())]);
        *text += "    to:\n";
        for operation in operations {
            let ports = operation.ports.iter().map(u16::to_string).collect();
            let methods = operation.methods.iter().cloned().collect();
            let paths = operation.paths.iter().cloned().collect();
            let fields = [("ports", ports), ("methods", methods), ("paths", paths)];
            field(text, "operation", &fields);
        }
    }
}

/// One entry of a list with its fields; those without values are left out, and so is an entry
/// without any.
fn field(text: &mut String, what: &str, fields: &[(&str, Vec<String>)]) {
    if fields.iter().all(|(_, values)| values.is_empty()) {
        return;
    }
    let _ = writeln!(text, "    - {what}:");
    for (name, values) in fields.iter().filter(|(_, values)| !values.is_empty()) {
        let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
        let _ = writeln!(text, "        {name}: [{}]", values.join(", "));
    }
}

/// A string that is one for every reader of YAML: JSON's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
