//! What must hold for every cluster, every policy and every request, tried on random small ones:
//! the tables judge as the oracle does, the order of the input never shows, a DENY never allows
//! more, a further ALLOW never denies more, and a bundle gives back what it was made from.

mod replayed;
mod requests;
mod suggested;
mod world;

use std::collections::BTreeMap;

use policyc::{
    ast::{Action, AuthorizationPolicy},
    bundle,
    cluster::Cluster,
    conformance::{Engine, Oracle},
    engine,
    inventory::Inventory,
    options::{CatchAllDeny, Options},
    request::{Cause, Expected, Judgement, Request},
    resolve,
};
use proptest::{collection::vec, prelude::*};

/// 2026-01-01
const NOW: u64 = 1_767_225_600;

fn options(catch_all_deny: CatchAllDeny) -> Options {
    Options {
        now: NOW,
        catch_all_deny,
        ..Options::default()
    }
}

fn catch_all() -> impl Strategy<Value = CatchAllDeny> {
    prop_oneof![3 => Just(CatchAllDeny::DenyAll), 1 => Just(CatchAllDeny::DefaultDeny)]
}

fn tables(
    cluster: &Cluster,
    options: &Options,
    requests: &[Request],
) -> Vec<Result<Judgement, String>> {
    let nowhere = |_: &policyc::diagnostic::At| (String::new(), 0);
    let program =
        resolve::resolve(cluster, options.catch_all_deny, &options.jwks, &nowhere).expect(VALID);
    engine::judge(&program, cluster, requests, options.now)
}

/// How many cases of each property: `PROPTEST_CASES`, or few enough for every day.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(300)
}

/// The properties say something only if most requests can be judged, and all outcomes come up.
#[test]
fn the_small_world_meets_every_outcome() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut judged, mut all) = (0, 0);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let mut draw = || {
            vec(world::policy(), 1..5)
                .new_tree(&mut runner)
                .expect("it draws")
                .current()
        };
        let cluster = world::cluster(draw());
        let requests = vec(requests::request(), 8)
            .new_tree(&mut runner)
            .expect("it draws")
            .current();
        for judgement in tables(&cluster, &options(CatchAllDeny::DenyAll), &requests) {
            all += 1;
            if let Ok(judgement) = judgement {
                judged += 1;
                seen.insert((
                    judgement.reason,
                    judgement.layer == policyc::request::Layer::L4,
                ));
            }
        }
    }
    assert!(
        judged * 10 > all * 7,
        "{judged} of {all} requests could be judged"
    );
    assert!(seen.len() >= 9, "too few outcomes came up: {seen:?}");
}

const VALID: &str = "the generator makes valid policies only";

fn program(cluster: &Cluster) -> policyc::ir::Program {
    resolve::resolve(cluster, CatchAllDeny::DenyAll, &BTreeMap::new(), &|_| {
        (String::new(), 1)
    })
    .expect(VALID)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn the_tables_judge_as_the_oracle_does(
        policies in vec(world::policy(), 0..5),
        requests in vec(requests::request(), 1..24),
        catch_all_deny in catch_all(),
    ) {
        agree(policies, &requests, &options(catch_all_deny))?;
    }

    #[test]
    fn the_tables_answer_one_question_as_the_oracle_does(
        policy in world::question(),
        requests in vec(requests::to_http(), 24),
    ) {
        agree(vec![policy], &requests, &options(CatchAllDeny::DenyAll))?;
    }

    #[test]
    fn a_not_form_holds_exactly_where_its_field_does_not(
        twins in world::twins(),
        requests in vec(requests::to_http(), 24),
    ) {
        let options = options(CatchAllDeny::DenyAll);
        let [field, not_form] = twins.map(|policy| {
            tables(&world::cluster(vec![policy]), &options, &requests)
        });
        for ((field, not_form), request) in field.into_iter().zip(not_form).zip(&requests) {
            let (Ok(field), Ok(not_form)) = (field, not_form) else { continue };
            // A token that does not verify, or a target that is none, is refused before any rule.
            let by_rules = |j: &Judgement| matches!(j.reason, Cause::AllowRule | Cause::NoAllowMatched);
            if by_rules(&field) && by_rules(&not_form) {
                prop_assert_ne!(
                    field.verdict, not_form.verdict,
                    "{:?}: the field gives {:?}, its not-form {:?}", request, field, not_form
                );
            }
        }
    }

    #[test]
    fn the_order_of_policies_never_shows(
        policies in vec(world::policy(), 2..6),
        turn in 1..5usize,
    ) {
        let cluster = world::cluster(policies);
        let mut turned = cluster.clone();
        let places = turn % cluster.policies.len();
        turned.policies.rotate_left(places);
        let bytes = |cluster: &Cluster| bundle::write(&program(cluster), &Inventory::of(cluster), 1).expect("it is small");
        prop_assert_eq!(bytes(&cluster), bytes(&turned), "the bundle depends on the order");
    }

    #[test]
    fn a_bundle_gives_back_what_it_was_made_from(policies in vec(world::policy(), 0..6)) {
        let cluster = world::cluster(policies);
        let (program, inventory) = (program(&cluster), Inventory::of(&cluster));
        let bytes = bundle::write(&program, &inventory, 3).expect("it is small");
        let read = bundle::read(&bytes).expect("it was just written");
        prop_assert_eq!(&read.program, &program);
        let remembered = bundle::read_inventory(&bytes).expect("it was just written");
        let again = bundle::write(&read.program, &remembered, 3).expect("it is small");
        prop_assert_eq!(again, bytes);
        prop_assert_eq!(remembered, inventory);
    }

    #[test]
    fn a_further_deny_never_allows_more(
        policies in vec(world::policy(), 0..4),
        mut deny in world::policy(),
        requests in vec(requests::request(), 1..16),
    ) {
        deny.action = Action::Deny;
        deny.name = "added".into();
        never_flips(policies, deny, &requests, Expected::Deny, Expected::Allow)?;
    }

    #[test]
    fn a_further_allow_never_denies_more_where_there_is_one(
        policies in vec(world::policy(), 0..4),
        mut allow in world::policy(),
        requests in vec(requests::request(), 1..16),
    ) {
        // An ALLOW without rules that applies everywhere: every workload has one already.
        let base = world::allow_nothing();
        allow.action = Action::Allow;
        allow.name = "added".into();
        let policies: Vec<_> = policies.into_iter().chain([base]).collect();
        never_flips(policies, allow, &requests, Expected::Allow, Expected::Deny)?;
    }
}

/// Both engines say the same of each request, to the last field.
fn agree(
    policies: Vec<AuthorizationPolicy>,
    requests: &[Request],
    options: &Options,
) -> Result<(), TestCaseError> {
    let cluster = world::cluster(policies);
    for (request, tables) in requests.iter().zip(tables(&cluster, options, requests)) {
        match (Oracle.judge(&cluster, options, request), tables) {
            (Ok(oracle), Ok(tables)) => prop_assert_eq!(
                &oracle,
                &tables,
                "the oracle (left) and the tables (right) differ on {:?}",
                request
            ),
            (Err(_), Err(_)) => {}
            (oracle, tables) => prop_assert!(
                false,
                "one engine only can judge {request:?}: oracle {oracle:?}, tables {tables:?}"
            ),
        }
    }
    Ok(())
}

/// No request goes from one verdict to the other when the policy is added.
fn never_flips(
    policies: Vec<AuthorizationPolicy>,
    added: AuthorizationPolicy,
    requests: &[Request],
    from: Expected,
    to: Expected,
) -> Result<(), TestCaseError> {
    let before = world::cluster(policies);
    let mut after = before.clone();
    after.policies.push(added);
    let options = options(CatchAllDeny::DenyAll);
    let pairs = tables(&before, &options, requests)
        .into_iter()
        .zip(tables(&after, &options, requests))
        .zip(requests);
    for ((before, after), request) in pairs {
        if let (Ok(before), Ok(after)) = (before, after) {
            prop_assert!(
                !(before.verdict == from && after.verdict == to),
                "{request:?} went from {before:?} to {after:?}"
            );
        }
    }
    Ok(())
}
