//! The page's own walk through the rules, compared with the evaluation that makes the tables: for
//! every case of the corpus, every pair, every port, whatever is spoken.

use std::{collections::BTreeSet, path::Path};

use policyc::{
    conformance::cases,
    diagnostic::At,
    graph::{Reach, page},
    ir::{Action, Atom, AtomId},
    lower::{
        cell::Decided,
        evaluate::{self, Known, Meaning, Truth},
        scope::Stage,
    },
    resolve::resolve,
};
use serde_json::{Value, json};

use crate::chromium::browser;

/// What the page says: for each pair and port the verdict, then each rule's truth by what is spoken.
const SCRIPT: &str = concat!(
    "(() => {",
    include_str!("../../src/graph/page/data.js"),
    include_str!("../../src/graph/page/walk.js"),
    "const told = [];
     for (const to of now.parties) for (const from of now.parties) for (const port of portsToShow(to, undefined)) {
       const cell = cellAt(now, from, to, port);
       if (!cell) continue;
       const rules = meanings(now.scopes[to.scope], port).map((meaning) =>
         walk(now, from, to, port, meaning).flatMap((p) => p.rules.map((r) => r.truth)));
       told.push([from.number, to.number, port, cell.verdict, rules]);
     }
     return told;
    })()"
);

/// The same by the code that makes the tables.
fn expected(reach: &Reach<'_>) -> Value {
    let program = reach.program;
    let default_deny = program.catch_all_deny == policyc::options::CatchAllDeny::DefaultDeny;
    let mut told = Vec::new();
    for (to_number, to) in reach.parties.iter().enumerate() {
        let Some(destination) = &to.destination else {
            continue;
        };
        let key = &reach.scopes[destination.scope].key;
        for (from_number, from) in reach.parties.iter().enumerate() {
            let source: BTreeSet<AtomId> = reach.classes[usize::from(from.class)]
                .iter()
                .copied()
                .collect();
            let listed = destination.ports.iter().map(|p| Some(p.port));
            for port in listed.chain([None]) {
                let Some(cell) = reach.cell(from, to, port) else {
                    continue;
                };
                let declared = port.and_then(|port| key.ports.get(&port));
                let declared = declared
                    .copied()
                    .unwrap_or(policyc::cluster::Protocol::Undeclared);
                let asked =
                    |atom: &Atom| matches!(atom, Atom::DestinationPort(p) if Some(*p) == port);
                let atom = program.atoms.iter().position(asked);
                let atom = atom.map(|n| AtomId(u32::try_from(n).expect("few atoms")));
                let truths = |meaning: Meaning| -> Vec<u8> {
                    let known = Known {
                        program,
                        key,
                        source: &source,
                        port: atom,
                        meaning,
                    };
                    let policies = key.policies.iter().map(|id| &program.policies[id.index()]);
                    let rules = policies.flat_map(|p| p.rules.iter().map(move |r| (p, r)));
                    rules
                        .map(|(policy, rule)| {
                            let stage = match (&policy.action, policy.dry_run) {
                                (Action::Allow, false) => Stage::Allow,
                                (Action::Allow, true) => Stage::DryRunAllow,
                                (Action::Deny, false) => Stage::Deny,
                                (Action::Deny, true) => Stage::DryRunDeny,
                                (Action::Audit, _) => Stage::Audit,
                                (Action::Custom { .. }, _) => Stage::Custom,
                            };
                            if default_deny && stage == Stage::Deny && rule.clauses.is_empty() {
                                return 0;
                            }
                            match evaluate::rule(&known, stage, rule) {
                                Truth::False => 0,
                                Truth::True => 1,
                                Truth::Unknown(_) => 2,
                            }
                        })
                        .collect()
                };
                let rules: Vec<Vec<u8>> = evaluate::meanings(declared)
                    .iter()
                    .map(|m| truths(*m))
                    .collect();
                let verdict = match cell.verdict {
                    Decided::Deny => 0,
                    Decided::Allow => 1,
                    Decided::Ask => 2,
                };
                told.push(json!([from_number, to_number, port, verdict, rules]));
            }
        }
    }
    told.into()
}

#[test]
fn the_page_walks_as_the_tables_were_made() {
    let Some(mut browser) = browser() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut compared = 0;
    for case in cases(&corpus).expect("the corpus") {
        let nowhere = |_: &At| (String::new(), 0);
        let options = &case.options;
        let program = resolve(
            &case.cluster,
            options.catch_all_deny,
            &options.jwks,
            &nowhere,
        )
        .expect("it resolves");
        let Ok(reach) = Reach::new(&program, &case.cluster) else {
            continue;
        };
        let file = folder.path().join(format!("{}.html", case.name));
        std::fs::write(&file, page::page(&reach, None).expect("a page")).expect("a file");
        let mut tab = browser.open(&file, 800, 600);
        let told = tab.value(SCRIPT);
        let expected = expected(&reach);
        compared += expected.as_array().map_or(0, Vec::len);
        assert_eq!(told, expected, "{}", case.name);
        assert_eq!(tab.complaints(), [] as [String; 0], "{}", case.name);
    }
    assert!(compared > 1_000, "{compared} cells compared");
}
