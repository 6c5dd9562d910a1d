//! The cluster's objects: what each is called, and what is in it.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tests::{kube::double::Double, topology::Topology};

pub const PODS: u32 = 100_000;
const NODES: u32 = 1_000;
const POLICIES: u32 = 10_000;
const NAMESPACES: u32 = 100;
/// Policies whose destination is on the node.
const HERE: u32 = 100;
const ACCOUNTS: u32 = 20;
/// Of a namespace, as policies select them.
const APPS: u32 = 50;

const PODS_PER_NODE: u32 = PODS / NODES;
const PROBE: &str = "probe";
/// Addresses of pods whose packets are sent.
pub const PROBES: &str = "10.104.0.0/16";

/// Everything, before the agent starts.
pub fn fill(double: &Double, net: &Topology) {
    let node = |name: String, cidr: String| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}})
    };
    double.set("nodes", node("n1".into(), "10.88.0.0/24".into()));
    double.set("nodes", node("probes".into(), PROBES.into()));
    for number in 1..NODES {
        let [a, b, c, _] = address(number * PODS_PER_NODE).octets();
        double.set(
            "nodes",
            node(format!("node-{number}"), format!("{a}.{b}.{c}.0/24")),
        );
    }
    for name in (0..NAMESPACES)
        .map(namespace)
        .chain(["default".into(), PROBE.into()])
    {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        double.set("namespaces", object);
    }
    for pod in &net.pods {
        let mut object = whole("default", &pod.name, "n1", &pod.name, &pod.name, pod.v4);
        object["metadata"]["annotations"] = json!({"enforcer/interface": pod.interface,
            "enforcer/netns": pod.netns_path().display().to_string()});
        double.set("pods", object);
    }
    for number in 0..PODS {
        double.set("pods", pod(number, 0));
    }
    for number in 0..POLICIES {
        double.set("authorizationpolicies", policy(number));
    }
    // Nobody watches yet, and nobody asks what was before.
    double.compact();
}

pub fn summary() -> String {
    format!("{NODES} nodes, {PODS} pods, {POLICIES} policies, {HERE} of them for this node")
}

/// Of how many pods the agent must know in the end: all, its own, and the last probe.
pub fn count() -> u64 {
    u64::from(PODS) + 3 + 1
}

/// A pod of another node in its n-th life: the address stays, name and identity change.
pub fn pod(number: u32, life: u32) -> Value {
    let of = namespace(number % NAMESPACES);
    let node = format!("node-{}", number / PODS_PER_NODE);
    let account = format!("sa-{}", (number + life) % ACCOUNTS);
    let app = format!("app-{}", number % APPS);
    whole(
        &of,
        &name(number, life),
        &node,
        &account,
        &app,
        address(number),
    )
}

pub fn remove_pod(double: &Double, number: u32, life: u32) -> bool {
    double.remove("pods", &namespace(number % NAMESPACES), &name(number, life))
}

/// A pod whose packets are sent, and its address.
pub fn probe_pod(number: u16) -> (Value, Ipv4Addr) {
    let [high, low] = number.to_be_bytes();
    let address = Ipv4Addr::new(10, 104, high, low);
    let name = format!("{PROBE}-{number}");
    (
        whole(PROBE, &name, "probes", PROBE, PROBE, address),
        address,
    )
}

pub fn remove_probe_pod(double: &Double, number: u16) {
    let there = double.remove("pods", PROBE, &format!("{PROBE}-{number}"));
    assert!(there, "it was made");
}

/// Refuses all probes.
pub fn probe_policy() -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": PROBE, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "backend"}}, "action": "DENY", "rules": [
            {"from": [{"source": {"principals": [principal(PROBE, PROBE)]}}]},
        ]},
    })
}

pub fn remove_probe_policy(double: &Double) {
    let there = double.remove("authorizationpolicies", "default", PROBE);
    assert!(there, "it was made");
}

/// Three service accounts of another namespace may reach two ports of an app. The first of those for
/// this node lets the probes in.
fn policy(number: u32) -> Value {
    let (namespace, app) = match number < HERE {
        true => ("default".to_owned(), "backend".to_owned()),
        false => (
            namespace(number % NAMESPACES),
            format!("app-{}", number % APPS),
        ),
    };
    let from = self::namespace((number * 7) % NAMESPACES);
    let mut principals: Vec<String> = (0..3)
        .map(|more| principal(&from, &format!("sa-{}", (number + more) % ACCOUNTS)))
        .collect();
    if number == 0 {
        principals.push(principal(PROBE, PROBE));
    }
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": format!("allow-{number}"), "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": app}}, "action": "ALLOW", "rules": [
            {"from": [{"source": {"principals": principals}}],
             "to": [{"operation": {"ports": ["8080", "9090"]}}]},
        ]},
    })
}

fn principal(namespace: &str, account: &str) -> String {
    format!("cluster.local/ns/{namespace}/sa/{account}")
}

fn namespace(number: u32) -> String {
    format!("team-{number}")
}

fn name(number: u32, life: u32) -> String {
    format!("workload-{number}-{life}")
}

/// The pods of a node are within a /24 of its own.
fn address(number: u32) -> Ipv4Addr {
    let (node, within) = (number / PODS_PER_NODE, number % PODS_PER_NODE);
    let base = u32::from(Ipv4Addr::new(10, 100, 0, 0));
    Ipv4Addr::from(base + (node << 8) + within + 1)
}

/// A pod as large as they are in clusters: some 3 KB.
fn whole(
    namespace: &str,
    name: &str,
    node: &str,
    account: &str,
    app: &str,
    address: Ipv4Addr,
) -> Value {
    let ip = address.to_string();
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "lastProbeTime": null,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let resources = json!({"limits": {"cpu": "1", "memory": "512Mi"},
        "requests": {"cpu": "100m", "memory": "128Mi"}});
    let variables: Vec<Value> = (0..8)
        .map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value-{n}-of-{app}")}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("00000000-0000-0000-0000-{name:0>12}"),
            "generateName": format!("{app}-7d9c6b5f4-"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": app, "app.kubernetes.io/name": app, "pod-template-hash": "7d9c6b5f4",
                "team": namespace, "tier": "backend", "version": "v1"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090",
                "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app,
                "uid": "00000000-0000-0000-0000-000000000001", "controller": true}],
        },
        "spec": {
            "nodeName": node, "serviceAccountName": account, "serviceAccount": account,
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
            "terminationGracePeriodSeconds": 30, "priority": 0, "enableServiceLinks": true,
            "volumes": [{"name": "token", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}],
            "containers": [{"name": "main", "image": format!("registry.example/{app}:v1"),
                "imagePullPolicy": "IfNotPresent", "env": variables, "resources": resources,
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                "terminationMessagePath": "/dev/termination-log",
                "volumeMounts": [{"name": "token", "readOnly": true,
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {
            "phase": "Running", "hostIP": "192.0.2.10", "podIP": ip, "podIPs": [{"ip": ip}],
            "startTime": "2026-01-01T00:00:00Z", "qosClass": "Burstable",
            "conditions": [condition("Initialized"), condition("Ready"), condition("ContainersReady"),
                condition("PodScheduled")],
            "containerStatuses": [{"name": "main", "ready": true, "restartCount": 0, "started": true,
                "image": format!("registry.example/{app}:v1"),
                "imageID": "registry.example/app@sha256:0000000000000000000000000000000000000000",
                "containerID": "containerd://00000000000000000000000000000000000000000000000000000000",
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "lastState": {}}],
        },
    })
}
