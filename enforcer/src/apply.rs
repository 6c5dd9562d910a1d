//! From a bundle to the active table. Everything that can fail comes before the one store that
//! switches; whatever does fail changes nothing and says why.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use enforcer_ebpf::words::{Words, header, options, pod, pod_flags};
use policyc::{
    bundle::{self, Bundle, BundleError},
    ir::{Program, RuleRef},
    l7::CompileError,
    link::{self, HostMode, LinkError, Linked, LinkedPod, Local, NodeView, Record, Summary},
    lower::cell::Decided,
    request::{Cause, DryRunHit, Hit},
};

use crate::{
    inventory::{Inventory, PodName},
    proxy::rules::Rules,
    table::{TableError, Tables},
};

/// Largest bundle that is read, in bytes.
const BUNDLE_MAX: u64 = 1 << 30;

/// How this node enforces.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Verdicts are only reported.
    pub audit: bool,
    /// Refused packets vanish.
    pub refuse_drop: bool,
    /// Events for allowed connections, too.
    pub events_allowed: bool,
    pub host: HostMode,
    pub pod_cidrs: Vec<ipnet::IpNet>,
    /// Namespaces whose pods are guarded, and not policed.
    pub excluded_namespaces: Vec<String>,
}

/// One activation: what the table means. Lives as long as an event or a connection may name it.
pub struct Generation {
    /// Node-local number of the activation.
    pub epoch: u32,
    /// Given by whoever compiled the bundle; 0 is unordered.
    pub generation: u64,
    /// SHA-256 of the bundle's payload.
    pub hash: String,
    pub compiler: String,
    pub bundle: PathBuf,
    pub slot: u32,
    pub words: usize,
    pub summary: Summary,
    pub pods: Vec<LinkedPod>,
    /// By the record number of a cell; record 0 is "no record".
    pub attributions: Vec<Attribution>,
    /// What the proxy judges by.
    pub rules: Rules,
    /// Slots of the pods' addresses.
    pub slots: BTreeMap<IpAddr, u32>,
    pub since: SystemTime,
    pub times: Times,
}

/// How long an activation took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Times {
    pub read_us: u64,
    pub link_us: u64,
    /// From linked words to the store that makes them active; a grace period included, where one
    /// was waited for.
    pub publish_us: u64,
}

/// A record with names instead of numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attribution {
    /// `None` where userspace decides.
    pub cause: Option<Cause>,
    /// `namespace/name`
    pub policy: Option<String>,
    pub rule: Option<u32>,
    pub audit: Vec<Hit>,
    pub dry_run: Vec<DryRunHit>,
}

/// Why a bundle does not become active. The old table stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("cannot read bundle `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("bundle `{path}` is not usable")]
    Bundle {
        path: PathBuf,
        #[source]
        source: BundleError,
    },
    #[error("bundle `{path}` does not fit this node")]
    Link {
        path: PathBuf,
        #[source]
        source: LinkError,
    },
    #[error("rules of bundle `{path}` cannot be prepared for the proxy")]
    Rules {
        path: PathBuf,
        #[source]
        source: CompileError,
    },
    #[error(
        "bundle `{path}` is of generation {found}, and generation {active} is active: compile it with a higher one"
    )]
    Older {
        path: PathBuf,
        found: u64,
        active: u64,
    },
    #[error(transparent)]
    Table(#[from] TableError),
}

/// A bundle that was read, with the time it took.
#[derive(Debug)]
pub struct Loaded {
    pub bundle: Bundle,
    pub path: PathBuf,
    pub time: Duration,
}

/// Words for this node, with the time it took.
pub struct Prepared {
    pub linked: Linked,
    rules: Rules,
    slots: BTreeMap<IpAddr, u32>,
    pub time: Duration,
}

/// Reads a bundle and checks that it is whole and of this version.
pub fn read(path: &Path) -> Result<Loaded, ApplyError> {
    let start = Instant::now();
    let failed = |source| ApplyError::Read {
        path: path.into(),
        source,
    };
    let meta = fs::metadata(path).map_err(failed)?;
    if meta.len() > BUNDLE_MAX || !meta.is_file() {
        return Err(failed(io::Error::other(
            "it is not a file of at most one gigabyte",
        )));
    }
    let bytes = fs::read(path).map_err(failed)?;
    let bundle = bundle::read(&bytes).map_err(|source| ApplyError::Bundle {
        path: path.into(),
        source,
    })?;
    Ok(Loaded {
        bundle,
        path: path.into(),
        time: start.elapsed(),
    })
}

/// Links a bundle for this node. `before` is the table that is active now, if one is.
pub fn link(
    loaded: &Loaded,
    inventory: &Inventory,
    settings: &Settings,
    before: Option<&Tables>,
) -> Result<Prepared, ApplyError> {
    let start = Instant::now();
    let view = view(inventory, settings, before);
    let linked =
        link::link(&loaded.bundle.program, &inventory.cluster, &view, &[]).map_err(|source| {
            ApplyError::Link {
                path: loaded.path.clone(),
                source,
            }
        })?;
    let words = Box::new(Kept(linked.words.clone()));
    let program = &loaded.bundle.program;
    let rules =
        Rules::new(view.epoch, program, &linked, words).map_err(|source| ApplyError::Rules {
            path: loaded.path.clone(),
            source,
        })?;
    Ok(Prepared {
        rules,
        slots: slots_by_address(inventory, &linked),
        linked,
        time: start.elapsed(),
    })
}

/// Makes linked words the active table.
pub fn publish(
    tables: &mut Tables,
    loaded: Loaded,
    prepared: Prepared,
) -> Result<Generation, ApplyError> {
    let start = Instant::now();
    let published = tables.publish(&prepared.linked.words)?;
    let publish_us = micros(start.elapsed());
    let linked = prepared.linked;
    let program = loaded.bundle.program;
    Ok(Generation {
        epoch: published.epoch,
        generation: loaded.bundle.generation,
        hash: loaded.bundle.hash,
        compiler: loaded.bundle.compiler,
        bundle: loaded.path,
        slot: published.slot,
        words: linked.words.len(),
        summary: linked.summary,
        pods: linked.pods,
        attributions: linked
            .records
            .iter()
            .map(|record| attribution(&program, record))
            .collect(),
        rules: prepared.rules,
        slots: prepared.slots,
        since: SystemTime::now(),
        times: Times {
            read_us: micros(loaded.time),
            link_us: micros(prepared.time),
            publish_us,
        },
    })
}

/// Refuses a bundle that is older than the active one. Generation 0 is unordered.
pub fn check_order(loaded: &Loaded, active: u64) -> Result<(), ApplyError> {
    let found = loaded.bundle.generation;
    if found != 0 && found < active {
        return Err(ApplyError::Older {
            path: loaded.path.clone(),
            found,
            active,
        });
    }
    Ok(())
}

/// The slots that pods have in the active table, by their interfaces: kept over a restart of the
/// agent, because the connections that the kernel remembers name them.
pub fn slots(tables: &Tables, inventory: &Inventory) -> BTreeMap<PodName, u32> {
    let first = tables.read_active(header::PODS);
    let mut slots = BTreeMap::new();
    for slot in 0..tables.read_active(header::PODS_COUNT) {
        let ifindex = tables.read_active(first + slot * pod::WORDS + pod::INTERFACE);
        let owner = inventory
            .pods
            .iter()
            .find(|pod| ifindex != 0 && pod.interfaces.iter().any(|i| i.link.index == ifindex));
        if let Some(owner) = owner {
            slots.entry(owner.name.clone()).or_insert(slot);
        }
    }
    slots
}

fn view(inventory: &Inventory, settings: &Settings, before: Option<&Tables>) -> NodeView {
    let slots = before.map_or_else(BTreeMap::new, |tables| slots(tables, inventory));
    NodeView {
        local: Local::Only(inventory.names()),
        interfaces: inventory
            .pods
            .iter()
            .map(|pod| {
                (
                    pod.name.clone(),
                    pod.interfaces.iter().map(interface).collect(),
                )
            })
            .collect(),
        addresses: inventory.node_addresses.clone(),
        pod_cidrs: settings.pod_cidrs.clone(),
        host: settings.host,
        excluded_namespaces: settings.excluded_namespaces.iter().cloned().collect(),
        options: option_bits(settings),
        pod_flags: flags(inventory, &slots, before),
        epoch: before.map_or(0, Tables::epoch) + 1,
        capacity: before.map_or(0, Tables::capacity),
        slots,
    }
}

fn slots_by_address(inventory: &Inventory, linked: &Linked) -> BTreeMap<IpAddr, u32> {
    let mut slots = BTreeMap::new();
    for pod in &inventory.pods {
        let slot = linked
            .pods
            .iter()
            .find(|linked| linked.namespace == pod.name.0 && linked.name == pod.name.1)
            .map(|linked| linked.slot);
        slots.extend(slot.into_iter().flat_map(|slot| {
            let addresses = pod.addresses.iter();
            addresses.map(move |address| (*address, slot))
        }));
    }
    slots
}

/// The words of a table, kept for the proxy: the slot in the kernel may be written again while a
/// request is being judged.
struct Kept(Vec<u32>);

impl Words for Kept {
    fn at(&self, index: u32) -> u32 {
        self.0.as_slice().at(index)
    }
}

fn interface(interface: &crate::inventory::Interface) -> link::Interface {
    link::Interface {
        ifindex: interface.link.index,
        bridge: interface.bridge,
        netns_id: interface
            .netns_id
            .and_then(|id| u32::try_from(id).ok())
            .map_or(0, |id| id + 1),
    }
}

/// Flags beyond those that linking finds: of the pod's link, and those that outlive an activation.
fn flags(
    inventory: &Inventory,
    slots: &BTreeMap<PodName, u32>,
    before: Option<&Tables>,
) -> BTreeMap<PodName, u32> {
    let mut flags = BTreeMap::new();
    for local in &inventory.pods {
        let mut bits = 0;
        if local.interfaces.iter().any(|i| i.switched) {
            bits |= pod_flags::SWITCHED;
        }
        if let (Some(tables), Some(slot)) = (before, slots.get(&local.name)) {
            let at = tables.read_active(header::PODS) + slot * pod::WORDS + pod::FLAGS;
            // Flows that began through the proxy stay there, whatever the new table says.
            bits |= tables.read_active(at) & (pod_flags::PROXIED | pod_flags::PAUSED);
        }
        flags.insert(local.name.clone(), bits);
    }
    flags
}

fn option_bits(settings: &Settings) -> u32 {
    let mut bits = 0;
    for (set, bit) in [
        (settings.audit, options::AUDIT_MODE),
        (settings.refuse_drop, options::REFUSE_DROP),
        (settings.events_allowed, options::EVENTS_ALLOWED),
    ] {
        if set {
            bits |= bit;
        }
    }
    bits
}

fn attribution(program: &Program, record: &Record) -> Attribution {
    let name = |rule: &RuleRef| {
        program
            .policies
            .get(rule.policy.index())
            .map(policyc::ir::Policy::qualified_name)
    };
    let hit = |rule: &RuleRef| {
        name(rule).map(|policy| Hit {
            policy,
            rule: rule.rule,
        })
    };
    Attribution {
        cause: (record.verdict != Decided::Ask).then_some(record.cause),
        policy: record.rule.as_ref().and_then(name),
        rule: record.rule.map(|rule| rule.rule),
        audit: record.audit.iter().flat_map(hit).collect(),
        dry_run: record
            .dry_run
            .iter()
            .flat_map(|rule| {
                hit(rule).map(|hit| DryRunHit {
                    policy: hit.policy,
                    rule: hit.rule,
                    action: action(program, rule).into(),
                })
            })
            .collect(),
    }
}

fn action(program: &Program, rule: &RuleRef) -> &'static str {
    match program.policies.get(rule.policy.index()).map(|p| &p.action) {
        Some(policyc::ir::Action::Allow) => "ALLOW",
        Some(policyc::ir::Action::Audit) => "AUDIT",
        Some(policyc::ir::Action::Custom { .. }) => "CUSTOM",
        Some(policyc::ir::Action::Deny) | None => "DENY",
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
