//! Random policies and random requests: the compiled table with the requests' engine, and the naive
//! oracle, say the same to the last field.

#[path = "differential/generate.rs"]
mod generate;

use std::{cell::RefCell, collections::BTreeMap};

use policyc::{
    conformance::{Case, Engine, Oracle, Tables},
    options::{CatchAllDeny, Options},
};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use generate::{cluster, request};

/// How many random clusters; PROPTEST_CASES asks for another number.
const CLUSTERS: u32 = 200;
const REQUESTS: usize = 12;

#[test]
fn oracle_and_tables_agree() {
    let config = ProptestConfig {
        cases: std::env::var("PROPTEST_CASES")
            .ok()
            .and_then(|cases| cases.parse().ok())
            .unwrap_or(CLUSTERS),
        // What is found becomes a case of the corpus, named by what it teaches.
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let clusters = config.cases;
    let seen: RefCell<BTreeMap<String, u32>> = RefCell::default();
    let inputs = (cluster(), vec(request(), REQUESTS), any::<bool>());
    let outcome = TestRunner::new(config).run(&inputs, |(cluster, requests, default_deny)| {
        let case = Case {
            name: "random".into(),
            cluster,
            options: Options {
                now: 1_767_225_600,
                catch_all_deny: match default_deny {
                    true => CatchAllDeny::DefaultDeny,
                    false => CatchAllDeny::DenyAll,
                },
                ..Options::default()
            },
            requests,
        };
        let (oracle, tables) = (Oracle.judge_all(&case), Tables.judge_all(&case));
        prop_assert_eq!(
            oracle.len(),
            REQUESTS,
            "each engine answers each request once"
        );
        prop_assert_eq!(
            tables.len(),
            REQUESTS,
            "each engine answers each request once"
        );
        for ((request, oracle), tables) in case.requests.iter().zip(oracle).zip(tables) {
            let kind = oracle.as_ref().map_or("unjudgeable".into(), |judgement| {
                format!("{:?} {:?}", judgement.reason, judgement.layer)
            });
            *seen.borrow_mut().entry(kind).or_default() += 1;
            // Both may refuse, and say why in different words.
            if oracle.is_ok() || tables.is_ok() {
                let policies = &case.cluster.policies;
                prop_assert_eq!(oracle, tables, "{:#?}\n{:#?}", request, policies);
            }
        }
        Ok(())
    });
    println!("{:#?}", seen.borrow());
    if let Err(why) = outcome {
        panic!("the engines differ: {why}");
    }
    let kinds = seen.borrow().len();
    assert!(
        clusters < CLUSTERS || kinds >= 12,
        "only {kinds} kinds of answers were seen: the generator shows too little"
    );
}
