//! The way of MIGRATION.md, with a real API server: a namespace whose pods have sidecars is watched,
//! then enforced, then left by its sidecars, and given back.

use super::{server::Joined, *};

const ENROLLED: &str = "enforcer/enrolled=yes";

impl Joined {
    /// `backend` as the API server has it, with a sidecar or without.
    #[track_caller]
    fn backend(&self, sidecar: bool) {
        let mut pod = self.world.pod("backend");
        if sidecar {
            pod["metadata"]["annotations"]["sidecar.istio.io/status"] = json!("{}");
        }
        self.delete_pod("backend");
        let added = self.cluster.pod("default", "backend", &pod.to_string());
        added.expect("the server takes it");
    }

    #[track_caller]
    fn label(&self, label: &str) {
        let namespace = ["label", "--overwrite", "namespace", "default", label];
        let labelled = self.cluster.kubectl(&namespace);
        labelled.expect("the server takes it");
    }

    /// Waits until `status` says that of why `backend` is not policed; `null`: it is.
    #[track_caller]
    fn left_out(&self, why: &str) {
        let mut found = Value::Null;
        let said = until(NEWS, || {
            let status = self.world.home.status().unwrap_or_default();
            let pods = status["pods"].as_array().cloned().unwrap_or_default();
            let backend = pods.iter().find(|pod| pod["name"] == "default/backend");
            found = backend.map_or(json!("unknown"), |pod| pod["not_enforced"].clone());
            found.to_string().contains(why)
        });
        assert!(said, "{found}, not {why}\n{}", self.world.said());
    }
}

#[test]
fn a_namespace_is_watched_then_enforced_then_left_by_its_sidecars_and_given_back() {
    let Some(joined) = Joined::new("kb-migrate") else {
        return;
    };
    let world = &joined.world;
    joined.backend(true);
    joined.apply(NOT_OTHER);

    // 1. Watch: pods with sidecars, too.
    joined.label(ENROLLED);
    let watch = ["--mode", "audit", "--enroll-meshed"];
    let agent = joined.follow(&[&["--enroll-namespace", ENROLLED], &watch[..]].concat());
    world.expect("other", Met::Answer, "it is only watched");
    let verdict = world.verdict("other");
    assert_eq!(verdict["datapath"], "audit_would_deny", "{verdict}");
    assert_eq!(verdict["policy"], "default/not-other", "{verdict}");
    assert_eq!(verdict["rule"], 0, "{verdict}");
    drop(agent);

    // 4. Enforce: pods with sidecars are left to them.
    let _agent = joined.follow(&["--enroll-namespace", ENROLLED]);
    joined.left_out("it has a sidecar proxy");
    world.expect("other", Met::Answer, "its sidecar judges");
    // It comes back without one.
    joined.backend(false);
    joined.left_out("null");
    world.becomes("other", Met::Refusal, "the kernel judges");
    world.expect("frontend", Met::Answer, "nobody denies it");
    // While a Deployment is rolled back, the proxy is there before the label is gone.
    joined.backend(true);
    joined.left_out("it has a sidecar proxy");
    world.becomes("other", Met::Answer, "its sidecar judges");
    joined.backend(false);
    world.becomes("other", Met::Refusal, "the kernel judges");

    // Back: the namespace leaves.
    joined.label("enforcer/enrolled=no");
    world.becomes("other", Met::Answer, "the namespace is not policed");
    joined.left_out("its namespace is excluded");
}
