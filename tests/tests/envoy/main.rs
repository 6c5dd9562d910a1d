//! The conformance cases before a real Envoy. What Istio would make of the policies is written here
//! once more, naively, as Envoy's configuration; the same requests must meet the same verdicts there
//! as in our own engine.
//!
//! `cargo xtask test` installs Envoy and names the program in `ENFORCER_TEST_ENVOY`; without it nothing
//! is compared, and the test says so. `CONFORMANCE_DIR` names the folder of the cases; without it the
//! project's own corpus is sent.

mod authn;
mod cluster;
mod matchers;
mod process;
mod rbac;
mod wire;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use policyc::{
    conformance::{Case, Engine as _, Tables},
    options::CatchAllDeny,
    request::{Expected, Request, SourceRef, Wire},
};
use serde_json::Value;
use tests::ready::skipped;

use cluster::{Cluster, Pod};
use process::Envoy;

/// Of all requests that carry HTTP, at least this part must be sent, in percent.
const SENT_MIN: usize = 75;

/// Cases, or requests of them, that Envoy would be asked in another way than here.
const NOT_COMPARED: [(&str, &str); 9] = [
    (
        "jwt-output-",
        "the comparison writes no claims into headers",
    ),
    ("jwt-times", CLOCK),
    ("jwt-types-30", CLOCK),
    ("jwt-types-36", CLOCK),
    ("remote-ip-on-a-gateway", GATEWAY),
    ("remote-ip-on-a-plain-gateway", GATEWAY),
    ("remote-ip-on-an-installed-gateway", GATEWAY),
    (
        "service-declares-the-protocol",
        "the comparison reads what pods declare, not Services",
    ),
    (
        "not-methods-03",
        "Envoy's parser answers 400 to a method that it does not know",
    ),
];
const CLOCK: &str = "the token's times are the case's, and Envoy's clock is today's";
const GATEWAY: &str = "the receiver is a gateway, and the comparison sets up sidecars";

/// A request that Envoy can be asked.
struct Ask {
    id: String,
    at: usize,
    bytes: Vec<u8>,
    ours: Expected,
    expected: Option<Expected>,
}

#[derive(Default)]
struct Plan {
    listeners: Vec<(Cluster, Vec<Value>)>,
    asks: Vec<Ask>,
    unsent: BTreeMap<&'static str, usize>,
}

fn folder() -> PathBuf {
    match std::env::var_os("CONFORMANCE_DIR") {
        Some(given) => given.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../policyc/tests/corpus"),
    }
}

#[test]
fn envoy_gives_the_same_verdicts() {
    let Some(program) = std::env::var_os("ENFORCER_TEST_ENVOY").map(PathBuf::from) else {
        skipped("ENFORCER_TEST_ENVOY names no Envoy: `cargo xtask test` installs one and does");
        return;
    };
    let start = Instant::now();
    let mut plan = Plan::default();
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("the folder of the cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("requests.jsonl").exists())
        .collect();
    folders.sort();
    for folder in &folders {
        plan.add(folder);
    }
    let ports = process::ports(plan.listeners.len());
    let last = *ports.last().expect("there are cases");
    let listeners = plan.listeners.iter().zip(&ports);
    let listeners = listeners
        .map(|((cluster, filters), at)| process::listener(cluster, *at, filters.clone()))
        .collect();
    let envoy = Envoy::start(&program, listeners, last);
    let mut different = Vec::new();
    for ask in &plan.asks {
        let found = wire::ask(ports[ask.at], &ask.bytes);
        let verdict = match found {
            Ok(200) => Expected::Allow,
            Ok(400 | 401 | 403) => Expected::Deny,
            other => panic!("{}: {other:?}\n{}", ask.id, envoy.said()),
        };
        let differs =
            verdict != ask.ours || ask.expected.is_some_and(|expected| expected != verdict);
        if differs {
            different.push(format!(
                "{}: Envoy {found:?}, ours {:?}, expected {:?}",
                ask.id, ask.ours, ask.expected
            ));
        }
    }
    let unsent: usize = plan.unsent.values().sum();
    println!(
        "Envoy: {} requests of {} cases the same, {} different, {unsent} not sent, in {:.1} s",
        plan.asks.len() - different.len(),
        folders.len(),
        different.len(),
        start.elapsed().as_secs_f64()
    );
    for (why, count) in &plan.unsent {
        println!("{count} not sent: {why}");
    }
    assert!(different.is_empty(), "different:\n{}", different.join("\n"));
    let all = plan.asks.len() + unsent;
    assert!(
        plan.asks.len() * 100 >= all * SENT_MIN,
        "only {} of {all} requests that carry HTTP were sent",
        plan.asks.len()
    );
}

impl Plan {
    fn add(&mut self, folder: &Path) {
        let case = Case::read(folder).expect("a case");
        let judged = Tables.judge_all(&case);
        // Listeners of this case, by pod.
        let mut places: BTreeMap<&str, Result<usize, &'static str>> = BTreeMap::new();
        for (request, judged) in case.requests.iter().zip(judged) {
            if request.protocol != Wire::Http {
                continue;
            }
            let cluster = Cluster::read(folder);
            let added = (|| {
                let mut exceptions = NOT_COMPARED.iter();
                if let Some((_, why)) = exceptions.find(|(id, _)| request.id.starts_with(id)) {
                    return Err(*why);
                }
                if case.options.catch_all_deny != CatchAllDeny::default() {
                    return Err("the case is compiled with options of ours");
                }
                let pod = cluster.pod(&request.dst);
                let pod = pod.ok_or("the receiver is a workload without a pod")?;
                let bytes = bytes(&cluster, &pod, request)?;
                let listeners = &mut self.listeners;
                let place = places.entry(&request.dst).or_insert_with(|| {
                    let filters = filters(&cluster, &pod)?;
                    listeners.push((Cluster::read(folder), filters));
                    Ok(listeners.len() - 1)
                });
                Ok(Ask {
                    id: format!("{}/{}", case.name, request.id),
                    at: (*place)?,
                    bytes,
                    ours: judged.expect("our engine judges it").verdict,
                    expected: request.expect,
                })
            })();
            match added {
                Ok(ask) => self.asks.push(ask),
                Err(why) => *self.unsent.entry(why).or_default() += 1,
            }
        }
    }
}

/// What of a pod's policies Envoy carries out, in the order in which Istio puts it.
fn filters(cluster: &Cluster, pod: &Pod) -> Result<Vec<Value>, &'static str> {
    let mut filters: Vec<Value> = authn::filter(cluster, pod)?.into_iter().collect();
    filters.extend(rbac::filters(cluster, pod)?);
    filters.push(process::router());
    Ok(filters)
}

/// A request on the wire, or why it cannot be one.
fn bytes(cluster: &Cluster, pod: &Pod, request: &Request) -> Result<Vec<u8>, &'static str> {
    let http = request.http.as_ref().ok_or("a request without a head")?;
    if request.ext_authz.is_some() {
        return Err("the case says what an authorizer answers, and none runs");
    }
    if request.sni.is_some() {
        return Err("HTTP within TLS, which takes certificates");
    }
    if pod.on_host {
        return Err("the receiver has the node's address, and no sidecar");
    }
    let mut ports = pod.ports.iter();
    if ports.any(|(port, name)| *port == u64::from(request.port) && name.starts_with("tcp")) {
        return Err("the port is declared to carry bytes: the sidecar would not read HTTP");
    }
    let own = cluster.domains.first().map(String::as_str);
    let domain = request
        .src_trust_domain
        .as_deref()
        .or(own)
        .unwrap_or_default();
    let identity =
        |namespace: &str, account: &str| format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
    let (peer, ips) = match &request.src {
        SourceRef::Pod(name) => {
            let from = cluster.pod(name);
            let from = from.ok_or("the sender is a workload without a pod")?;
            if from.on_host {
                return Err("the sender has the node's address");
            }
            (Some(identity(&from.namespace, &from.account)), from.ips)
        }
        SourceRef::Ip(source) => (None, vec![source.ip.to_string()]),
        SourceRef::ServiceAccount(source) => {
            let (namespace, account) = source.sa.split_once('/').ok_or("no account")?;
            (Some(identity(namespace, account)), pod.ips.clone())
        }
    };
    let from = match request.src_ip {
        Some(ip) => Some(ip.to_string()),
        None => ips.into_iter().next(),
    };
    let from = from.ok_or("the sender has no address")?;
    let mut own = pod.ips.iter();
    let to = own.find(|ip| ip.contains(':') == from.contains(':'));
    let to = to.ok_or("the two have addresses of different families")?;
    let (target, token) = authn::with_token(http, cluster, pod)?;
    let line = wire::proxy_line(&from, to, request.port);
    let head = wire::head(http, &target, &token, peer.as_deref())?;
    Ok(format!("{line}{head}").into_bytes())
}
