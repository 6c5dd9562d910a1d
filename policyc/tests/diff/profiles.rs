//! `compare`: each difference that is known between Istio's two data planes, and random policies
//! under two oracles.

use std::{collections::BTreeMap, net::IpAddr};

use policyc::{
    cluster::Cluster,
    compare::{Profile, compare},
    diff::{self, Change, Diff, Kind},
    options::{CatchAllDeny, Options},
    oracle, read,
    request::{Authorizer, Expected, Request, SourceRef},
};
use proptest::{collection::vec, prelude::*};

use super::{
    ambient::{self, Connection},
    properties::{covers, has_token, is_malformed},
    requests, world,
};

const NOW: u64 = 1_767_225_600;

fn compared(cluster: &Cluster, profiles: [Profile; 2]) -> Diff {
    compare(
        cluster,
        profiles,
        CatchAllDeny::DenyAll,
        &BTreeMap::new(),
        &|_| (String::new(), 1),
        NOW,
    )
    .expect("a small world can be compared")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(super::properties::cases()))]

    #[test]
    fn sidecar_and_ambient_differ_where_their_oracles_do(
        policies in vec(world::policy(), 1..4),
        requests in vec(requests::request(), 120),
    ) {
        let cluster = world::cluster(policies);
        let diff = compared(&cluster, [Profile::Sidecar, Profile::Ambient]);
        let judge = |request: &Request| -> Option<[bool; 2]> {
            let request = Request {
                ext_authz: Some(["grpc", "web"].into_iter().map(|p| (p.to_owned(), Authorizer::Allow)).collect()),
                ..request.clone()
            };
            let options = Options { now: NOW, ..Options::default() };
            let sidecar = oracle::evaluate(&cluster, &request, &options).ok()?;
            let connection = connection(&cluster, &request)?;
            Some([sidecar.verdict == Expected::Allow, ambient::allows(&cluster, &connection)])
        };
        for request in &requests {
            let Some([sidecar, ambient]) = judge(request) else { continue };
            if sidecar == ambient || is_malformed(request, [&cluster; 2]) {
                continue;
            }
            let change = if ambient { Change::Gains } else { Change::Loses };
            let told = diff.differences.iter().any(|d| {
                let kind = d.kind == Kind::Reach && (d.change == change || !d.certain)
                    || d.kind == Kind::Authentication && has_token(request);
                kind && covers(d, [&cluster; 2], request)
            });
            prop_assert!(
                told,
                "missed: sidecar {sidecar}, ambient {ambient}: {}\n{}",
                serde_json::to_string(request).expect("JSON"),
                diff::text(&diff)
            );
        }
        for d in diff.differences.iter().filter(|d| d.kind == Kind::Reach) {
            let Some(example) = &d.example else { continue };
            // An example without an address is of any.
            let Some([sidecar, ambient]) = judge(example) else { continue };
            prop_assert_ne!(sidecar, ambient, "invented: {:?}", d);
        }
    }
}

fn connection<'a>(cluster: &'a Cluster, request: &Request) -> Option<Connection<'a>> {
    let pod = |name: &str| {
        cluster
            .pods
            .iter()
            .find(|p| format!("{}/{}", p.namespace, p.name) == *name)
    };
    let to = pod(&request.dst)?;
    let domain = request
        .src_trust_domain
        .clone()
        .unwrap_or_else(|| cluster.mesh.trust_domain.clone());
    let identity = |namespace: &str, account: &str| {
        Some([domain.clone(), namespace.to_owned(), account.to_owned()])
    };
    let other = "203.0.113.9".parse().expect("an address");
    let (identity, source): (_, IpAddr) = match &request.src {
        SourceRef::Pod(name) => {
            let from = pod(name)?;
            (
                identity(&from.namespace, &from.template.service_account),
                request.src_ip.or(from.ips.first().copied())?,
            )
        }
        SourceRef::ServiceAccount(account) => {
            let (namespace, name) = account.sa.split_once('/')?;
            (identity(namespace, name), request.src_ip.unwrap_or(other))
        }
        SourceRef::Ip(ip) => (None, ip.ip),
    };
    let destination = to.ips.iter().find(|ip| ip.is_ipv6() == source.is_ipv6());
    Some(Connection {
        identity,
        source,
        to,
        destination: *destination?,
        port: request.port,
    })
}

const WORLD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: a, labels: {app: web}}
spec:
  serviceAccountName: web
  containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}, {name: tcp-x, containerPort: 9000}]}]
status: {podIPs: [{ip: 10.1.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: prod, labels: {app: client}}
spec:
  serviceAccountName: client
  containers: [{name: c, image: i}]
status: {podIPs: [{ip: 10.1.0.2}]}
"#;

fn told(spec: &str, mesh: Option<&str>, profiles: [Profile; 2]) -> String {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let policy = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: p, namespace: a}}\nspec:\n{indented}---{WORLD}"
    );
    let (loaded, found) = read::load_str("t.yaml", &policy, mesh);
    let errors: Vec<_> = found
        .iter()
        .filter(|d| d.severity == policyc::diagnostic::Severity::Error)
        .collect();
    assert!(errors.is_empty(), "{errors:?}\n{policy}");
    diff::text(&compared(&loaded.cluster, profiles))
}

const BOTH: [Profile; 2] = [Profile::Sidecar, Profile::Ambient];

/// Each line of what is told must hold one of these.
fn says(spec: &str, mesh: Option<&str>, profiles: [Profile; 2], wanted: &[&str]) {
    let told = told(spec, mesh, profiles);
    for words in wanted {
        assert!(
            told.contains(words),
            "`{words}` is not told of\n{spec}\n{told}"
        );
    }
}

#[test]
fn what_is_the_same_is_not_told() {
    for spec in [
        "{}",
        "rules: [{}]",
        "action: DENY\nrules: [{}]",
        "rules: [{from: [{source: {namespaces: [prod, 'x*', '*y']}}], to: [{operation: {ports: ['8080']}}]}]",
        "rules: [{from: [{source: {serviceAccounts: [prod/client]}}]}]",
        "rules: [{from: [{source: {ipBlocks: ['10.0.0.0/8'], notPrincipals: ['*']}}]}]",
        "action: DENY\nrules: [{when: [{key: destination.port, notValues: ['8080']}]}]",
        "rules: [{when: [{key: source.principal, values: ['cluster.local/ns/prod/*']}]}]",
    ] {
        assert_eq!(told(spec, None, BOTH), "no difference\n", "{spec}");
    }
}

#[test]
fn an_allow_rule_with_a_request_field_is_dropped() {
    says(
        "rules: [{to: [{operation: {methods: [GET]}}]}]",
        None,
        BOTH,
        &["GET on any path let through by sidecar alone: sidecar a/p rule 0"],
    );
    for spec in [
        "rules: [{from: [{source: {remoteIpBlocks: ['10.0.0.0/8']}}]}]",
        "rules: [{when: [{key: remote.ip, values: ['10.0.0.0/8']}]}]",
        "rules: [{when: [{key: connection.sni, values: [x.example]}]}]",
        "rules: [{when: [{key: source.serviceAccount, values: [prod/client]}]}]",
        "rules: [{when: [{key: source.trustDomain, values: [cluster.local]}]}]",
    ] {
        says(
            spec,
            None,
            BOTH,
            &["let through by sidecar alone: sidecar a/p rule 0"],
        );
    }
}

#[test]
fn a_deny_rule_whose_clause_is_emptied_does_nothing() {
    for spec in [
        "action: DENY\nrules: [{to: [{operation: {methods: [GET]}}]}]",
        "action: DENY\nrules: [{from: [{source: {principals: ['cluster.local/ns/prod/sa/client']}}], to: [{operation: {methods: [GET]}}]}]",
        "action: DENY\nrules: [{to: [{operation: {ports: ['9000']}}], when: [{key: 'request.headers[x]', values: ['1']}]}]",
    ] {
        says(
            spec,
            None,
            BOTH,
            &["let through by ambient alone: sidecar a/p rule 0"],
        );
    }
}

#[test]
fn a_deny_rule_keeps_what_is_left_of_a_clause() {
    // The whole port is denied, as the sidecar does on a TCP port.
    let spec =
        "action: DENY\nrules: [{to: [{operation: {methods: [POST], ports: ['8080', '9000']}}]}]";
    let told = told(spec, None, BOTH);
    assert!(!told.contains("port 9000"), "{told}");
    assert!(
        told.contains("any method but POST on any path let through by sidecar alone"),
        "{told}"
    );
    // The siblings of an emptied item still work.
    says(
        "action: DENY\nrules: [{to: [{operation: {methods: [GET]}}, {operation: {ports: ['9000']}}]}]",
        None,
        BOTH,
        &["GET on any path let through by ambient alone"],
    );
    says(
        "action: DENY\nrules: [{from: [{source: {principals: ['cluster.local/ns/prod/sa/client'], requestPrincipals: ['*']}}]}]",
        None,
        BOTH,
        &["prod/sa/client: every HTTP request let through by sidecar alone"],
    );
}

#[test]
fn audit_custom_and_dry_runs_are_not_there() {
    says(
        "action: AUDIT\nrules: [{to: [{operation: {ports: ['9000']}}]}]",
        None,
        BOTH,
        &["everything recorded by sidecar alone: sidecar a/p rule 0"],
    );
    let mesh = "extensionProviders: [{name: authz, envoyExtAuthzGrpc: {service: x.a.svc.cluster.local, port: 9000}}]";
    says(
        "action: CUSTOM\nprovider: {name: authz}\nrules: [{to: [{operation: {ports: ['9000']}}]}]",
        Some(mesh),
        BOTH,
        &["everything put to an authorizer by sidecar alone: sidecar a/p rule 0"],
    );
}

#[test]
fn trust_domains_are_dropped_without_a_word() {
    says(
        "rules: [{from: [{source: {trustDomains: [cluster.local]}}]}]",
        None,
        BOTH,
        &["let through by sidecar alone: sidecar a/p rule 0"],
    );
    // Wider: the namespace alone is left.
    says(
        "rules: [{from: [{source: {trustDomains: [other], namespaces: [prod]}}]}]",
        None,
        BOTH,
        &[
            "everything let through by ambient alone",
            "ambient a/p rule 0",
        ],
    );
}

#[test]
fn aliases_are_not_expanded() {
    says(
        "rules: [{from: [{source: {principals: ['cluster.local/ns/prod/sa/client']}}]}]",
        Some("trustDomain: td1"),
        BOTH,
        &[
            "prod/sa/client: everything let through by sidecar alone",
            "cluster.local/ns/prod/sa/client: everything let through by ambient alone",
        ],
    );
}

#[test]
fn a_star_within_a_namespace_is_a_star() {
    says(
        "rules: [{from: [{source: {namespaces: ['p*d']}}]}]",
        None,
        BOTH,
        &["namespace p*d: everything let through by sidecar alone"],
    );
}

#[test]
fn the_sidecar_lets_a_star_eat_the_service_account() {
    let spec = "rules: [{from: [{source: {namespaces: ['*sa']}}]}]";
    says(
        spec,
        None,
        BOTH,
        &["everything let through by sidecar alone"],
    );
    says(
        spec,
        None,
        [Profile::Enforcer, Profile::Sidecar],
        &["everything let through by sidecar alone"],
    );
    assert_eq!(
        told(spec, None, [Profile::Enforcer, Profile::Ambient]),
        "no difference\n"
    );
}
