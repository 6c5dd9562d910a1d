//! A generated cluster as manifests, as people and `kubectl` write them.

use std::fmt::Write as _;

use policyc::{
    ast::{Action, AuthorizationPolicy},
    cluster::{Cluster, Node, Pod},
};
use serde_json::{Value, json};

/// All objects of a cluster, policies last.
pub fn objects(cluster: &Cluster) -> impl Iterator<Item = Value> {
    let namespaces = cluster
        .namespaces
        .keys()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    let accounts = cluster.service_accounts.iter().map(|(namespace, name)| {
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace}})
    });
    namespaces
        .chain(accounts)
        .chain(cluster.nodes.iter().map(node))
        .chain(cluster.pods.iter().map(|it| pod(it)))
        .chain(cluster.policies.iter().map(policy))
}

/// Objects as YAML documents.
///
/// # Panics
/// Never for values that [`objects`] makes.
pub fn yaml(objects: impl Iterator<Item = Value>) -> String {
    let mut text = String::new();
    for object in objects {
        let document = serde_yaml::to_string(&object).expect("a tree of strings and numbers");
        let _ = write!(text, "---\n{document}"); // a string takes everything
    }
    text
}

/// Objects as one List in JSON, as `kubectl get -o json` prints it.
///
/// # Panics
/// Never for values that [`objects`] makes.
pub fn json(objects: impl Iterator<Item = Value>) -> String {
    let items: Vec<Value> = objects.collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    serde_json::to_string_pretty(&list).expect("a tree of strings and numbers")
}

/// A policy of the generator: it uses principals, ports, methods and paths.
pub fn policy(policy: &AuthorizationPolicy) -> Value {
    let rules = policy.rules.iter().flatten().map(|rule| {
        let from = rule
            .from
            .iter()
            .flatten()
            .map(|source| json!({"source": {"principals": source.principals}}));
        let to = rule.to.iter().flatten().map(|operation| {
            let mut fields = serde_json::Map::new();
            for (name, values) in [
                ("ports", &operation.ports),
                ("methods", &operation.methods),
                ("paths", &operation.paths),
            ] {
                if let Some(values) = values {
                    fields.insert(name.into(), json!(values));
                }
            }
            json!({ "operation": fields })
        });
        json!({"from": from.collect::<Vec<_>>(), "to": to.collect::<Vec<_>>()})
    });
    let action = match policy.action {
        Action::Deny => "DENY",
        _ => "ALLOW",
    };
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": policy.name, "namespace": policy.namespace},
        "spec": {
            "selector": {"matchLabels": policy.attachment.selector},
            "action": action,
            "rules": rules.collect::<Vec<_>>(),
        },
    })
}

fn pod(pod: &Pod) -> Value {
    let ports = pod.template.ports.iter();
    let ports: Vec<Value> = ports
        .map(|port| json!({"name": port.name, "containerPort": port.port}))
        .collect();
    let addresses: Vec<Value> = pod.ips.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "namespace": pod.namespace,
            "labels": pod.template.labels,
        },
        "spec": {
            "nodeName": pod.node,
            "serviceAccountName": pod.template.service_account,
            "containers": [{"name": "main", "image": "example/main:1", "ports": ports}],
        },
        "status": {"phase": "Running", "podIPs": addresses},
    })
}

fn node(node: &Node) -> Value {
    let addresses: Vec<Value> = node
        .addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name},
        "spec": {"podCIDRs": node.pod_cidrs},
        "status": {"addresses": addresses},
    })
}
