//! Costs are what is measured when the rule is taken away and everything is linked again.

use super::*;
use crate::{
    link::{self, NodeView, project::project},
    options::CatchAllDeny,
    read,
    resolve::resolve,
};

const WORLD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: a, labels: {app: web}}
spec:
  serviceAccountName: web
  containers: [{name: c, image: i, ports: [{name: http, containerPort: 80}, {name: tcp-x, containerPort: 81}]}]
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: a, labels: {app: one}}
spec: {serviceAccountName: one, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two, namespace: b, labels: {app: two}}
spec: {serviceAccountName: two, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.0.1.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: three, namespace: b, labels: {app: three}}
spec: {serviceAccountName: three, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.0.1.4}]}
"#;

/// Policies of the pod `web`, each with an action and rules, a line a rule.
const POLICIES: &[&[(&str, &str)]] = &[
    &[(
        "ALLOW",
        "- from: [{source: {principals: [cluster.local/ns/a/sa/one]}}]",
    )],
    // The same list twice: taking either away changes nothing.
    &[
        ("ALLOW", "- from: [{source: {namespaces: [b]}}]"),
        ("DENY", "- from: [{source: {namespaces: [b]}}]"),
    ],
    &[
        (
            "ALLOW",
            "- from: [{source: {principals: [cluster.local/ns/a/sa/one, cluster.local/ns/b/sa/two]}}]\n  - from: [{source: {principals: [cluster.local/ns/b/sa/three]}}]",
        ),
        (
            "DENY",
            "- from: [{source: {ipBlocks: [10.0.0.0/16], notIpBlocks: [10.0.1.0/24]}}]",
        ),
    ],
    // What one rule lists splits what another has split already.
    &[
        ("ALLOW", "- from: [{source: {namespaces: [\"*\"]}}]"),
        (
            "ALLOW",
            "- from: [{source: {principals: [\"*\"]}}]\n  - from: [{source: {principals: [\"*/sa/t*\", cluster.local/ns/b/sa/two]}}]",
        ),
        (
            "AUDIT",
            "- from: [{source: {serviceAccounts: [b/two], ipBlocks: [10.0.1.3]}}]",
        ),
    ],
];

fn cluster(policies: &[(&str, &str)]) -> Cluster {
    let mut text = WORLD.to_owned();
    for (number, (action, rules)) in policies.iter().enumerate() {
        text += &format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{number}, namespace: a}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  action: {action}\n  rules:\n  {rules}\n"
        );
    }
    let (loaded, found) = read::load_str("t.yaml", &text, None);
    assert!(found.is_empty(), "{found:?}");
    loaded.cluster
}

fn compiled(cluster: &Cluster) -> (Program, Linked) {
    let nowhere = |_: &crate::diagnostic::At| ("t.yaml".to_owned(), 1);
    let program = resolve(cluster, CatchAllDeny::DenyAll, &BTreeMap::new(), &nowhere);
    let program = program.expect("the policies have no errors");
    let linked = link::link(&program, cluster, &NodeView::default(), &[]).expect("it is small");
    (program, linked)
}

/// Source classes, and rows of all scopes.
fn sizes(cluster: &Cluster) -> (usize, usize) {
    let (program, linked) = compiled(cluster);
    let keys = scopes(&program, cluster, &linked).expect("the inventory is consistent");
    let rows = keys.into_iter().map(|key| {
        let scope = Scope::new(&program, key);
        project(&scope, &linked.classes).0.len()
    });
    (linked.classes.signatures.len(), rows.sum())
}

#[test]
fn a_rule_costs_what_there_would_be_less_without_it() {
    let (mut split, mut rows) = (0, 0);
    for policies in POLICIES {
        let cluster = cluster(policies);
        let (program, linked) = compiled(&cluster);
        let costs = costs(&program, &cluster, &linked).expect("it is small");
        let before = sizes(&cluster);
        for (policy, written) in cluster.policies.iter().enumerate() {
            for rule in 0..written.rules.as_ref().map_or(0, Vec::len) {
                let mut without = cluster.clone();
                without.policies[policy]
                    .rules
                    .as_mut()
                    .expect("it has some")
                    .remove(rule);
                let after = sizes(&without);
                let name = format!("{}/{}", written.namespace, written.name);
                let told = costs
                    .iter()
                    .find(|c| c.policy == name && c.rule as usize == rule);
                assert_eq!(
                    told.map_or((0, 0), |cost| (cost.classes, cost.rows)),
                    (before.0 - after.0, before.1 - after.1),
                    "{name} rule {rule} of {policies:?}"
                );
                split += before.0 - after.0;
                rows += before.1 - after.1;
            }
        }
    }
    assert!(
        split > 5 && rows > 5,
        "some rules cost something: {split}, {rows}"
    );
}

#[test]
fn rules_that_need_userspace_are_told_with_what_they_need() {
    let of_web = cluster(&[
        ("ALLOW", "- {}"),
        (
            "DENY",
            "- to: [{operation: {paths: [/admin], methods: [GET], ports: [\"80\"]}}]\n  - from: [{source: {namespaces: [b]}}]",
        ),
    ]);
    let (program, linked) = compiled(&of_web);
    let costs = costs(&program, &of_web, &linked).expect("it is small");
    let asked = costs
        .iter()
        .find(|cost| cost.asks > 0)
        .expect("a rule about paths");
    assert_eq!((asked.policy.as_str(), asked.rule), ("a/p1", 0));
    // Namespace b is refused in the kernel already, everybody else on port 80 is not.
    assert_eq!(asked.asks, linked.summary.cells_asked);
    assert!(asked.why.contains("method, path"), "{}", asked.why);
    assert_eq!(
        costs.iter().filter(|cost| cost.asks > 0).count(),
        1,
        "{costs:?}"
    );
}

#[test]
fn the_dearest_come_first_and_not_more_than_ten() {
    let rules: Vec<String> = (0..15)
        .map(|i| {
            let blocks: Vec<String> = (0..=i)
                .map(|j| format!("192.0.{i}.{}", 2 * j + 1))
                .collect();
            format!(
                "- from: [{{source: {{ipBlocks: [{}]}}}}]",
                blocks.join(", ")
            )
        })
        .collect();
    let of_web = cluster(&[("ALLOW", &rules.join("\n  "))]);
    let (program, linked) = compiled(&of_web);
    let costs = costs(&program, &of_web, &linked).expect("it is small");
    assert_eq!(costs.len(), LISTED);
    let totals: Vec<usize> = costs.iter().map(|c| c.classes + c.rows + c.asks).collect();
    assert!(totals.is_sorted_by(|a, b| a >= b), "{totals:?}");
    assert_eq!(costs[0].rule, 14, "the one with most blocks");
    assert!(costs[0].why.contains("15 x source.ip"), "{}", costs[0].why);
}
