//! A cluster of any size, the same for the same numbers: the input of the benchmarks. As manifests
//! it is in [`manifests`].

pub mod manifests;

use std::{collections::BTreeMap, sync::Arc};

use policyc::{
    ast::{Action, Attachment, AuthorizationPolicy, Operation, Rule, Source},
    cluster::{Cluster, ContainerPort, Namespace, Node, Pod, PodTemplate},
};

/// How large.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub policies: usize,
    pub rules_per_policy: usize,
    pub namespaces: usize,
    pub service_accounts: usize,
    pub pods: usize,
    pub pods_per_node: usize,
}

impl Size {
    /// 10 000 policies of 3 rules, 2 000 namespaces, 10 000 service accounts, 100 000 pods.
    pub const LARGE: Self = Self {
        policies: 10_000,
        rules_per_policy: 3,
        namespaces: 2_000,
        service_accounts: 10_000,
        pods: 100_000,
        pods_per_node: 110,
    };
    /// 1 000 policies, 10 000 pods.
    pub const MEDIUM: Self = Self {
        policies: 1_000,
        rules_per_policy: 3,
        namespaces: 200,
        service_accounts: 1_000,
        pods: 10_000,
        pods_per_node: 110,
    };
}

/// Makes the cluster: service account i lives in namespace i modulo the namespaces, pods take the
/// service accounts in turn, each policy selects the pods of one service account and names
/// principals of its own; one rule in three asks for HTTP.
pub fn cluster(size: Size) -> Cluster {
    let namespace = |i: usize| format!("team-{:04}", i % size.namespaces);
    let account = |i: usize| format!("service-{:05}", i % size.service_accounts);
    let mut cluster = Cluster::default();
    for i in 0..size.namespaces {
        cluster
            .namespaces
            .insert(namespace(i), Namespace::default());
    }
    for i in 0..size.service_accounts {
        cluster.service_accounts.insert((namespace(i), account(i)));
    }
    for i in 0..size.pods {
        let pod = pod(size, i, &namespace(i), account(i));
        cluster.pods.push(Arc::new(pod));
    }
    for i in 0..size.pods.div_ceil(size.pods_per_node) {
        let (high, low) = octets(i);
        cluster.nodes.push(Node {
            name: format!("node-{i:04}"),
            addresses: vec![std::net::Ipv4Addr::new(172, 16, high, low).into()],
            pod_cidrs: vec![
                ipnet::Ipv4Net::new(std::net::Ipv4Addr::new(10 + high, low, 0, 0), 16)
                    .expect("a prefix of 16 is valid")
                    .into(),
            ],
        });
    }
    for i in 0..size.policies {
        cluster
            .policies
            .push(policy(size, i, &namespace(i), &account(i)));
    }
    cluster
        .pods
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    cluster
        .policies
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    cluster
}

fn octets(i: usize) -> (u8, u8) {
    let low = u8::try_from(i % 256).unwrap_or(0);
    let high = u8::try_from(i / 256 % 256).unwrap_or(0);
    (high, low)
}

fn pod(size: Size, i: usize, namespace: &str, account: String) -> Pod {
    let node = i / size.pods_per_node;
    let ((high, low), (_, host)) = (octets(node), octets(i % size.pods_per_node + 1));
    Pod {
        namespace: namespace.into(),
        name: format!("pod-{i:06}"),
        template: PodTemplate {
            labels: BTreeMap::from([("app".into(), account.clone())]),
            service_account: account,
            service_account_given: true,
            ports: vec![ContainerPort {
                name: "http".into(),
                port: 8080,
            }],
            ..PodTemplate::default()
        },
        ips: vec![std::net::Ipv4Addr::new(10 + high, low, 0, host).into()],
        node: Some(format!("node-{node:04}")),
        ..Pod::default()
    }
}

fn policy(size: Size, i: usize, namespace: &str, account: &str) -> AuthorizationPolicy {
    let principal = |n: usize| {
        let n = (i * 7 + n * 13) % size.service_accounts;
        format!(
            "cluster.local/ns/team-{:04}/sa/service-{n:05}",
            n % size.namespaces
        )
    };
    let rules = (0..size.rules_per_policy)
        .map(|r| Rule {
            from: Some(vec![Source {
                principals: Some(vec![principal(2 * r), principal(2 * r + 1)]),
                ..Source::default()
            }]),
            to: Some(vec![Operation {
                ports: Some(vec!["8080".into()]),
                methods: (r % 3 == 2).then(|| vec!["GET".into()]),
                paths: (r % 3 == 2).then(|| vec![format!("/api/v{r}/*")]),
                ..Operation::default()
            }]),
            when: None,
        })
        .collect();
    AuthorizationPolicy {
        document: policyc::ast::DocumentId::default(),
        object: policyc::diagnostic::Path::default(),
        namespace: namespace.into(),
        name: format!("policy-{i:05}"),
        dry_run: false,
        attachment: Attachment {
            selector: Some(BTreeMap::from([("app".into(), account.into())])),
            target_refs: Vec::new(),
        },
        action: if i % 10 == 9 {
            Action::Deny
        } else {
            Action::Allow
        },
        rules: Some(rules),
    }
}
