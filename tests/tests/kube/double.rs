//! A double of the API server: long lists, watches that break off, versions that are gone.

use tests::kube::double::Double;

use super::*;

/// Pods of other nodes, more than two pages of them.
const PODS: u8 = 250;
const NODES: u8 = 5;

/// A node and the double that knows its pods.
pub fn joined(what: &str) -> Option<(World, Double)> {
    if !possible() {
        return None;
    }
    let world = World::new(what);
    let double = Double::start(&world.net.node).expect("a port is free");
    double.set("nodes", node_object());
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
    double.set("namespaces", namespace);
    for pod in ["frontend", "backend", "other"] {
        double.set("pods", world.pod(pod));
    }
    Some((world, double))
}

/// A pod of another node.
fn elsewhere(node: u8, number: u8) -> Value {
    let ip = format!("10.89.{node}.{number}");
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("p-{node}-{number}"), "namespace": "far"},
        "spec": {"nodeName": format!("far-{node}"), "serviceAccountName": "far",
            "containers": [{"name": "main", "image": "none"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

#[test]
fn a_long_list_is_read_page_by_page_and_slow_pages_are_waited_for() {
    let Some((world, double)) = joined("kb-pages") else {
        return;
    };
    for node in 0..NODES {
        for number in 1..=PODS {
            double.set("pods", elsewhere(node, number));
        }
    }
    double.set("authorizationpolicies", policy(NOT_OTHER));
    double.slow_lists(Duration::from_millis(200));
    let _agent = world.follow(&double.kubeconfig(), &[]);
    let asked = double.asked("pods");
    assert_eq!(asked.lists, 1, "{asked:?}");
    assert!(asked.pages > 2, "{asked:?}");
    let all = u64::from(NODES) * u64::from(PODS) + 3;
    assert_eq!(world.kind("pods")["objects"], all, "{}", world.said());
    world.expect("other", Met::Refusal, "a policy denies it");
    world.expect("frontend", Met::Answer, "no policy denies it");
}

#[test]
fn a_watch_that_is_cut_misses_nothing_and_lists_nothing_again() {
    let Some((world, double)) = joined("kb-break") else {
        return;
    };
    let _agent = world.follow(&double.kubeconfig(), &[]);
    world.expect("other", Met::Answer, "there is no policy");
    for round in 0..5 {
        double.cut("authorizationpolicies");
        double.set("authorizationpolicies", policy(NOT_OTHER));
        world.becomes("other", Met::Refusal, "a policy denies it");
        double.cut("authorizationpolicies");
        assert!(double.remove("authorizationpolicies", "default", "not-other"));
        world.becomes("other", Met::Answer, "it is deleted");
        let asked = double.asked("authorizationpolicies");
        assert_eq!(asked.lists, 1, "round {round}: {asked:?}\n{}", world.said());
    }
}

#[test]
fn what_was_deleted_in_a_forgotten_time_is_gone() {
    let Some((world, double)) = joined("kb-forgot") else {
        return;
    };
    double.set("authorizationpolicies", policy(NOT_OTHER));
    let _agent = world.follow(&double.kubeconfig(), &[]);
    world.expect("other", Met::Refusal, "a policy denies it");
    double.down(true);
    assert!(double.remove("authorizationpolicies", "default", "not-other"));
    assert!(double.remove("pods", "default", "frontend"));
    double.compact();
    world.expect("other", Met::Refusal, "what is known stays in force");
    double.down(false);
    world.becomes("other", Met::Answer, "its policy is gone");
    world.becomes("frontend", Met::Silence, "its address is nobody's any more");
    assert_eq!(double.asked("authorizationpolicies").lists, 2);
    assert_eq!(double.asked("pods").lists, 2);
}

#[test]
fn a_bookmark_spares_a_quiet_kind_the_list_when_its_past_is_forgotten() {
    let Some((world, double)) = joined("kb-mark") else {
        return;
    };
    let _agent = world.follow(&double.kubeconfig(), &[]);
    double.compact();
    double.bookmark();
    // Of its own kind, so that the bookmark before it has been read.
    double.set("authorizationpolicies", policy(NOT_OTHER));
    world.becomes("other", Met::Refusal, "a policy denies it");
    let before = double.asked("nodes").watches;
    double.cut("nodes");
    let again = until(NEWS, || double.asked("nodes").watches > before);
    assert!(again, "it is watched again\n{}", world.said());
    assert_eq!(double.asked("nodes").lists, 1, "{}", world.said());
}

#[test]
fn rights_that_are_taken_away_change_no_verdict_and_are_named() {
    let Some((world, double)) = joined("kb-forbid") else {
        return;
    };
    double.set("authorizationpolicies", policy(NOT_OTHER));
    let _agent = world.follow(&double.kubeconfig(), &[]);
    double.forbid("authorizationpolicies", true);
    double.cut("authorizationpolicies");
    let trouble = || world.kind("authorizationpolicies")["trouble"].to_string();
    let named = until(NEWS, || trouble().contains("ClusterRole"));
    assert!(named, "status says what is missing\n{}", world.said());
    world.expect("other", Met::Refusal, "what is known stays in force");
    world.expect("frontend", Met::Answer, "what is known stays in force");
    double.forbid("authorizationpolicies", false);
    assert!(double.remove("authorizationpolicies", "default", "not-other"));
    world.becomes("other", Met::Answer, "it is followed again");
}

#[test]
fn policies_that_change_one_by_one_come_to_the_hash_of_all_of_them() {
    let Some((world, double)) = joined("kb-amend") else {
        return;
    };
    double.set("authorizationpolicies", policy(NOT_OTHER));
    let _agent = world.follow(&double.kubeconfig(), &[]);
    let hash = || {
        let status = world.home.status().ok()?;
        status["hash"].as_str().map(str::to_owned)
    };
    let first = hash().expect("it is ready");
    assert_eq!(
        first.len(),
        64,
        "all policies were compiled before anything else"
    );
    let second = NOT_OTHER.replace("not-other", "second");
    let second = second.replace("sa/other", "sa/frontend");
    double.set("authorizationpolicies", policy(&second));
    world.becomes("frontend", Met::Refusal, "the second policy denies it");
    world.expect("other", Met::Refusal, "the first one is as it was");
    let known = |hash: &str| hash.len() == 64 && hash != first;
    let told = until(NEWS, || hash().is_some_and(|hash| known(&hash)));
    assert!(told, "another hash: {:?}\n{}", hash(), world.said());

    // While one is wrong, no other is taken by itself.
    double.set("authorizationpolicies", policy(WRONG));
    let errors = || world.cluster()["compiled"]["errors"].to_string();
    let named = until(NEWS, || errors().contains("default/wrong"));
    assert!(named, "{}", world.said());
    assert!(double.remove("authorizationpolicies", "default", "second"));
    std::thread::sleep(Duration::from_secs(2));
    world.expect("frontend", Met::Refusal, "what was in force stays so");
    assert!(double.remove("authorizationpolicies", "default", "wrong"));
    world.becomes("frontend", Met::Answer, "all of them compile again");
    world.expect("other", Met::Refusal, "the first one is as it was");
    let again = until(NEWS, || hash().as_ref() == Some(&first));
    assert!(again, "the same policies: {:?}\n{}", hash(), world.said());
}
