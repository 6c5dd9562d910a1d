//! What is told on of pods that come, change and go.

use serde_json::json;

use super::*;

struct Told {
    name: &'static str,
    ip: &'static str,
    created: &'static str,
    node: &'static str,
    phase: &'static str,
    leaving: bool,
}

const POD: Told = Told {
    name: "a",
    ip: "10.0.0.1",
    created: "2026-01-01T00:00:00Z",
    node: "other",
    phase: "Running",
    leaving: false,
};

const OTHER: Told = Told {
    name: "b",
    ip: "10.0.0.2",
    ..POD
};

impl Told {
    fn seen(&self) -> Seen {
        let json = json!({
            "metadata": {"name": self.name, "namespace": "shop", "resourceVersion": "1",
                "labels": {"app": "a"}, "annotations": {"big": "x", "enforcer/gateway": "true"}},
            "spec": {"nodeName": self.node, "serviceAccountName": "sa",
                "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
            "status": {"phase": self.phase, "podIPs": [{"ip": self.ip}]},
        });
        Seen {
            name: ("shop".into(), self.name.into()),
            created: self.created.into(),
            leaving: self.leaving,
            of: ("v1".into(), "Pod"),
            json: json.to_string(),
        }
    }
}

/// What is told on: the names, and whether each is there.
fn told(pods: &mut Pods) -> Vec<(String, bool)> {
    let changes = pods.take_changes().pods;
    changes
        .into_iter()
        .map(|((_, name), now)| (name, now.is_some()))
        .collect()
}

fn is(name: &str, there: bool) -> (String, bool) {
    (name.into(), there)
}

#[test]
fn what_changes_nothing_is_not_told_on() {
    let mut pods = Pods::new("here");
    pods.now(&POD.seen());
    assert_eq!(told(&mut pods), [is("a", true)]);
    pods.now(&POD.seen());
    assert_eq!(told(&mut pods), []);
    pods.now(
        &Told {
            ip: "10.0.0.2",
            ..POD
        }
        .seen(),
    );
    assert_eq!(told(&mut pods), [is("a", true)]);
    assert_eq!(pods.holders.len(), 1, "its first address is free");
}

#[test]
fn a_pod_that_a_list_does_not_name_is_gone() {
    let mut pods = Pods::new("here");
    pods.begin();
    pods.now(&POD.seen());
    pods.now(&OTHER.seen());
    pods.end();
    told(&mut pods);
    pods.begin();
    pods.now(&POD.seen());
    pods.end();
    assert_eq!(told(&mut pods), [is("b", false)]);
    assert_eq!((pods.count(), pods.holders.len()), (1, 1));
}

#[test]
fn a_list_that_broke_off_takes_nobody_away() {
    let mut pods = Pods::new("here");
    pods.begin();
    pods.now(&POD.seen());
    pods.now(&OTHER.seen());
    pods.end();
    told(&mut pods);
    pods.begin();
    pods.begin();
    pods.now(&POD.seen());
    pods.now(&OTHER.seen());
    pods.end();
    assert_eq!(told(&mut pods), []);
}

#[test]
fn a_pod_that_is_over_or_has_no_address_is_nobody() {
    let mut pods = Pods::new("here");
    pods.now(
        &Told {
            phase: "Succeeded",
            ..POD
        }
        .seen(),
    );
    assert_eq!(told(&mut pods), []);
    pods.now(&POD.seen());
    told(&mut pods);
    pods.now(
        &Told {
            phase: "Failed",
            ..POD
        }
        .seen(),
    );
    assert_eq!(told(&mut pods), [is("a", false)]);
    assert!(pods.holders.is_empty(), "its address is free");
}

#[test]
fn a_new_pod_has_the_address_of_an_old_one_and_not_its_identity() {
    let old = POD.seen();
    let new = Told {
        name: "b",
        created: "2026-01-01T00:00:01Z",
        ..POD
    }
    .seen();
    let mut pods = Pods::new("here");
    for (first, second) in [(&old, &new), (&new, &old)] {
        pods.now(first);
        pods.now(second);
        assert_eq!(told(&mut pods).into_iter().filter(|told| told.1).count(), 1);
        pods.now(&old);
        assert_eq!(told(&mut pods), [], "it is told of again and stays nobody");
        pods.gone(&old.name);
        pods.gone(&new.name);
        assert_eq!(told(&mut pods), [is("b", false)]);
    }
    // It is on its way out, though it was made later.
    let leaving = Told {
        leaving: true,
        name: "b",
        created: "2026-01-02T00:00:00Z",
        ..POD
    };
    pods.now(&leaving.seen());
    pods.now(&old);
    assert_eq!(told(&mut pods), [is("a", true), is("b", false)]);
}

#[test]
fn a_pod_that_cannot_be_read_stays_as_it_was_and_keeps_nobody_waiting() {
    let mut pods = Pods::new("here");
    pods.begin();
    assert_eq!(pods.now(&POD.seen()), Vec::<String>::new());
    pods.end();
    told(&mut pods);
    pods.begin();
    let wrong = pods.now(
        &Told {
            ip: "10.0.0",
            ..POD
        }
        .seen(),
    );
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].contains("kube:shop/a"), "{wrong:?}");
    pods.now(&OTHER.seen());
    pods.end();
    assert_eq!(told(&mut pods), [is("b", true)]);
}

#[test]
fn of_other_nodes_pods_only_the_identity_is_kept() {
    let mut pods = Pods::new("here");
    pods.now(&POD.seen());
    pods.now(
        &Told {
            name: "b",
            ip: "10.0.0.2",
            node: "here",
            ..POD
        }
        .seen(),
    );
    let changes = pods.take_changes().pods;
    let of = |name: &str| changes[&("shop".to_owned(), name.to_owned())].clone();
    let (other, mine) = (of("a").expect("a pod"), of("b").expect("a pod"));
    assert!(other.template.labels.is_empty() && other.template.annotations.is_empty());
    assert_eq!(mine.template.labels.len(), 1);
    let annotations: Vec<&String> = mine.template.annotations.keys().collect();
    assert_eq!(annotations, ["enforcer/gateway"]);
    assert_eq!(pods.local().count(), 1);
    assert!(pods.take_local_changed() && !pods.take_local_changed());
    assert!(
        pods.ask(["shop".to_owned()].into()),
        "an authorizer is there"
    );
    pods.now(&POD.seen());
    assert_eq!(told(&mut pods), [is("a", true)], "with its labels");
}
