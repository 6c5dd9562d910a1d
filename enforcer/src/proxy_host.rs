//! What the proxy asks of the agent: the active table's ruling, the kernel's memory of its flows,
//! and an ear for its verdicts.

use std::{io, net::SocketAddr, sync::Arc};

use policyc::{
    ir::RuleRef,
    request::{DryRunHit, Expected, Hit, Http, Layer},
};
use tokio::sync::watch;

use crate::{
    agent::Agent,
    netns::Netns,
    proxy::{self, Event, Flow, Flows, Judge, Proxy, ProxyConfig, Ruling, Spoken},
    proxy_flows::{ProxyFlows, ProxyFlowsError, key},
    report::{Verdict, VerdictLine, line},
};

/// What can go wrong when the proxy is started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the proxy in its namespace `{netns}`")]
pub struct ProxyStartError {
    netns: String,
    #[source]
    source: io::Error,
}

/// Starts the proxy in its namespace and hands its listener to the kernel. It ends when dropped;
/// what would be steered to it is refused from then on.
pub fn start(agent: Arc<Agent>, flows: ProxyFlows, netns: Netns) -> Result<Proxy, ProxyStartError> {
    let name = netns.path().display().to_string();
    let flows = Arc::new(KernelFlows {
        maps: flows,
        agent: agent.clone(),
    });
    let listening = flows.clone();
    proxy::start(
        ProxyConfig::default(),
        agent.clone(),
        flows,
        agent,
        move || netns.move_here().map_err(io::Error::other),
        move |listener| listening.maps.listen(listener).map_err(io::Error::other),
    )
    .map_err(|source| ProxyStartError {
        netns: name,
        source,
    })
}

struct KernelFlows {
    maps: ProxyFlows,
    agent: Arc<Agent>,
}

impl Flows for KernelFlows {
    fn upstream_opening(&self, flow: Flow) -> io::Result<()> {
        let active = self.agent.active.load();
        let slot = active
            .as_ref()
            .and_then(|generation| generation.slots.get(&flow.pod.ip()))
            .ok_or_else(|| io::Error::other("no pod of this node holds the address"))?;
        self.maps
            .upstream_opens(key(flow.pod, flow.remote), *slot)
            .map_err(io::Error::other)
    }

    fn upstream_closed(&self, flow: Flow) {
        told(self.maps.upstream_closed(key(flow.pod, flow.remote)));
    }

    fn client_closed(&self, flow: Flow) {
        told(self.maps.proxied_closed(key(flow.pod, flow.remote)));
    }
}

/// An entry that stays is found by nobody: its socket is gone, and the kernel's sockets are asked.
fn told(result: Result<(), ProxyFlowsError>) {
    if let Err(error) = result {
        tracing::warn!(
            error = crate::chain(&error),
            "a flow of the proxy is not forgotten"
        );
    }
}

impl Judge for Agent {
    fn ruling(&self, client: SocketAddr, pod: SocketAddr) -> Option<Ruling> {
        let active = self.active.load();
        active
            .as_ref()
            .map(|generation| generation.rules.ruling(client, pod))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn policy_name(&self, epoch: u32, rule: RuleRef) -> Option<String> {
        let generation = self.reporter.generation(epoch)?;
        generation.rules.policy_name(rule).map(str::to_owned)
    }
}

impl proxy::Reporter for Agent {
    fn verdict(&self, event: &Event<'_>) {
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
        let (protocol, http) = spoken(&event.spoken);
        let reason = line::cause_name(&event.cause);
        self.reporter.line(VerdictLine {
            id: format!("{}-{}", event.epoch, self.reporter.number()),
            time: line::now(),
            src: self.reporter.peer(source),
            src_ip: source,
            src_port: event.source.port(),
            dst: self.reporter.peer(destination),
            dst_ip: destination,
            port: event.destination.port(),
            protocol: protocol.into(),
            verdict: match event.verdict {
                Expected::Allow => Verdict::Allow,
                Expected::Deny => Verdict::Deny,
            },
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
        });
    }
}

fn spoken(spoken: &Spoken<'_>) -> (&'static str, Option<Http>) {
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
        ),
        Spoken::Tls { .. } => ("tls", None),
        Spoken::Tcp => ("tcp", None),
    }
}
