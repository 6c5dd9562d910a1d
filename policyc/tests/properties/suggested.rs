//! A suggestion denies nothing that was seen, and admits nothing beyond what its generalisation says.

use std::collections::BTreeMap;

use policyc::{
    ast::AuthorizationPolicy,
    cluster::{Cluster, Protocol},
    diagnostic::Severity,
    l7::normalize::normalize,
    lint::lint,
    options::CatchAllDeny,
    read,
    replay::{Recorded, Recording, Verdict, flow::Said, replay},
    request::{Expected, Request, SourceRef, Wire},
    suggest::{Paths, Wanted, suggest},
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::{NOW, cases, options, program, replayed::line, requests, tables, world};

/// The small world without policies, and with pods alone: no tokens are looked for.
fn inventory() -> Cluster {
    let mut cluster = world::cluster(Vec::new());
    cluster.request_authentications.clear();
    // Other names of the trust domain are admitted with it.
    cluster.mesh.trust_domain_aliases.clear();
    cluster
}

/// Who asks, as a policy of the mesh names it; an address where nobody knows.
fn identity(cluster: &Cluster, request: &Request) -> String {
    let account = match &request.src {
        SourceRef::Ip(source) => return source.ip.to_string(),
        SourceRef::ServiceAccount(account) => {
            let (namespace, name) = account.sa.split_once('/').expect("a qualified name");
            format!("ns/{namespace}/sa/{name}")
        }
        SourceRef::Pod(name) => {
            let pods = cluster.pods.iter();
            let mut pods = pods.filter(|pod| format!("{}/{}", pod.namespace, pod.name) == *name);
            let pod = pods.next().expect("a pod of the small world");
            format!("ns/{}/sa/{}", pod.namespace, pod.template.service_account)
        }
    };
    let domain = request.src_trust_domain.as_deref();
    format!("{}/{account}", domain.unwrap_or(&cluster.mesh.trust_domain))
}

/// Whether HTTP is read on the connection.
fn is_http(cluster: &Cluster, request: &Request) -> bool {
    let pods = cluster.pods.iter();
    let mut pods = pods.filter(|pod| format!("{}/{}", pod.namespace, pod.name) == request.dst);
    let pod = pods.next().expect("a pod of the small world");
    let declared = pod.template.protocol(&pod.namespace, request.port, &[]);
    request.protocol == Wire::Http && declared != Protocol::Tcp
}

/// Whether what was seen says that the request is admitted: each pod is a workload of its own here.
fn told(cluster: &Cluster, wanted: Wanted, seen: &Recorded<'_>, request: &Request) -> bool {
    let Some((Verdict::Allow, said)) = seen.verdict else {
        return false;
    };
    let same = identity(cluster, seen.request) == identity(cluster, request)
        && seen.request.dst == request.dst
        && seen.request.port == request.port;
    let foreign = seen.request.src_trust_domain.is_some();
    if !same || foreign || matches!(seen.request.src, SourceRef::Ip(_)) && !wanted.addresses {
        return false;
    }
    let whole = said == Said::Nothing || !is_http(cluster, seen.request);
    if whole {
        return true;
    }
    let (Some(old), Some(new)) = (&seen.request.http, &request.http) else {
        return false;
    };
    let mode = cluster.mesh.path_normalization;
    let path = |path: &str| {
        normalize(path, mode)
            .map(|target| target.path.into_owned())
            .ok()
    };
    let paths = match wanted.paths {
        Paths::Any => true,
        Paths::Exact | Paths::Ids => {
            path(&old.path).is_some() && path(&old.path) == path(&new.path)
        }
    };
    is_http(cluster, request) && old.method == new.method && paths
}

fn holds(
    old: Vec<AuthorizationPolicy>,
    flows: &[Request],
    others: &[Request],
    wanted: Wanted,
) -> Result<(u64, usize, usize), TestCaseError> {
    let cluster = inventory();
    let mut before = world::cluster(old);
    before.request_authentications.clear();
    let mut recording = Recording::default();
    let judged = tables(&before, &options(CatchAllDeny::DenyAll), flows);
    for (request, judged) in flows.iter().zip(judged) {
        if let Ok(judged) = judged {
            recording.add(line(request, &judged)).expect("few flows");
        }
    }
    let suggestion = suggest(&cluster, &recording, wanted).map_err(TestCaseError::fail)?;
    let count = |wanted: fn(&Recorded<'_>) -> bool| -> u64 {
        recording
            .flows()
            .filter(wanted)
            .map(|flow| flow.count)
            .sum()
    };
    let left: u64 = suggestion.left_out.values().sum();
    prop_assert_eq!(
        suggestion.admitted + left,
        count(|_| true),
        "nothing is lost"
    );

    // As `check` reads it, beside the inventory.
    let (mut loaded, found) = read::load_str("s.yaml", &suggestion.yaml, None);
    prop_assert!(
        suggestion.yaml.is_empty() || found.is_empty(),
        "{:?}",
        found
    );
    loaded.cluster = Cluster {
        policies: loaded.cluster.policies,
        ..cluster.clone()
    };
    let lints = lint(&loaded, CatchAllDeny::DenyAll).expect("it is valid");
    let warnings: Vec<_> = lints
        .iter()
        .filter(|d| d.severity != Severity::Note)
        .collect();
    prop_assert!(warnings.is_empty(), "{:?}\n{}", warnings, suggestion.yaml);

    let new = &loaded.cluster;
    let replayed = replay(&program(new), new, &recording, NOW);
    let denied: u64 = replayed.narrowed.iter().map(|changed| changed.count).sum();
    prop_assert!(
        denied + suggestion.admitted
            <= count(|flow| { matches!(flow.verdict, Some((Verdict::Allow, _))) }),
        "seen and admitted is not denied: {:?}\n{}",
        replayed.narrowed,
        suggestion.yaml
    );

    // Requests to a workload with a suggestion are admitted if, and only if, something seen says so.
    let reached: BTreeMap<String, ()> = loaded
        .cluster
        .policies
        .iter()
        .flat_map(|policy| {
            let labels = policy.attachment.selector.clone().unwrap_or_default();
            let pods = cluster.pods.iter().filter(move |pod| {
                pod.namespace == policy.namespace
                    && labels
                        .iter()
                        .all(|(k, v)| pod.template.labels.get(k) == Some(v))
            });
            pods.map(|pod| (format!("{}/{}", pod.namespace, pod.name), ()))
        })
        .collect();
    let (mut yes, mut no) = (0, 0);
    for (request, judged) in others
        .iter()
        .zip(tables(new, &options(CatchAllDeny::DenyAll), others))
    {
        let Ok(judged) = judged else { continue };
        if !reached.contains_key(&request.dst) {
            continue;
        }
        let told = recording
            .flows()
            .any(|seen| told(&cluster, wanted, &seen, request));
        if judged.verdict == Expected::Allow {
            yes += 1;
            prop_assert!(told, "nobody has seen {:?}\n{}", request, suggestion.yaml);
        } else {
            no += 1;
        }
    }
    Ok((suggestion.admitted, yes, no))
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let paths = select(vec![Paths::Exact, Paths::Any]);
    (paths, any::<bool>()).prop_map(|(paths, addresses)| Wanted { paths, addresses })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn a_suggestion_admits_what_was_seen_and_no_more(
        old in vec(world::policy(), 0..2),
        flows in vec(requests::request(), 1..16),
        others in vec(requests::request(), 1..16),
        wanted in wanted(),
    ) {
        let others = [others, flows.clone()].concat();
        holds(old, &flows, &others, wanted)?;
    }
}

/// A suggestion of nothing would satisfy the property.
#[test]
fn suggestions_admit_much_and_refuse_much() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut sums = (0, 0, 0);
    for _ in 0..40 {
        let mut draw = || {
            let drawn = vec(requests::request(), 12).new_tree(&mut runner);
            drawn.expect("it draws").current()
        };
        let (flows, others) = (draw(), draw());
        let others = [others, flows.clone()].concat();
        let found = holds(Vec::new(), &flows, &others, Wanted::default());
        let (admitted, yes, no) = found.expect("the property holds");
        sums = (sums.0 + admitted, sums.1 + yes, sums.2 + no);
    }
    assert!(sums.0 > 100 && sums.1 > 100 && sums.2 > 100, "{sums:?}");
}
