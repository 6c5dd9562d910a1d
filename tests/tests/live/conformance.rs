//! The conformance cases as real requests: through the kernel's steering and the proxy to a real
//! server, between namespaces. What is no matter of packets between addresses cannot be sent, and is
//! counted with its reason; everything else must meet the verdict that its case expects.
//!
//! `CONFORMANCE_DIR` names the folder of the cases; without it a part of the project's own corpus is
//! sent.

mod manifests;
mod send;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use policyc::{
    cluster::Cluster,
    conformance::Case,
    request::{Expected, Request, SourceRef, Wire},
};
use tests::{live::agent::Home, live::possible, netns::Netns, topology::Topology};

use super::ENFORCER;
use manifests::Manifests;
use send::{Sent, Served};

/// Pods that receive, at most, of one case.
const PODS: usize = 8;
/// Cases at the same time: each has a node of its own.
const NODES: usize = 2;
/// Of all cases' requests that carry HTTP, at least this part must be expressible, in percent.
const SENT_MIN: usize = 80;

/// Of the project's own cases each of so many is sent: a node is made for each.
const OWN_STEP: usize = 4;

/// What came of all cases.
#[derive(Default)]
struct Report {
    sent: usize,
    sent_http: usize,
    wrong: Vec<String>,
    unsent: BTreeMap<&'static str, usize>,
    unsent_http: usize,
}

fn folder() -> PathBuf {
    match std::env::var_os("CONFORMANCE_DIR") {
        Some(given) => given.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../policyc/tests/corpus"),
    }
}

#[test]
fn cases_meet_their_verdicts_as_real_requests() {
    if !possible() {
        return;
    }
    let start = Instant::now();
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("the folder of the cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("requests.jsonl").exists())
        .collect();
    folders.sort();
    if std::env::var_os("CONFORMANCE_DIR").is_none() {
        folders = folders.into_iter().step_by(OWN_STEP).collect();
    }
    assert!(!folders.is_empty(), "there are cases");
    let next = AtomicUsize::new(0);
    let report = Mutex::new(Report::default());
    thread::scope(|scope| {
        for number in 0..NODES {
            let (next, report, folders) = (&next, &report, &folders);
            scope.spawn(move || {
                let mut bench = Bench::new(number);
                while let Some(folder) = folders.get(next.fetch_add(1, Ordering::SeqCst)) {
                    bench.run(folder, report);
                }
            });
        }
    });
    let report = report.into_inner().expect("no thread has failed");
    println!(
        "{} requests of {} cases sent in {:.0} s, {} of them HTTP; {} not as expected",
        report.sent,
        folders.len(),
        start.elapsed().as_secs_f64(),
        report.sent_http,
        report.wrong.len()
    );
    for (why, count) in &report.unsent {
        println!("{count} not sent: {why}");
    }
    assert!(
        report.wrong.is_empty(),
        "not as expected:\n{}",
        report.wrong.join("\n")
    );
    let all = report.sent_http + report.unsent_http;
    assert!(
        report.sent_http * 100 >= all * SENT_MIN,
        "only {} of {all} requests that carry HTTP were sent",
        report.sent_http
    );
}

/// A node with a few pods whose addresses change with the case, and all other addresses beyond its
/// uplink.
struct Bench {
    net: Topology,
    served: Arc<Served>,
}

impl Bench {
    fn new(number: usize) -> Self {
        let mut net = Topology::new(&format!("lv-conf{number}")).expect("a node");
        let served = Arc::new(Served::default());
        for pod in 0..PODS {
            let last = u8::try_from(pod + 2).expect("few pods");
            let v6 = format!("fd99::{last}").parse().expect("an address");
            net.pod(&format!("c{pod}"), [198, 18, 255, last].into(), v6)
                .expect("a pod");
        }
        net.with_remote().expect("an uplink");
        let remote = net.remote.as_ref().expect("just made");
        remote.ip("link set lo up").expect("lo");
        Self { net, served }
    }

    fn run(&mut self, folder: &Path, report: &Mutex<Report>) {
        let case = Case::read(folder).expect("a case");
        let mut wanted = Vec::new();
        for request in &case.requests {
            let carries_http = request.protocol == Wire::Http;
            match Plan::of(&case, request) {
                Ok(plan) => wanted.push((request, plan)),
                Err(why) => {
                    let mut report = report.lock().expect("whole");
                    *report.unsent.entry(why).or_default() += 1;
                    report.unsent_http += usize::from(carries_http);
                }
            }
        }
        let receivers: BTreeSet<&str> = wanted.iter().map(|(_, plan)| &*plan.to).collect();
        if receivers.is_empty() {
            return;
        }
        assert!(receivers.len() <= PODS, "{}: {receivers:?}", case.name);
        let receivers: Vec<&str> = receivers.into_iter().collect();
        let manifests = Manifests::read(folder).expect("the case's own files");
        let places: BTreeMap<String, (String, String)> = receivers
            .iter()
            .zip(&self.net.pods)
            .map(|(name, pod)| {
                let netns = pod.netns_path().display().to_string();
                ((*name).to_owned(), (pod.interface.clone(), netns))
            })
            .collect();
        let cluster = manifests.placed(&places);
        let senders: Vec<IpAddr> = wanted.iter().map(|(_, plan)| plan.source).collect();
        let addresses = self.address(&case.cluster, &receivers, &senders);
        let home = Home::new(ENFORCER, &self.net.node, &cluster).expect("places");
        let bytes = manifests.compile(&cluster, &case.options);
        let bytes = bytes.unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
        let bundle = home.bundle("case.bin", &bytes).expect("a file");
        let mesh = manifests.mesh_file(&home);
        let mut options = vec!["--node-name", "here", "--proxy-sniff-timeout", "500ms"];
        if let Some(mesh) = &mesh {
            options.extend(["--mesh", mesh]);
        }
        let agent = home.start(&self.net.node, &bundle, &options);
        let agent = agent.unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
        for (request, plan) in &wanted {
            self.send(&case, request, plan, &receivers, &manifests, report);
        }
        drop(agent);
        home.detach(&self.net.node).expect("detached");
        drop(home);
        self.forget(&addresses, &receivers, &case.cluster);
    }

    fn send(
        &self,
        case: &Case,
        request: &Request,
        plan: &Plan,
        receivers: &[&str],
        manifests: &Manifests,
        report: &Mutex<Report>,
    ) {
        let place = |name: &str| receivers.iter().position(|other| *other == name);
        let to = place(&plan.to).expect("it receives");
        let pod = &self.net.pods[to].netns;
        self.served.listen(pod, request.port);
        let from: &Netns = match plan.from_pod.as_deref().and_then(place) {
            Some(at) => &self.net.pods[at].netns,
            None => self.net.remote.as_ref().expect("an uplink"),
        };
        let token = match manifests.token(request, &case.cluster) {
            Ok(token) => token,
            Err(why) => {
                let mut report = report.lock().expect("whole");
                *report.unsent.entry(why).or_default() += 1;
                report.unsent_http += usize::from(request.protocol == Wire::Http);
                return;
            }
        };
        let sent = send::send(from, plan.source, plan.address, request, token);
        let found = match &sent {
            Sent::Answered(200) | Sent::Echoed => Expected::Allow,
            Sent::Answered(_) | Sent::Refused(_) => Expected::Deny,
        };
        let mut report = report.lock().expect("whole");
        report.sent += 1;
        report.sent_http += usize::from(request.protocol == Wire::Http);
        if request.expect != Some(found) || sent.is_odd() {
            report.wrong.push(format!(
                "{}: {sent:?} instead of {:?}",
                request.id, request.expect
            ));
        }
    }

    /// Gives the receivers the case's addresses, and the remote node all others.
    fn address(&self, cluster: &Cluster, receivers: &[&str], senders: &[IpAddr]) -> Vec<IpAddr> {
        let remote = self.net.remote.as_ref().expect("an uplink");
        let mut others: BTreeSet<IpAddr> = senders.iter().copied().collect();
        for pod in &cluster.pods {
            let name = format!("{}/{}", pod.namespace, pod.name);
            if let Some(at) = receivers.iter().position(|other| *other == name) {
                let place = &self.net.pods[at];
                for ip in &pod.ips {
                    others.remove(ip);
                    let length = if ip.is_ipv4() { 32 } else { 128 };
                    place
                        .netns
                        .ip(&format!("addr add {ip}/{length} dev eth0{}", nodad(ip)))
                        .expect("an address");
                    let route = format!("route add {ip}/{length} dev {}", place.interface);
                    self.net.node.ip(&route).expect("a route");
                }
            } else {
                others.extend(pod.ips.iter().copied());
            }
        }
        for ip in &others {
            let length = if ip.is_ipv4() { 32 } else { 128 };
            let add = format!("addr add {ip}/{length} dev lo{}", nodad(ip));
            remote.ip(&add).expect("an address");
        }
        others.into_iter().collect()
    }

    fn forget(&self, others: &[IpAddr], receivers: &[&str], cluster: &Cluster) {
        let remote = self.net.remote.as_ref().expect("an uplink");
        let length = |ip: &IpAddr| if ip.is_ipv4() { 32 } else { 128 };
        for ip in others {
            let gone = remote.ip(&format!("addr del {ip}/{} dev lo", length(ip)));
            gone.expect("the address was there");
        }
        for pod in &cluster.pods {
            let name = format!("{}/{}", pod.namespace, pod.name);
            let Some(at) = receivers.iter().position(|other| *other == name) else {
                continue;
            };
            let place = &self.net.pods[at];
            for ip in &pod.ips {
                let gone = place
                    .netns
                    .ip(&format!("addr del {ip}/{} dev eth0", length(ip)));
                gone.expect("the address was there");
                let route = format!("route del {ip}/{} dev {}", length(ip), place.interface);
                self.net.node.ip(&route).expect("the route was there");
            }
        }
    }
}

fn nodad(ip: &IpAddr) -> &'static str {
    if ip.is_ipv6() { " nodad" } else { "" }
}

/// From where to where a request goes.
struct Plan {
    /// `namespace/name` of the receiving pod.
    to: String,
    address: IpAddr,
    /// The pod that sends, where one does.
    from_pod: Option<String>,
    source: IpAddr,
}

impl Plan {
    /// Or why it cannot be sent.
    fn of(case: &Case, request: &Request) -> Result<Self, &'static str> {
        if request.src_trust_domain.is_some() {
            return Err("an address has the trust domain of the mesh");
        }
        if request.ext_authz.is_some() {
            return Err("the case says what an authorizer answers, and none runs");
        }
        let target = request.http.as_ref().map_or("", |http| &http.path);
        if target.contains(['<', '>', '`']) {
            return Err("the target holds what no URI may: the proxy's library answers 400");
        }
        if request.sni.is_some() && request.protocol == Wire::Http {
            return Err("HTTP within TLS, which is the sidecar's to end");
        }
        let pod = |name: &str| {
            let mut pods = case.cluster.pods.iter();
            let is = |p: &&std::sync::Arc<policyc::cluster::Pod>| {
                format!("{}/{}", p.namespace, p.name) == name
            };
            pods.find(is)
        };
        let to = pod(&request.dst).ok_or("the receiver is a workload without a pod")?;
        let (from_pod, source) = match &request.src {
            SourceRef::Pod(name) => {
                let from = pod(name).ok_or("the sender is a workload without a pod")?;
                if *name == request.dst {
                    return Err("what a pod sends to itself does not leave it");
                }
                if from.template.host_network {
                    return Err("the sender has the node's address");
                }
                let own = from
                    .ips
                    .iter()
                    .find(|ip| to.ips.iter().any(|t| t.is_ipv4() == ip.is_ipv4()));
                let own = own.copied().ok_or("the sender has no address")?;
                if request.src_ip.is_some_and(|ip| ip != own) {
                    return Err("a pod sends from its own address only");
                }
                (Some(name.clone()), own)
            }
            SourceRef::Ip(source) => (None, source.ip),
            SourceRef::ServiceAccount(_) => {
                return Err("the sender is an account without a pod");
            }
        };
        if to.template.host_network {
            return Err("the receiver has the node's address");
        }
        let address = to.ips.iter().find(|ip| ip.is_ipv4() == source.is_ipv4());
        Ok(Self {
            to: request.dst.clone(),
            address: *address.ok_or("the two have addresses of different families")?,
            from_pod,
            source,
        })
    }
}
