//! What the agent is doing, for `enforcer status`.

use std::{collections::BTreeMap, time::UNIX_EPOCH};

use policyc::link::LinkedPod;
use serde::{Deserialize, Serialize};

use super::{Agent, HookPath, OrderError, PauseStatus, ShadowStatus, pause, proxied, shadow};
use crate::{
    apply::{Generation, Times},
    attach::HookAt,
    delivery::DeliveryStatus,
    inventory::{
        Inventory, LocalPod, Unknown,
        enrolment::{LeftOut, in_mesh, label_trouble, left_out, unwanted},
    },
    kube::ClusterStatus,
    proxy_host::{ProxyStatus, Watched},
    report::{counters::HitCount, line},
    state::Past,
    trust::Accepted,
};

/// The state of an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// `enforce` or `audit`
    pub mode: String,
    /// `reset` or `drop`
    pub refuse: String,
    /// `tcx` or `clsact`
    pub attach: String,
    /// Why the node is not to be relied on, a line a pod; empty when it is.
    pub not_ready: Vec<String>,
    /// Generation of the active bundle.
    pub generation: u64,
    /// Activations on this node.
    pub epoch: u32,
    /// SHA-256 of the active bundle's payload.
    pub hash: String,
    /// Version that compiled it.
    pub compiler: String,
    pub bundle: String,
    /// RFC 3339, UTC: when it became active.
    pub since: String,
    pub times: Times,
    pub table: TableStatus,
    pub pods: Vec<PodStatus>,
    /// Interfaces that look like a pod's, of which no pod is known: with `--unknown-pod=deny` nobody may
    /// begin anything with what is behind them. Without it they are not looked for.
    #[serde(default)]
    pub unknown: Vec<String>,
    /// Packets by reason.
    pub counters: BTreeMap<String, u64>,
    /// Why changes of the node's interfaces are not followed at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces_error: Option<String>,
    /// `None` where no proxy runs.
    pub proxy: Option<ProxyStatus>,
    pub hits: Vec<HitCount>,
    /// Key sets that are fetched for the active policies.
    #[serde(default)]
    pub key_sets: Vec<crate::key_sets::KeySetStatus>,
    /// How well the API server is followed, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterStatus>,
    /// What is judged and not hindered, and for how long.
    pub pauses: Vec<PauseStatus>,
    pub shadow: Option<ShadowStatus>,
    /// Bundles that were active, the active one last: what `enforcer rollback` can go back to.
    pub history: Vec<Past>,
    pub state: StateStatus,
    /// Whose signature a bundle needs.
    #[serde(default)]
    pub signatures: SignatureStatus,
    /// What has come from where bundles are published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryStatus>,
    /// The options that the agent was started with.
    pub configuration: BTreeMap<String, serde_json::Value>,
}

/// Where the agent keeps what the kernel does not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StateStatus {
    pub folder: String,
    /// What could not be kept, or read.
    pub trouble: Option<String>,
}

/// Whose signature a bundle needs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SignatureStatus {
    pub required: bool,
    /// Fingerprints of the public keys of which one must have signed.
    pub keys: Vec<String>,
    /// The newest bundle that was accepted: older ones are refused.
    pub accepted: Option<Accepted>,
}

/// How full the table is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TableStatus {
    pub words: usize,
    pub capacity_words: u32,
    pub slot: u32,
    pub scopes: usize,
    pub source_classes: usize,
    pub addresses: usize,
    pub records: usize,
}

/// A pod of this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodStatus {
    /// `namespace/name`
    pub name: String,
    pub interfaces: Vec<String>,
    /// Policies are enforced; otherwise only its source addresses are guarded, and without an
    /// interface not even those.
    pub enrolled: bool,
    /// Where packets to it are judged.
    pub hook: HookAt,
    /// Whether the hook is on the pod's path; `None` while it has not been asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<HookPath>,
    /// Why policies are not enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_enforced: Option<String>,
    /// It should be policed, and was not found.
    #[serde(default)]
    pub lost: bool,
    /// It is policed though it is in a mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// Pods of the same number are under the same policies.
    pub scope: u32,
    /// Some verdicts need userspace.
    pub asks: bool,
    /// Flows that began through the proxy may be left, or may begin.
    pub proxied: bool,
    /// Connections that the pod has opened and that are remembered.
    pub outbound: u64,
}

impl Agent {
    /// What the agent is doing.
    pub fn status(&self) -> Result<Status, OrderError> {
        let state = &mut *self.state();
        self.count_requests(state);
        let active = self.active.load_full().ok_or(OrderError::NoTable)?;
        let scopes = scope_numbers(&active);
        let paths = self.paths().clone();
        let guarded = active.pods.iter().map(|pod| {
            let local = local(&state.inventory, pod);
            PodStatus {
                name: format!("{}/{}", pod.namespace, pod.name),
                interfaces: local.map(interfaces).unwrap_or_default(),
                enrolled: pod.enrolled,
                hook: local.map(hook).unwrap_or_default(),
                path: paths
                    .get(&(pod.namespace.clone(), pod.name.clone()))
                    .cloned(),
                not_enforced: self.not_enforced(&state.inventory, pod, local),
                lost: false,
                mesh: local
                    .filter(|_| pod.enrolled)
                    .and_then(|local| in_mesh(&local.name, &state.inventory.cluster))
                    .map(str::to_owned),
                scope: scopes.get(&pod.scope_v4).copied().unwrap_or(0),
                asks: pod.asks,
                proxied: proxied::is_set(&state.tables, pod.slot),
                outbound: state.out.count(pod.slot),
            }
        });
        let inventory = &state.inventory;
        let lost = inventory.lost.iter().map(|(name, reason)| {
            let unwanted = unwanted(name, &inventory.cluster, &self.settings);
            PodStatus {
                name: format!("{}/{}", name.0, name.1),
                interfaces: Vec::new(),
                hook: HookAt::Host,
                path: None,
                enrolled: false,
                lost: unwanted.is_none(),
                mesh: None,
                not_enforced: Some(unwanted.map_or(reason.to_string(), |why| why.to_string())),
                scope: 0,
                asks: false,
                proxied: false,
                outbound: 0,
            }
        });
        let pods: Vec<PodStatus> = guarded.chain(lost).collect();
        let unheard = self.cluster.iter().flat_map(|cluster| cluster.troubles());
        let mut not_ready: Vec<String> = unheard
            .chain(pods.iter().filter_map(PodStatus::trouble))
            .collect();
        let labels = inventory
            .pods
            .iter()
            .filter_map(|pod| label_trouble(&pod.name, &inventory.cluster, &self.settings));
        not_ready.extend(labels);
        let since = active.since.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            mode: if self.settings.audit {
                "audit"
            } else {
                "enforce"
            }
            .into(),
            refuse: if self.settings.refuse_drop {
                "drop"
            } else {
                "reset"
            }
            .into(),
            attach: format!("{:?}", self.hooks.attach).to_lowercase(),
            not_ready,
            generation: active.generation,
            epoch: active.epoch,
            hash: active.hash.to_string(),
            compiler: active.compiler.clone(),
            bundle: active.bundle.display().to_string(),
            since: line::rfc3339(i128::try_from(since.as_nanos()).unwrap_or(0)),
            times: active.times,
            table: TableStatus {
                words: active.words,
                capacity_words: state.tables.capacity(),
                slot: active.slot,
                scopes: active.summary.scopes,
                source_classes: active.summary.source_classes,
                addresses: active.summary.addresses,
                records: active.summary.records,
            },
            pods,
            unknown: inventory.unknown.iter().map(name_of).collect(),
            counters: state
                .counters
                .reasons()?
                .into_iter()
                .map(|(reason, count)| (reason.name().into(), count))
                .collect(),
            interfaces_error: self.unfollowed.load().as_deref().cloned(),
            proxy: self.proxy.get().map(Watched::status),
            hits: state.counters.hits()?,
            pauses: pause::pauses(state, &active),
            shadow: shadow::status(state)?,
            history: state.kept.history.clone(),
            state: StateStatus {
                folder: state.keeper.folder().display().to_string(),
                trouble: state.keeper.trouble().map(str::to_owned),
            },
            key_sets: self.key_sets(),
            signatures: SignatureStatus {
                required: self.trust.is_required(),
                keys: self.trust.fingerprints(),
                accepted: self.trust.accepted(),
            },
            delivery: self.delivery.get().map(|delivery| delivery.status()),
            cluster: self.cluster.as_ref().map(|cluster| cluster.status()),
            configuration: self.configuration.clone(),
        })
    }
}

impl Agent {
    fn not_enforced(
        &self,
        inventory: &Inventory,
        pod: &LinkedPod,
        local: Option<&LocalPod>,
    ) -> Option<String> {
        if let Some(away) = local.and_then(|local| local.away.as_ref()) {
            return Some(away.to_string());
        }
        if pod.enrolled {
            return None;
        }
        let name = (pod.namespace.clone(), pod.name.clone());
        let cluster = &inventory.cluster;
        let reason = match local {
            Some(local) => left_out(local, cluster, &self.settings),
            None => unwanted(&name, cluster, &self.settings),
        };
        Some(reason.unwrap_or(LeftOut::Namespace).to_string())
    }
}

/// Offsets of scopes as numbers from 1, in the order of the table.
fn scope_numbers(generation: &Generation) -> BTreeMap<u32, u32> {
    let mut offsets: Vec<u32> = generation.pods.iter().map(|pod| pod.scope_v4).collect();
    offsets.sort_unstable();
    offsets.dedup();
    offsets.into_iter().zip(1..).collect()
}

fn local<'a>(inventory: &'a Inventory, pod: &LinkedPod) -> Option<&'a LocalPod> {
    let is = |local: &&LocalPod| local.name.0 == pod.namespace && local.name.1 == pod.name;
    inventory.pods.iter().find(is)
}

impl PodStatus {
    /// Why the pod's policies are not enforced, though they should be.
    fn trouble(&self) -> Option<String> {
        (self.path == Some(HookPath::Skipped)).then(|| {
            format!(
                "{}: packets skip its hook, and only its answers are judged: `enforcer doctor` names \
                 networks that do so, and --hook=auto guards from inside where the kernel can",
                self.name
            )
        })
    }

    /// What is refused that policies would let through.
    pub fn limit(&self) -> Option<&'static str> {
        (self.asks && self.hook == HookAt::Pod).then_some(
            "guarded from inside, where the proxy cannot be reached: what needs it is refused, \
             reason redirect_unavailable",
        )
    }
}

fn name_of(unknown: &Unknown) -> String {
    unknown.interface.link.name.clone()
}

fn hook(pod: &LocalPod) -> HookAt {
    let inside = pod.interfaces.iter().any(|i| i.hook == HookAt::Pod);
    if inside { HookAt::Pod } else { HookAt::Host }
}

fn interfaces(pod: &LocalPod) -> Vec<String> {
    pod.interfaces.iter().map(|i| i.link.name.clone()).collect()
}
