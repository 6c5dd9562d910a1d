//! The oracle and the tables agree on every request of the conformance cases.

use std::{collections::BTreeMap, path::Path};

use policyc::{
    engine,
    oracle::{self, Options},
    read::{self, Input},
    request::Request,
    resolve,
};

#[test]
fn both_engines_agree_on_every_case() {
    let Ok(folder) = std::env::var("CONFORMANCE_DIR") else {
        println!("CONFORMANCE_DIR is not set: only the project's own corpus is run");
        return;
    };
    let mut cases: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    cases.sort();
    let (mut requests, mut failures) = (0, Vec::new());
    for case in cases.iter().filter(|path| path.is_dir()) {
        let (count, mut failed) = run(case);
        requests += count;
        failures.append(&mut failed);
    }
    assert!(
        failures.is_empty(),
        "{} of {requests} differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(requests > 0, "no requests were found");
}

fn run(case: &Path) -> (usize, Vec<String>) {
    let mesh = case.join("mesh.yaml");
    let inputs = ["policies.yaml", "cluster.yaml"].map(|name| Input::Path(case.join(name)));
    let (loaded, diagnostics) = read::load(&inputs, mesh.exists().then_some(mesh.as_path()));
    let name = case.file_name().unwrap().to_string_lossy().into_owned();
    let errors: Vec<_> = diagnostics
        .iter()
        .filter(|d| d.severity == policyc::diagnostic::Severity::Error)
        .map(|d| format!("{name}: {}", d.message))
        .collect();
    if !errors.is_empty() {
        return (0, errors);
    }
    let text = std::fs::read_to_string(case.join("requests.jsonl")).unwrap();
    let requests: Vec<Request> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let options = Options {
        now: 1_795_000_000,
        ..Options::default()
    };
    let program = resolve::resolve(
        &loaded.cluster,
        options.catch_all_deny,
        &BTreeMap::new(),
        &|_| (String::new(), 1),
    )
    .unwrap();
    let answers = engine::judge(&program, &loaded.cluster, &requests, options.now);
    let mut failures = Vec::new();
    for (request, tables) in requests.iter().zip(answers) {
        let oracle = oracle::evaluate(&loaded.cluster, request, &options);
        match (oracle, tables) {
            (Ok(oracle), Ok(tables)) => {
                if Some(tables.verdict) != request.expect {
                    failures.push(format!(
                        "{name} {}: expected {:?}, tables {tables:?}",
                        request.id, request.expect
                    ));
                } else if Some(oracle.verdict) != request.expect {
                    failures.push(format!(
                        "{name} {}: expected {:?}, oracle {oracle:?}",
                        request.id, request.expect
                    ));
                } else if oracle != tables {
                    failures.push(format!(
                        "{name} {}:\n   oracle {oracle:?}\n   tables {tables:?}",
                        request.id
                    ));
                }
            }
            (Err(_), Err(_)) => {
                failures.push(format!("{name} {}: neither can judge it", request.id))
            }
            (oracle, tables) => failures.push(format!(
                "{name} {}:\n   oracle {oracle:?}\n   tables {tables:?}",
                request.id
            )),
        }
    }
    (requests.len(), failures)
}
