//! Every case of the project's own corpus, and of the folder that `CONFORMANCE_DIR` names, judged as
//! expected by every engine.

use std::path::{Path, PathBuf};

use policyc::conformance::{Case, Engine, Oracle, Tables, cases, run};

/// The folders to run: the project's own always.
fn folders() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    match std::env::var_os("CONFORMANCE_DIR") {
        Some(given) => vec![own, given.into()],
        None => {
            println!("CONFORMANCE_DIR is not set: the project's own corpus runs alone");
            vec![own]
        }
    }
}

fn engines() -> Vec<Box<dyn Engine>> {
    vec![Box::new(Oracle), Box::new(Tables)]
}

#[test]
fn every_request_is_judged_as_expected() {
    for folder in folders() {
        for mut engine in engines() {
            let report = run(&folder, engine.as_mut()).unwrap();
            println!("{report}");
            assert_eq!(
                report.failures(),
                0,
                "some requests were judged otherwise than their case expects:\n{report}"
            );
        }
    }
}

#[test]
fn the_engines_agree_to_the_last_field() {
    let mut differences = Vec::new();
    for folder in folders() {
        for case in cases(&folder).unwrap() {
            let (oracle, tables) = (Oracle.judge_all(&case), Tables.judge_all(&case));
            assert_eq!(
                (oracle.len(), tables.len()),
                (case.requests.len(), case.requests.len()),
                "{}: each engine answers each request once",
                case.name
            );
            for ((request, oracle), tables) in case.requests.iter().zip(oracle).zip(tables) {
                if oracle != tables {
                    differences.push(format!(
                        "{}:\n  oracle {oracle:?}\n  tables {tables:?}",
                        request.id
                    ));
                }
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} requests are judged differently by the two engines:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn the_own_corpus_is_large_enough_and_says_where_it_comes_from() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut cases = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = std::fs::read_to_string(path.join("SOURCE")).unwrap_or_default();
        assert!(
            source.trim().len() > 20,
            "{} does not say what its expectation follows from",
            path.display()
        );
        let case = Case::read(&path).unwrap();
        let verdicts = |wanted| {
            case.requests
                .iter()
                .filter(|r| r.expect == Some(wanted))
                .count()
        };
        assert!(
            verdicts(policyc::request::Expected::Allow) > 0
                && verdicts(policyc::request::Expected::Deny) > 0,
            "{}: a case without an allowed and a denied request shows half of the truth",
            path.display()
        );
        cases += 1;
    }
    assert!(cases >= 60, "the corpus holds {cases} cases, fewer than 60");
}
