//! A real API server: kubectl applies, the kernel refuses.

use tests::kube::{
    cluster::{AGENT, Cluster, STRANGER},
    config::Access,
    relay::Relay,
};

use super::*;

/// A cluster that knows the node's pods, the way there, and the node.
pub struct Joined {
    pub world: World,
    relay: Relay,
    pub cluster: Cluster,
}

impl Joined {
    /// `None`, with the reason said, where there is no API server.
    pub fn new(what: &str) -> Option<Self> {
        if !possible() {
            return None;
        }
        let started = Cluster::start(&format!("{what}-api"));
        let cluster = started.expect("an API server starts")?;
        let world = World::new(what);
        let relay = Relay::start(&world.net.node, cluster.netns(), cluster.address());
        let joined = Self {
            world,
            relay: relay.expect("a port is free"),
            cluster,
        };
        joined.apply(&node_object().to_string());
        for pod in ["frontend", "backend", "other"] {
            joined.add_pod(pod);
        }
        Some(joined)
    }

    fn kubeconfig(&self, token: &str) -> String {
        let access = Access {
            server: &format!("https://{}", self.relay.address),
            authority: Some(&self.cluster.authority()),
            token: Some(token),
        };
        access.kubeconfig()
    }

    /// An old server knows one range of addresses for a node, and the other one is told here.
    #[track_caller]
    pub fn follow(&self, options: &[&str]) -> Agent {
        let options = [&["--pod-cidr", "fd88::/64"], options].concat();
        self.world.follow(&self.kubeconfig(AGENT), &options)
    }

    #[track_caller]
    pub fn apply(&self, manifests: &str) {
        self.cluster.apply(manifests).expect("the server takes it");
    }

    #[track_caller]
    fn delete(&self, kind: &str, name: &str) {
        let deleted = self.cluster.kubectl(&["delete", kind, name]);
        deleted.expect("it is there");
    }

    #[track_caller]
    fn add_pod(&self, name: &str) {
        let manifest = self.world.pod(name).to_string();
        let added = self.cluster.pod("default", name, &manifest);
        added.expect("the server takes it");
    }

    #[track_caller]
    pub fn delete_pod(&self, name: &str) {
        let deleted = self.cluster.delete_pod("default", name);
        deleted.expect("it is there");
    }
}

#[test]
fn policies_and_pods_count_from_when_they_are_applied_until_they_are_deleted() {
    let Some(joined) = Joined::new("kb-follow") else {
        return;
    };
    let world = &joined.world;
    let _agent = joined.follow(&[]);
    world.expect("other", Met::Answer, "there is no policy");

    joined.apply(NOT_OTHER);
    world.becomes("other", Met::Refusal, "a policy denies it");
    world.expect("frontend", Met::Answer, "no policy denies it");
    let verdict = world.verdict("other");
    assert_eq!(verdict["policy"], "default/not-other", "{verdict}");
    assert_eq!(verdict["rule"], 0, "{verdict}");

    joined.delete("authorizationpolicy", "not-other");
    world.becomes("other", Met::Answer, "the policy is deleted");

    // A source that nobody knows is not let in as one without an identity.
    joined.delete_pod("other");
    joined.apply(NOT_OTHER);
    world.becomes("other", Met::Silence, "no pod has its address");
    joined.add_pod("other");
    world.becomes("other", Met::Refusal, "it is known, and denied");
    joined.delete("authorizationpolicy", "not-other");
    world.becomes("other", Met::Answer, "it is known, and nobody denies it");
}

#[test]
fn a_policy_with_an_error_leaves_the_policies_before_in_force_and_is_named() {
    let Some(joined) = Joined::new("kb-wrong") else {
        return;
    };
    let world = &joined.world;
    joined.apply(NOT_OTHER);
    let _agent = joined.follow(&[]);
    world.expect("other", Met::Refusal, "the policy was there from the start");

    joined.apply(WRONG);
    let errors = || world.cluster()["compiled"]["errors"].to_string();
    let named = until(NEWS, || errors().contains("default/wrong"));
    assert!(named, "status names the policy\n{}", world.said());
    world.expect("other", Met::Refusal, "the policies before are in force");
    world.expect("frontend", Met::Answer, "the policies before are in force");

    joined.delete("authorizationpolicy", "wrong");
    let mended = until(NEWS, || errors() == "[]");
    assert!(mended, "nothing is wrong any more\n{}", world.said());
    joined.delete("authorizationpolicy", "not-other");
    world.becomes(
        "other",
        Met::Answer,
        "the policies of the cluster count again",
    );
}

#[test]
fn an_api_server_that_is_killed_changes_no_verdict_and_is_followed_again() {
    let Some(mut joined) = Joined::new("kb-away") else {
        return;
    };
    joined.apply(NOT_OTHER);
    let agent = joined.follow(&[]);
    joined
        .world
        .expect("other", Met::Refusal, "a policy denies it");

    joined.cluster.kill_server().expect("it runs");
    let noticed = until(NEWS, || joined.world.kind("pods")["state"] == "failing");
    assert!(noticed, "status says so\n{}", joined.world.said());
    joined
        .world
        .expect("other", Met::Refusal, "what is known stays in force");
    joined
        .world
        .expect("frontend", Met::Answer, "what is known stays in force");
    agent.kill().expect("our own process");
    joined
        .world
        .expect("other", Met::Refusal, "enforcement outlives the agent");
    joined
        .world
        .expect("frontend", Met::Answer, "and opens and closes nothing");

    // An agent that starts before the server does waits for it.
    let kubeconfig = joined.world.kubeconfig(&joined.kubeconfig(AGENT));
    let again = joined
        .world
        .home
        .follow(&joined.world.net.node, &kubeconfig, &[]);
    let again = again.expect("the program is there");
    joined
        .world
        .expect("other", Met::Refusal, "nothing changes while it waits");
    joined.cluster.start_server().expect("it starts again");
    let _agent = joined
        .world
        .home
        .ready(again)
        .expect("it need not be started again");
    joined
        .world
        .expect("other", Met::Refusal, "the policy is still there");
    joined.delete("authorizationpolicy", "not-other");
    joined
        .world
        .becomes("other", Met::Answer, "the server is followed");
}

#[test]
fn a_connection_that_breaks_off_goes_on_from_where_it_was() {
    let Some(joined) = Joined::new("kb-cut") else {
        return;
    };
    let world = &joined.world;
    let _agent = joined.follow(&[]);
    let lists = || world.kind("authorizationpolicies")["lists"].clone();
    assert_eq!(lists(), 1, "{}", world.said());
    joined.relay.cut();
    joined.apply(NOT_OTHER);
    joined.delete_pod("frontend");
    world.expect("other", Met::Answer, "nobody can tell the node");
    joined.relay.mend();
    world.becomes("other", Met::Refusal, "it is told what it has missed");
    world.becomes("frontend", Met::Silence, "its address is nobody's any more");
    assert_eq!(lists(), 1, "nothing is listed again\n{}", world.said());
}

#[test]
fn what_happened_in_a_time_that_the_server_has_forgotten_is_found_out() {
    let Some(mut joined) = Joined::new("kb-gone") else {
        return;
    };
    joined.apply(NOT_OTHER);
    let _agent = joined.follow(&[]);
    joined
        .world
        .expect("other", Met::Refusal, "a policy denies it");

    joined.relay.cut();
    joined.delete("authorizationpolicy", "not-other");
    joined.apply(&NOT_OTHER.replace("other", "frontend"));
    // A server that starts knows of no version before its own.
    joined.cluster.kill_server().expect("it runs");
    joined.cluster.start_server().expect("it starts again");
    joined.cluster.compact().expect("the store forgets");
    joined
        .world
        .expect("other", Met::Refusal, "what is known stays in force");
    joined.relay.mend();
    joined
        .world
        .becomes("other", Met::Answer, "its policy is gone");
    joined
        .world
        .becomes("frontend", Met::Refusal, "a policy is new");
    let policies = joined.world.kind("authorizationpolicies");
    assert_eq!(policies["lists"], 2, "{}", joined.world.said());
}

#[test]
fn an_agent_without_rights_says_which_it_needs_and_begins_when_it_has_them() {
    let Some(joined) = Joined::new("kb-rights") else {
        return;
    };
    let world = &joined.world;
    joined.apply(NOT_OTHER);
    let kubeconfig = world.kubeconfig(&joined.kubeconfig(STRANGER));
    let agent = world.home.follow(&world.net.node, &kubeconfig, &[]);
    let mut agent = agent.expect("the program is there");
    let said = until(NEWS, || {
        let log = agent.log();
        log.contains("forbids the agent to `list` `pods`") && log.contains("ClusterRole")
    });
    assert!(said, "it says what is missing:\n{}", agent.log());
    let status = world.home.call(&["status"]).expect("the program is there");
    assert!(!status.status.success(), "it is not ready");
    assert!(!agent.ends_within(Duration::ZERO), "it waits");

    joined.apply(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: stranger}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: enforcer}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: stranger}]
",
    );
    let _agent = world.home.ready(agent).expect("it may read by now");
    world.expect("other", Met::Refusal, "a policy denies it");
    world.expect("frontend", Met::Answer, "no policy denies it");
}

#[test]
fn a_namespace_is_enrolled_by_its_label() {
    let Some(joined) = Joined::new("kb-label") else {
        return;
    };
    let world = &joined.world;
    joined.apply(NOT_OTHER);
    let _agent = joined.follow(&["--enroll-namespace", "policed=yes"]);
    world.expect("other", Met::Answer, "the namespace is not enrolled");
    let label = ["label", "--overwrite", "namespace", "default"];
    let set = |value| joined.cluster.kubectl(&[&label[..], &[value]].concat());
    set("policed=yes").expect("the server takes it");
    world.becomes("other", Met::Refusal, "the namespace is enrolled");
    set("policed=no").expect("the server takes it");
    world.becomes("other", Met::Answer, "it is not any more");
}

#[test]
fn the_kinds_of_policies_take_what_istio_takes_and_refuse_what_it_refuses() {
    if !tests::ready::is_root() {
        return;
    }
    let started = Cluster::start("kb-kinds-api").expect("an API server starts");
    let Some(cluster) = started else {
        return;
    };
    cluster.apply(NOT_OTHER).expect("a policy");
    let older = NOT_OTHER.replace("security.istio.io/v1", "security.istio.io/v1beta1");
    cluster
        .apply(&older)
        .expect("the same of the older version");
    let read = |path: &str| {
        let text = cluster.kubectl(&["get", "authorizationpolicy", "not-other", "-o", path]);
        text.expect("it is there")
    };
    for (good, bad, word) in [
        ("action: DENY", "action: MAYBE", "action"),
        ("source: {", "source: {ipBlocks: 1, ", "ipBlocks"),
    ] {
        let error = cluster.apply(&NOT_OTHER.replace(good, bad));
        let error = format!("{:#}", error.expect_err("it is not in the schema"));
        assert!(error.contains(word), "it is named: {error}");
    }
    assert_eq!(
        read("jsonpath={.spec.action}"),
        "DENY",
        "the one before stays"
    );
    // What is in the status is no part of the policy.
    let path = "/apis/security.istio.io/v1/namespaces/default/authorizationpolicies/not-other";
    let whole = cluster
        .kubectl(&["get", "--raw", path])
        .expect("it is there");
    let mut whole: Value = serde_json::from_str(&whole).expect("an object");
    let generation = whole["metadata"]["generation"].clone();
    whole["status"] = json!({"observedGeneration": 1});
    cluster
        .apply(&whole.to_string())
        .expect("the server takes it");
    assert_eq!(
        read("jsonpath={.status}"),
        "",
        "apply does not write the status"
    );
    assert_eq!(
        read("jsonpath={.metadata.generation}"),
        generation.to_string()
    );
}
