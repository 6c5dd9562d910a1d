//! Verdicts for people and programs: one line each, and the counters.
//!
//! A kernel event names an activation and a cell; [`Reporter`] turns it into policy, rule and pod
//! names by the records of exactly that activation, so attribution cannot drift from enforcement.

pub mod access;
pub mod asked;
pub mod counters;
pub mod events;
pub mod line;
pub mod metrics;
mod names;
mod notice;
pub mod requests;

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use enforcer_ebpf::{event::Event, reason::Reason, words::Cell};
use policyc::cluster::{Cluster, Pod};
use tokio::sync::broadcast;

pub use line::{Peer, ShadowVerdict, Verdict, VerdictLine};
pub use notice::{Kind, Line, Notice};

use names::Names;
use requests::Requests;

use crate::{
    apply::{Attribution, Generation},
    flows::address_of,
};

/// Lines that a slow listener may lag behind before it loses some.
const LAG_MAX: usize = 4096;
/// Activations whose records are kept for events that are still on their way.
const GENERATIONS_KEPT: usize = 4;

/// Expands events and hands them to whoever listens.
pub struct Reporter {
    listeners: broadcast::Sender<Arc<Line>>,
    generations: RwLock<VecDeque<Arc<Generation>>>,
    shadow: RwLock<Option<Arc<Generation>>>,
    names: RwLock<Names>,
    /// Hits on requests.
    pub requests: Requests,
    next: AtomicU64,
    /// Wall clock minus the kernel's, in nanoseconds.
    boot: i128,
}

impl Reporter {
    pub fn new() -> Self {
        Self {
            listeners: broadcast::Sender::new(LAG_MAX),
            generations: RwLock::default(),
            shadow: RwLock::default(),
            names: RwLock::default(),
            requests: Requests::default(),
            next: AtomicU64::new(1),
            boot: line::boot_time_ns(),
        }
    }

    /// From now on events may name this activation.
    pub fn activate(&self, generation: Arc<Generation>) {
        let mut kept = self
            .generations
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        kept.retain(|old| old.epoch != generation.epoch);
        kept.push_back(generation);
        while kept.len() > GENERATIONS_KEPT {
            kept.pop_front();
        }
    }

    /// From now on events may name this activation as the one that disagrees.
    pub fn shadow(&self, generation: Option<Arc<Generation>>) {
        *self.shadow.write().unwrap_or_else(PoisonError::into_inner) = generation;
    }

    /// Whose addresses are whose.
    pub fn name_pods(&self, cluster: &Cluster) {
        let names = Names::of(cluster);
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Learns of pods that have changed: as they were, and as they are.
    pub fn rename_pods(&self, before: &[&Arc<Pod>], now: &[&Arc<Pod>]) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.change(before, now);
    }

    /// Every line from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Line>> {
        self.listeners.subscribe()
    }

    /// Whether anybody listens.
    pub fn is_heard(&self) -> bool {
        self.listeners.receiver_count() > 0
    }

    /// Reports a kernel event.
    pub fn event(&self, event: &Event) {
        if !self.is_heard() {
            return;
        }
        let line = self.expand(event);
        self.line(line);
    }

    /// Reports a line that was made elsewhere: by the proxy.
    pub fn line(&self, line: VerdictLine) {
        self.send(Line::Verdict(Box::new(line)));
    }

    /// Tells those who listen.
    pub fn send(&self, line: Line) {
        // Nobody listening is fine.
        let _listeners = self.listeners.send(Arc::new(line));
    }

    /// Tells those who listen, and the log, what an operator has done.
    pub fn notice(&self, kind: Kind, about: String, reason: Option<String>) {
        // Of what becomes active the log says more.
        if kind != Kind::Active {
            tracing::info!(reason, "{kind}: {about}");
        }
        self.send(Line::Notice(Notice::now(kind, about, reason)));
    }

    /// A number that no other line of this agent has.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The pod that holds an address, or the address.
    pub fn peer(&self, address: IpAddr) -> Peer {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        match names.pod(address) {
            Some(pod) => Peer::Pod(format!("{}/{}", pod.namespace, pod.name)),
            None => Peer::Ip { ip: address },
        }
    }

    /// The identity of the pod that holds an address.
    pub fn principal(&self, address: IpAddr) -> Option<String> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.principal(address)
    }

    fn expand(&self, event: &Event) -> VerdictLine {
        let generation = self.generation(event.epoch);
        let cell = Cell(event.cell);
        let attribution = attribution(generation.as_deref(), cell);
        let reason = Reason::from_number(event.reason);
        let source = address_of(&event.source);
        let destination = address_of(&event.destination);
        let ns = i128::from(event.time_high) << 32 | i128::from(event.time_low);
        VerdictLine {
            id: format!("{}-{}", event.epoch, self.number()),
            time: line::rfc3339(self.boot + ns),
            src: self.peer(source),
            src_principal: self.principal(source),
            src_ip: source,
            src_port: event.source_port,
            dst: self.peer(destination),
            dst_ip: destination,
            port: event.destination_port,
            protocol: line::protocol(event.protocol),
            verdict: reason.map_or(Verdict::Deny, Verdict::of),
            layer: policyc::request::Layer::L4,
            reason: attribution.cause.map_or_else(
                || line::reason_name(event.reason),
                |cause| line::cause_name(&cause),
            ),
            datapath: line::reason_name(event.reason),
            policy: attribution.policy,
            rule: attribution.rule,
            audit: attribution.audit,
            dry_run: attribution.dry_run,
            hook: line::hook_name(event.hook).into(),
            epoch: event.epoch,
            generation: generation.map_or(0, |g| g.generation),
            http: None,
            shadow: self.disagreeing(event),
            sni: None,
        }
    }

    fn disagreeing(&self, event: &Event) -> Option<ShadowVerdict> {
        if event.shadow_epoch == 0 {
            return None;
        }
        let shadow = self.shadow.read().unwrap_or_else(PoisonError::into_inner);
        let generation = shadow
            .clone()
            .filter(|shadow| shadow.epoch == event.shadow_epoch)
            .or_else(|| self.generation(event.shadow_epoch));
        let cell = Cell(event.shadow_cell);
        let attribution = attribution(generation.as_deref(), cell);
        Some(ShadowVerdict {
            verdict: line::of_cell(cell),
            reason: attribution.cause.as_ref().map(line::cause_name),
            policy: attribution.policy,
            rule: attribution.rule,
            epoch: event.shadow_epoch,
            generation: generation.map_or(0, |g| g.generation),
        })
    }

    /// The activation of that number, if it is a recent one.
    pub fn generation(&self, epoch: u32) -> Option<Arc<Generation>> {
        self.generations
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .find(|generation| generation.epoch == epoch)
            .cloned()
    }
}

fn attribution(generation: Option<&Generation>, cell: Cell) -> Attribution {
    generation
        .and_then(|g| g.attributions.get(cell.record() as usize))
        .filter(|_| cell.record() != 0)
        .cloned()
        .unwrap_or_default()
}

impl Default for Reporter {
    fn default() -> Self {
        Self::new()
    }
}
