//! Random changes of a small cluster, compared, and every request of a small universe judged by the
//! oracle on both sides: each that is judged differently must be told, and each that is told as
//! certain must be judged differently.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use policyc::{
    ast::AuthorizationPolicy,
    cluster::{Cluster, PathNormalization},
    diff::{self, Change, Diff, Difference, Kind, report::Protocol},
    ir::{Pattern, Program},
    l7::normalize::normalize,
    link::{Identity, Source, classes::Classes},
    options::{CatchAllDeny, Options},
    oracle,
    request::{Authorizer, Cause, Expected, Judgement, Request, SourceRef, Wire},
    resolve,
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::{requests, world};

/// 2026-01-01
const NOW: u64 = 1_767_225_600;

pub fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(60)
}

fn program(cluster: &Cluster, catch_all_deny: CatchAllDeny) -> Program {
    resolve::resolve(cluster, catch_all_deny, &BTreeMap::new(), &|_| {
        (String::new(), 1)
    })
    .expect("the generator makes valid policies only")
}

/// What becomes of the cluster besides its policies.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Nothing,
    Account,
    Label,
    Ports,
    Normalization,
    Domain,
    Tokens,
    NoTokens,
    FailOpen,
    Address,
    Gateway,
    CatchAll,
}

fn turn() -> impl Strategy<Value = Turn> {
    use Turn::*;
    prop_oneof![
        12 => Just(Nothing),
        8 => select(vec![
            Account, Label, Ports, Normalization, Domain, Tokens, NoTokens, FailOpen, Address,
            Gateway, CatchAll,
        ]),
    ]
}

/// How policies change: the added ones join, and one that was there goes.
fn change() -> impl Strategy<Value = (Vec<AuthorizationPolicy>, Option<usize>)> {
    (vec(world::policy(), 0..3), proptest::option::of(0..4usize))
}

fn turned(cluster: &Cluster, turn: Turn) -> Cluster {
    let mut cluster = cluster.clone();
    let pod = Arc::make_mut(&mut cluster.pods[0]);
    match turn {
        Turn::Nothing | Turn::CatchAll => {}
        Turn::Account => pod.template.service_account = "sa-z".into(),
        Turn::Label => {
            pod.template.labels.insert("app".into(), "z".into());
        }
        Turn::Ports => {
            for port in &mut pod.template.ports {
                port.name = if port.port == 80 { "tcp" } else { "http" }.into();
            }
        }
        Turn::Address => {
            let other: IpAddr = "192.0.2.200".parse().expect("an address");
            pod.ips[0] = other;
        }
        Turn::Gateway => {
            pod.template
                .labels
                .insert("istio".into(), "ingressgateway".into());
            cluster.mesh.trusted_proxies = 2;
        }
        Turn::Normalization => cluster.mesh.path_normalization = PathNormalization::None,
        Turn::Domain => cluster.mesh.trust_domain = "old".into(),
        Turn::Tokens => {
            let rules = &mut cluster.request_authentications[0].jwt_rules;
            rules[0].audiences = vec!["one".into()];
        }
        Turn::NoTokens => {
            cluster.request_authentications.remove(0);
        }
        Turn::FailOpen => {
            for provider in &mut cluster.mesh.extension_providers {
                if let policyc::cluster::ProviderKind::ExtAuthzGrpc(settings) = &mut provider.kind {
                    settings.fail_open = true;
                }
            }
        }
    }
    cluster
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn nothing_is_missed_and_nothing_invented(
        policies in vec(world::policy(), 0..4),
        (added, gone) in change(),
        turn in turn(),
        requests in vec(requests::request(), 120),
    ) {
        let old = world::cluster(policies);
        let mut new = turned(&old, turn);
        if let Some(gone) = gone && gone < new.policies.len() {
            new.policies.remove(gone);
        }
        for (number, mut policy) in added.into_iter().enumerate() {
            policy.name = format!("added{number}");
            new.policies.push(policy);
        }
        new.policies.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let catch_all = |turned| match (turn, turned) {
            (Turn::CatchAll, true) => CatchAllDeny::DefaultDeny,
            _ => CatchAllDeny::DenyAll,
        };
        check([&old, &new], [catch_all(false), catch_all(true)], &requests)?;
    }

    #[test]
    fn other_names_and_another_order_are_no_difference(
        policies in vec(world::policy(), 0..5),
    ) {
        let old = world::cluster(policies);
        let mut new = old.clone();
        for policy in &mut new.policies {
            policy.name = format!("z-{}", policy.name);
            if let Some(rules) = &mut policy.rules {
                rules.reverse();
                for rule in rules {
                    for list in [&mut rule.from].into_iter().flatten() {
                        list.reverse();
                    }
                }
            }
        }
        let diff = compared([&old, &new], [CatchAllDeny::DenyAll; 2]);
        prop_assert!(diff.is_empty(), "{}", diff::text(&diff));
    }
}

fn compared(clusters: [&Cluster; 2], catch_all: [CatchAllDeny; 2]) -> Diff {
    let programs = [0, 1].map(|i| program(clusters[i], catch_all[i]));
    let side = |i: usize, name| diff::Side {
        name,
        program: &programs[i],
        cluster: clusters[i],
    };
    diff::diff(&side(0, "old"), &side(1, "new"), NOW).expect("a small world can be compared")
}

fn check(
    clusters: [&Cluster; 2],
    catch_all: [CatchAllDeny; 2],
    requests: &[Request],
) -> Result<(), TestCaseError> {
    let diff = compared(clusters, catch_all);
    let options = catch_all.map(|catch_all_deny| Options {
        now: NOW,
        catch_all_deny,
        ..Options::default()
    });
    let judge = |side: usize, request: &Request| {
        oracle::evaluate(clusters[side], request, &options[side]).ok()
    };
    for request in requests {
        missed(&diff, clusters, request, &judge)?;
    }
    for difference in &diff.differences {
        prop_assert_eq!(
            difference.certain,
            difference.example.is_some() || difference.kind == Kind::Authentication,
            "what is certain is shown: {:?}",
            difference
        );
        let Some(example) = &difference.example else {
            continue;
        };
        let (Some(old), Some(new)) = (judge(0, example), judge(1, example)) else {
            return Err(TestCaseError::fail(format!("not judged: {example:?}")));
        };
        let words = |j: &Judgement| said(difference.kind, j);
        prop_assert!(
            words(&old) != words(&new) || difference.change == Change::Changes,
            "invented: {:?}\n{:?}\n{:?}",
            difference,
            old,
            new
        );
    }
    Ok(())
}

fn said(kind: Kind, judged: &Judgement) -> bool {
    let dry_run = |action: &str| judged.dry_run.iter().any(|hit| hit.action == action);
    match kind {
        Kind::Reach => judged.verdict == Expected::Allow,
        Kind::Custom => judged.reason == Cause::CustomDenied,
        Kind::Audit => !judged.audit.is_empty(),
        Kind::DryRunAllow => dry_run("ALLOW"),
        Kind::DryRunDeny => dry_run("DENY"),
        Kind::Authentication => false,
    }
}

/// Whatever the oracle judges differently is told.
fn missed(
    diff: &Diff,
    clusters: [&Cluster; 2],
    request: &Request,
    judge: &dyn Fn(usize, &Request) -> Option<Judgement>,
) -> Result<(), TestCaseError> {
    let answer = |authorizer| Request {
        ext_authz: Some(
            ["grpc", "web"]
                .into_iter()
                .map(|provider| (provider.to_owned(), authorizer))
                .collect(),
        ),
        ..request.clone()
    };
    for (kind, request) in [
        (Kind::Reach, answer(Authorizer::Allow)),
        (Kind::Custom, answer(Authorizer::Deny)),
        (Kind::Audit, answer(Authorizer::Allow)),
        (Kind::DryRunAllow, answer(Authorizer::Allow)),
        (Kind::DryRunDeny, answer(Authorizer::Allow)),
    ] {
        let (Some(old), Some(new)) = (judge(0, &request), judge(1, &request)) else {
            continue;
        };
        if said(kind, &old) == said(kind, &new) {
            continue;
        }
        let told = |d: &&Difference| {
            let kinds = d.kind == kind
                || d.kind == Kind::Authentication && has_token(&request)
                || d.kind == Kind::Reach && d.change == Change::Changes;
            let direction = match d.change {
                Change::Gains => said(kind, &new),
                Change::Loses => !said(kind, &new),
                Change::Changes => true,
            };
            kinds && direction && covers(d, clusters, &request)
        };
        // A malformed request is read by nobody: what is recorded of it is not compared.
        let malformed = [&old, &new].iter().any(|j| j.reason == Cause::BadRequest)
            || is_malformed(&request, clusters);
        if malformed && kind != Kind::Reach {
            continue;
        }
        prop_assert!(
            diff.differences.iter().any(|d| told(&d)),
            "missed {kind:?}: {}\n{old:?}\n{new:?}\n{}",
            serde_json::to_string(&request).expect("a request is JSON"),
            diff::text(diff)
        );
    }
    Ok(())
}

pub fn is_malformed(request: &Request, clusters: [&Cluster; 2]) -> bool {
    request.http.as_ref().is_some_and(|http| {
        clusters
            .iter()
            .any(|c| normalize(&http.path, c.mesh.path_normalization).is_err())
    })
}

pub fn has_token(request: &Request) -> bool {
    request.http.as_ref().is_some_and(|http| {
        http.claims.is_some()
            || http.path.contains("access_token")
            || http.headers.keys().any(|k| k.eq_ignore_ascii_case("authorization"))
            // What only a token may set is taken away.
            || http.headers.keys().any(|k| k.eq_ignore_ascii_case("x-user"))
    })
}

pub fn covers(d: &Difference, clusters: [&Cluster; 2], request: &Request) -> bool {
    let protocol = match d.protocol {
        Protocol::Any => true,
        Protocol::Http => request.protocol == Wire::Http,
        Protocol::Tcp => request.protocol != Wire::Http,
    };
    d.destinations.contains(&request.dst)
        && d.ports.contain(request.port)
        && protocol
        && (sources(d, clusters, request))
        && operation(d, clusters, request)
}

fn sources(d: &Difference, clusters: [&Cluster; 2], request: &Request) -> bool {
    let selector = &d.sources.selector;
    if let SourceRef::Pod(name) = &request.src
        && selector.names.contains(name)
    {
        return true;
    }
    let mesh = &clusters[1].mesh;
    let identity = |namespace: &str, account: &str| Identity {
        trust_domain: request
            .src_trust_domain
            .clone()
            .unwrap_or_else(|| mesh.trust_domain.clone()),
        namespace: namespace.into(),
        service_account: account.into(),
    };
    let dst = clusters[1]
        .pods
        .iter()
        .find(|p| format!("{}/{}", p.namespace, p.name) == request.dst)
        .expect("all pods stay");
    let source = match &request.src {
        SourceRef::Pod(name) => {
            let pod = clusters[1]
                .pods
                .iter()
                .find(|p| format!("{}/{}", p.namespace, p.name) == *name)
                .expect("all pods stay");
            let own = |ip: &&IpAddr| dst.ips.iter().any(|d| d.is_ipv6() == ip.is_ipv6());
            Source {
                identity: Some(identity(&pod.namespace, &pod.template.service_account)),
                address: request.src_ip.or(pod.ips.iter().find(own).copied()),
            }
        }
        SourceRef::ServiceAccount(account) => {
            let (namespace, name) = account.sa.split_once('/').expect("a pair");
            Source {
                identity: Some(identity(namespace, name)),
                // A verdict that is found without the address is that of every address, and nobody
                // comes from none.
                address: request.src_ip.or(Some([192, 0, 2, 1].into())),
            }
        }
        SourceRef::Ip(ip) => Source {
            identity: None,
            address: Some(ip.ip),
        },
    };
    let program = Program {
        atoms: selector.atoms.clone(),
        ..Program::default()
    };
    let mut classes = Classes::new(&program).expect("few blocks");
    let class = classes.class(&source).expect("few classes");
    let closed = classes.close();
    let true_: Vec<usize> = closed.signatures[usize::from(class)]
        .iter()
        .map(|id| id.index())
        .collect();
    selector.sets.contains(&(source.identity.is_some(), true_))
}

/// As far as method and host tell: one alternative is the request's.
fn operation(d: &Difference, clusters: [&Cluster; 2], request: &Request) -> bool {
    let Some(http) = &request.http else {
        return true;
    };
    if clusters.iter().all(|c| is_malformed(request, [c, c])) {
        return d.operation.malformed || d.protocol == Protocol::Any;
    }
    if d.operation.malformed {
        return false;
    }
    if d.operation.more || d.operation.alternatives.is_empty() {
        return true;
    }
    let matches = |field: &str, value: &str| -> Option<bool> {
        if value.starts_with("such as ") {
            return None;
        }
        let pattern = Pattern::parse(value);
        let any = |text: &str| pattern == Pattern::Present || pattern.matches(text);
        match field {
            "method" => Some(any(&http.method)),
            "path" if !value.contains(['{', ' ']) => {
                let path = normalize(&http.path, clusters[1].mesh.path_normalization).ok()?;
                Some(pattern.matches(&path.path))
            }
            _ => None,
        }
    };
    let holds = |field: &diff::report::FieldWords| {
        let is: Vec<Option<bool>> = field.is.iter().map(|v| matches(&field.field, v)).collect();
        let not: Vec<Option<bool>> = field
            .is_not
            .iter()
            .map(|v| matches(&field.field, v))
            .collect();
        let is = is.is_empty() || is.iter().any(|m| m.unwrap_or(true));
        is && !not.iter().any(|m| m.unwrap_or(false))
    };
    d.operation
        .alternatives
        .iter()
        .any(|fields| fields.iter().all(holds))
}
