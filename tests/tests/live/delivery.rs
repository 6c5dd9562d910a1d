//! Bundles that are published while the agent runs.

use super::*;

/// What `status` says of deliveries.
fn delivery(world: &World) -> serde_json::Value {
    world.home.status().expect("the agent answers")["delivery"].clone()
}

/// Another file takes the name of the bundle, as whoever publishes should do it.
fn publish(world: &World, bytes: &[u8]) {
    let beside = world.home.bundle("beside.bin", bytes).expect("a file");
    fs::rename(beside, world.home.file("first.bin")).expect("another name");
}

fn bytes(world: &World, policies: &str) -> Vec<u8> {
    compile(&world.manifests, policies, 0).expect("the test's own policies")
}

#[test]
fn a_file_that_is_replaced_is_in_force_by_itself_and_a_bad_one_is_not() {
    if !possible() {
        return;
    }
    let world = World::new("lv-deliver");
    let _agent = world.start(ONLY_FRONTEND, &["--bundle-poll", "1"]);
    world.expect("frontend", Met::Answer, "its principal is allowed");
    assert_eq!(delivery(&world)["applied"], 1);

    publish(&world, &bytes(&world, NOBODY));
    let applied = |times: u64| until(PATIENCE, || delivery(&world)["applied"] == times);
    assert!(applied(2), "{}", delivery(&world));
    world.expect("frontend", Met::Refusal, "nobody may any more");

    let good = bytes(&world, ONLY_FRONTEND);
    publish(&world, &good[..good.len() / 2]);
    assert!(until(PATIENCE, || delivery(&world)["refused"].as_u64() > Some(0)));
    let trouble = delivery(&world)["trouble"].to_string();
    assert!(trouble.contains("ends early"), "{trouble}");
    let human = world.home.call(&["status"]).expect("it runs");
    let human = String::from_utf8_lossy(&human.stdout).into_owned();
    assert!(human.contains("FAILING  no new bundle: "), "{human}");
    world.expect("frontend", Met::Refusal, "the old bundle is in force");

    publish(&world, &good);
    assert!(applied(3), "{}", delivery(&world));
    assert_eq!(delivery(&world)["trouble"], serde_json::Value::Null);
    world.expect("frontend", Met::Answer, "its principal is allowed again");
}

#[test]
fn a_rollback_stays_until_something_else_is_published() {
    if !possible() {
        return;
    }
    let world = World::new("lv-deliver-back");
    let _agent = world.start(ONLY_FRONTEND, &["--bundle-poll", "1"]);
    publish(&world, &bytes(&world, NOBODY));
    assert!(until(PATIENCE, || delivery(&world)["applied"] == 2));
    let back = world.home.call(&["rollback"]).expect("it runs");
    assert!(back.status.success(), "{back:?}");
    let epoch = || world.home.status().expect("it answers")["epoch"].as_u64();
    let (since, looked) = (epoch(), delivery(&world)["looked"].clone());
    // The source is looked at again, and has what it had.
    publish(&world, &bytes(&world, NOBODY));
    assert!(until(PATIENCE, || delivery(&world)["looked"] != looked));
    assert!(until(PATIENCE, || delivery(&world)["looked"] != looked));
    assert_eq!(epoch(), since, "nothing was put in force");
    world.expect("frontend", Met::Answer, "the bundle before is in force");
}
