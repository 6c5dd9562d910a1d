//! What the proxy asks of the agent: the active table's ruling, the kernel's memory of its flows,
//! and an ear for its verdicts.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
};

use enforcer_ebpf::reason::Reason;
use policyc::{
    ir::RuleRef,
    request::{Cause, DryRunHit, Expected, Hit, Http, Layer},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    agent::Agent,
    netns::Netns,
    proxy::{
        self, Access, Authorizers, Decision, Event, Flow, Flows, Judge, Maker, Proxy, ProxyConfig,
        Refusal, Ruling, Spoken, Stats, Why,
    },
    proxy_flows::{Leg, ProxyFlows, key},
    report::{Verdict, VerdictLine, access::AccessLine, line, requests},
};

/// What can go wrong when the proxy is started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the proxy in its namespace `{netns}`")]
pub struct ProxyStartError {
    netns: String,
    #[source]
    source: io::Error,
}

/// A running proxy, as the agent sees it.
pub struct Watched {
    stats: Arc<Stats>,
    flows: Arc<ProxyFlows>,
    connections_max: usize,
}

/// What the proxy has done, for `enforcer status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Connections of clients that are open.
    pub open: usize,
    pub connections_max: usize,
    pub accepted: u64,
    /// Connections reset because the proxy, or their source, had as many as it may.
    pub over_limit: u64,
    /// Requests and connections.
    pub allowed: u64,
    pub refused: u64,
    /// Requests and connections that lost their permission while they were carried.
    #[serde(default)]
    pub broken_off: u64,
    /// What the proxy itself has refused or broken off, by reason; those that never happened left out.
    #[serde(default)]
    pub refusals: BTreeMap<String, u64>,
}

impl Watched {
    /// What the proxy has done so far.
    pub fn status(&self) -> ProxyStatus {
        let stats = &self.stats;
        ProxyStatus {
            open: stats.open.load(Ordering::Relaxed),
            connections_max: self.connections_max,
            accepted: stats.accepted.load(Ordering::Relaxed),
            over_limit: stats.over_limit(),
            allowed: stats.allowed.load(Ordering::Relaxed),
            refused: stats.refused.load(Ordering::Relaxed),
            broken_off: stats.broken_off.load(Ordering::Relaxed),
            refusals: Refusal::ALL
                .into_iter()
                .map(|refusal| (refusal.name().to_owned(), stats.refusals(refusal)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }

    /// Times of requests by bucket, and their sum in seconds.
    pub fn latency(&self) -> (Vec<u64>, f64) {
        self.stats.latency.read()
    }

    /// Times that an authorizer was asked.
    pub fn asked(&self) -> u64 {
        self.stats.asked.load(Ordering::Relaxed)
    }

    /// Slots of the pods that have connections through the proxy.
    pub fn slots(&self) -> BTreeSet<u32> {
        self.flows.slots()
    }
}

/// Starts the proxy in its namespace and hands its listener to the kernel. It ends when dropped;
/// what would be steered to it is refused from then on.
pub fn start(
    config: ProxyConfig,
    agent: Arc<Agent>,
    flows: ProxyFlows,
    netns: Netns,
) -> Result<Proxy, ProxyStartError> {
    let name = netns.path().display().to_string();
    run(config, agent, Arc::new(flows), netns).map_err(|source| ProxyStartError {
        netns: name,
        source,
    })
}

fn run(
    config: ProxyConfig,
    agent: Arc<Agent>,
    maps: Arc<ProxyFlows>,
    netns: Netns,
) -> io::Result<Proxy> {
    let descriptors = descriptors();
    let config = within(descriptors, config);
    tracing::info!(
        descriptors,
        connections_max = config.connections_max,
        connections_per_source_max = config.connections_per_source_max,
        "limits of the proxy"
    );
    let netns = Arc::new(netns);
    let enter = move || netns.move_here().map_err(io::Error::other);
    maps.forget_the_ended(enter.clone())?;
    let (listening, connections_max) = (maps.clone(), config.connections_max);
    let flows = Arc::new(KernelFlows {
        maps: maps.clone(),
        agent: agent.clone(),
    });
    let proxy = proxy::start(
        config,
        agent.clone(),
        flows,
        agent.clone(),
        enter,
        move |l| listening.listen(l).map_err(io::Error::other),
    )?;
    let watched = Watched {
        stats: proxy.stats().clone(),
        flows: maps,
        connections_max,
    };
    match agent.proxy.set(watched) {
        Ok(()) => Ok(proxy),
        Err(_) => Err(io::Error::other("the agent has a proxy already")),
    }
}

/// Descriptors kept for everything but connections.
const DESCRIPTORS_KEPT: u64 = 512;
/// The client's and the one to the pod.
const DESCRIPTORS_PER_CONNECTION: u64 = 2;

/// Raises the limit of open descriptors as far as it may go: by default it is a thousand. Returns it.
fn descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open descriptors");
            limit.current
        }
    };
    current.unwrap_or(u64::MAX)
}

/// No more connections than there are descriptors for: one more would only be accepted to fail. One
/// source has the same part of them as ever.
fn within(descriptors: u64, mut config: ProxyConfig) -> ProxyConfig {
    let connections = descriptors.saturating_sub(DESCRIPTORS_KEPT) / DESCRIPTORS_PER_CONNECTION;
    let connections = usize::try_from(connections).unwrap_or(usize::MAX).max(1);
    if connections < config.connections_max {
        let sources = (config.connections_max / config.connections_per_source_max).max(1);
        config.connections_max = connections;
        config.connections_per_source_max = (connections / sources).max(1);
    }
    config
}

struct KernelFlows {
    maps: Arc<ProxyFlows>,
    agent: Arc<Agent>,
}

impl KernelFlows {
    /// Slot of the pod that a flow goes to.
    fn slot(&self, flow: Flow) -> io::Result<u32> {
        let active = self.agent.active.load();
        active
            .as_ref()
            .and_then(|generation| generation.slots.get(&flow.pod.ip()).copied())
            .ok_or_else(|| io::Error::other("no pod of this node holds the address"))
    }
}

impl Flows for KernelFlows {
    fn client_opened(&self, flow: Flow) -> Maker {
        let key = key(flow.pod, flow.remote);
        let made = self.slot(flow).and_then(|slot| {
            let begun = self.maps.begins(Leg::Client, key, slot);
            begun.map_err(io::Error::other)
        });
        if let Err(error) = made {
            // Until a table ceases to ask, its segments are steered all the same.
            tracing::debug!(%error, "a client's flow is not remembered");
        }
        self.maps.take_maker(key).unwrap_or_else(|error| {
            let error = crate::chain(&error);
            tracing::warn!(error, "a client is taken for nobody");
            Maker::Unknown
        })
    }

    fn upstream_opening(&self, flow: Flow) -> io::Result<()> {
        let key = key(flow.pod, flow.remote);
        let begun = self.maps.begins(Leg::Pod, key, self.slot(flow)?);
        begun.map_err(|error| {
            self.maps.ends(Leg::Pod, key);
            io::Error::other(error)
        })
    }

    fn upstream_closed(&self, flow: Flow) {
        self.maps.ends(Leg::Pod, key(flow.pod, flow.remote));
    }

    fn client_closed(&self, flow: Flow) {
        self.maps.ends(Leg::Client, key(flow.pod, flow.remote));
    }
}

impl Judge for Agent {
    fn ruling(&self, flow: Flow, maker: Maker) -> Option<Ruling> {
        let active = self.active.load();
        active.as_ref().map(|generation| {
            // What began through the proxy before the pause stays there, and passes.
            if self.is_paused(flow.pod.ip()) {
                return Ruling {
                    epoch: generation.epoch,
                    decision: Decision::Settled {
                        verdict: Expected::Allow,
                        cause: Cause::NoAllowPolicy,
                        rule: None,
                    },
                };
            }
            generation.rules.ruling(flow, maker)
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn policy_name(&self, epoch: u32, rule: RuleRef) -> Option<String> {
        let generation = self.reporter.generation(epoch)?;
        generation.rules.policy_name(rule)
    }

    fn authorizers(&self) -> Option<Arc<dyn Authorizers>> {
        Some(self.authorizers.clone())
    }

    fn principal(&self, address: IpAddr) -> Option<String> {
        // As a certificate has it.
        let principal = self.reporter.principal(address)?;
        Some(format!("spiffe://{principal}"))
    }
}

impl proxy::Reporter for Agent {
    fn wants_verdicts(&self) -> bool {
        // They are counted, whether anybody listens or not.
        true
    }

    fn wants_accesses(&self) -> bool {
        self.access.is_some()
    }

    fn access(&self, access: &Access<'_>) {
        if let Some(log) = &self.access {
            log.write(&self.access_line(access));
        }
    }

    fn verdict(&self, event: &Event<'_>) {
        let paused = self.is_paused(event.destination.ip());
        if !paused {
            self.reporter.requests.count(event.epoch, hits(event));
        }
        if !self.reporter.is_heard() {
            return;
        }
        let hit = |rule: &RuleRef| {
            self.policy_name(event.epoch, *rule).map(|policy| Hit {
                policy,
                rule: rule.rule,
            })
        };
        let dry_run = |rules: &[RuleRef], action: &str| -> Vec<DryRunHit> {
            let tried = rules.iter().flat_map(hit).map(|hit| DryRunHit {
                policy: hit.policy,
                rule: hit.rule,
                action: action.into(),
            });
            tried.collect()
        };
        let mut tried = dry_run(event.dry_run_allow, "ALLOW");
        tried.extend(dry_run(event.dry_run_deny, "DENY"));
        tried.sort();
        let source = event.source.ip().to_canonical();
        let destination = event.destination.ip().to_canonical();
        let (protocol, http, sni) = spoken(&event.spoken);
        let reason = match paused {
            true => Reason::Paused.name().to_owned(),
            false => reason(event.why),
        };
        self.reporter.line(VerdictLine {
            id: format!("{}-{}", event.epoch, self.reporter.number()),
            time: line::now(),
            src: self.reporter.peer(source),
            src_principal: self.reporter.principal(source),
            src_ip: source,
            src_port: event.source.port(),
            dst: self.reporter.peer(destination),
            dst_ip: destination,
            port: event.destination.port(),
            protocol: protocol.into(),
            verdict: verdict(event.verdict),
            layer: Layer::L7,
            datapath: reason.clone(),
            reason,
            policy: event.policy.map(str::to_owned),
            rule: event.rule.map(|rule| rule.rule),
            audit: event.audit.iter().flat_map(hit).collect(),
            dry_run: tried,
            hook: "proxy".into(),
            epoch: event.epoch,
            generation: self
                .reporter
                .generation(event.epoch)
                .map_or(0, |generation| generation.generation),
            http,
            shadow: None,
            sni,
        });
    }
}

fn hits<'a>(event: &'a Event<'_>) -> impl Iterator<Item = requests::Hit> + 'a {
    use requests::Hit;
    let audit = event.audit.iter().copied().map(Hit::Audit);
    let tried = |action, rules: &'a [RuleRef]| rules.iter().map(move |r| Hit::DryRun(action, *r));
    let decided = match event.why {
        Why::Policy(cause) => Some(Hit::Decided(cause, event.rule)),
        // No policy has anything to do with it.
        Why::Proxy(_) => None,
    };
    decided
        .into_iter()
        .chain(audit)
        .chain(tried("ALLOW", event.dry_run_allow))
        .chain(tried("DENY", event.dry_run_deny))
}

impl Agent {
    fn access_line(&self, access: &Access<'_>) -> AccessLine {
        let source = access.source.ip().to_canonical();
        let destination = access.destination.ip().to_canonical();
        let (protocol, http, sni) = spoken(&access.spoken);
        let (method, path, host) = match http {
            Some(http) => (Some(http.method), Some(http.path), http.host),
            None => (None, None, None),
        };
        AccessLine {
            time: line::now(),
            src: self.reporter.peer(source),
            src_ip: source,
            src_port: access.source.port(),
            src_principal: self.reporter.principal(source),
            dst: self.reporter.peer(destination),
            dst_ip: destination,
            port: access.destination.port(),
            protocol: protocol.into(),
            method,
            path,
            host,
            request_id: access.request_id.map(str::to_owned),
            sni,
            status: access.status,
            verdict: verdict(access.verdict),
            reason: access.why.map(reason),
            policy: access.policy.map(str::to_owned),
            rule: access.rule.map(|rule| rule.rule),
            broken_off: access.broken_off,
            received: access.received,
            sent: access.sent,
            duration_us: u64::try_from(access.time.as_micros()).unwrap_or(u64::MAX),
            epoch: access.epoch,
        }
    }
}

fn verdict(verdict: Expected) -> Verdict {
    match verdict {
        Expected::Allow => Verdict::Allow,
        Expected::Deny => Verdict::Deny,
    }
}

/// The word for why.
fn reason(why: Why) -> String {
    match why {
        Why::Policy(cause) => line::cause_name(&cause),
        Why::Proxy(refusal) => refusal.name().to_owned(),
    }
}

/// The protocol, the request and the server name, as a request to `policyc eval` has them.
fn spoken(spoken: &Spoken<'_>) -> (&'static str, Option<Http>, Option<String>) {
    match spoken {
        Spoken::Http {
            method,
            target,
            host,
        } => (
            "http",
            Some(Http {
                method: (*method).to_owned(),
                path: (*target).to_owned(),
                host: host.map(str::to_owned),
                ..Http::default()
            }),
            None,
        ),
        Spoken::Tls { sni } => ("tls", None, sni.map(str::to_owned)),
        Spoken::Tcp => ("tcp", None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_no_more_than_descriptors_allow() {
        for (descriptors, connections, per_source) in [
            (0, 1, 1),
            (514, 1, 1),
            (1_024, 256, 64),
            (4_096, 1_792, 448),
            (524_288, 16_384, 4_096),
        ] {
            let config = within(descriptors, ProxyConfig::default());
            let found = (config.connections_max, config.connections_per_source_max);
            assert_eq!(found, (connections, per_source), "{descriptors}");
        }
    }

    #[test]
    fn the_limit_of_descriptors_is_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        assert_eq!(Some(descriptors()), hard.or(Some(u64::MAX)));
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }
}
