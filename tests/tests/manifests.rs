//! What is deployed, by a real API server: it takes the objects, and its rights are those that the agent
//! needs and no others.

use std::{fs, path::Path};

use tests::kube::cluster::Cluster;

const ACCOUNT: &str = "--as=system:serviceaccount:enforcer-system:enforcer";

fn manifest(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../enforcer/deploy")
        .join(name);
    fs::read_to_string(path).expect("it is part of the repository")
}

/// Whether the agent's account may do something, with its reason where it may not.
fn may(cluster: &Cluster, words: &str) -> bool {
    let words: Vec<&str> = words.split(' ').collect();
    let arguments = [&["auth", "can-i", ACCOUNT], &words[..]].concat();
    // "no" is an exit status of its own.
    let said = cluster.kubectl(&arguments);
    said.is_ok_and(|answer| answer.trim() == "yes")
}

#[test]
fn an_api_server_takes_the_manifests_and_their_rights_are_no_more_than_the_agent_needs() {
    let Some(cluster) = Cluster::start("kb-deploy").expect("etcd and the API server start") else {
        return;
    };
    for name in ["namespace", "rights", "config", "daemonset"] {
        let applied = cluster.apply(&manifest(&format!("base/{name}.yaml")));
        applied.unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
    let pods = ["pods", "namespaces", "services", "nodes", "serviceaccounts"];
    let policies = [
        "authorizationpolicies.security.istio.io",
        "requestauthentications.security.istio.io",
    ];
    for resource in pods.iter().chain(&policies) {
        for verb in ["get", "list", "watch"] {
            let words = format!("{verb} {resource} -A");
            assert!(
                may(&cluster, &words),
                "the agent watches {resource}: {verb}"
            );
        }
        for verb in ["create", "update", "patch", "delete"] {
            let words = format!("{verb} {resource} -A");
            assert!(!may(&cluster, &words), "the agent changes nothing: {words}");
        }
    }
    assert!(may(&cluster, "get configmaps/istio -n istio-system"));
    for words in [
        "list secrets -A",
        "get configmaps/other -n istio-system",
        "create pods --subresource=exec -A",
        "patch authorizationpolicies.security.istio.io --subresource=status -A",
    ] {
        assert!(!may(&cluster, words), "the agent does not need it: {words}");
    }
    let delivered = "watch configmaps/enforcer-bundle -n enforcer-system";
    assert!(!may(&cluster, delivered), "without the component `bundle`");
    cluster
        .apply(&manifest("components/bundle/rights.yaml"))
        .expect("the component is taken");
    assert!(may(&cluster, delivered), "with it");
    assert!(!may(
        &cluster,
        "get configmaps/enforcer-signers -n enforcer-system"
    ));
    cluster
        .apply(&manifest("components/status/rights.yaml"))
        .expect("the component is taken");
    let status = "patch authorizationpolicies.security.istio.io --subresource=status -A";
    assert!(may(&cluster, status), "with the component `status`");
    assert!(!may(
        &cluster,
        "patch authorizationpolicies.security.istio.io -A"
    ));
    let lease = "leases.coordination.k8s.io/enforcer-conditions";
    for namespace in ["enforcer-system", "default"] {
        let may = may(&cluster, &format!("update {lease} -n {namespace}"));
        assert_eq!(
            may,
            namespace == "enforcer-system",
            "{lease} in {namespace}"
        );
    }
}
