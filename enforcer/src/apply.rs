//! From a bundle to the words of this node's table. Everything that can fail comes before the one
//! store that switches; whatever does fail changes nothing and says why.

mod attribution;
mod before;
mod hash;
mod kept;
mod namespaces;
mod pauses;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use enforcer_ebpf::{
    judge::features,
    words::{UPLINKS_MAX, header, options, pod},
};
use policyc::{
    bundle::{self, Bundle, BundleError},
    l7::CompileError,
    link::{
        self, Disputes, HostMode, LinkError, Linked, LinkedPod, Local, NodeView, Sources, Summary,
    },
    lower::cell::Decided,
};

pub use attribution::Attribution;
use attribution::attributions;
pub use before::Before;
pub use hash::BundleHash;
pub use kept::{Kept, Live};
pub use namespaces::{NamespaceSelector, policed as namespace_policed};
pub use pauses::{seconds_since_boot, until};

use crate::{
    attach::HookAt,
    inventory::{Inventory, LocalPod, PodName, enrolment::left_out},
    proxy::rules::Rules,
    table::{Staged, TableError},
    trust::{Trust, TrustError},
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
    /// Namespaces whose pods are policed; empty for all.
    pub enrolled_namespaces: Vec<NamespaceSelector>,
    /// Of those, namespaces whose pods are guarded, and not policed.
    pub excluded_namespaces: Vec<NamespaceSelector>,
    /// Pods in a mesh are policed, too.
    pub enroll_meshed: bool,
    /// What pods say of themselves does not count.
    pub ignore_label: bool,
    /// Datagrams are judged, too.
    pub non_tcp: bool,
    /// Nobody begins anything with a pod that is not known yet.
    pub deny_unknown: bool,
    /// Names of the interfaces whose packets may speak for pods of other nodes; empty: all.
    pub trusted_uplinks: Vec<String>,
    /// Key sets that are fetched; all activations share it.
    pub keys: policyc::l7::KeyRing,
}

impl Settings {
    /// What the programs are to be loaded for: bits of [`features`].
    pub fn features(&self) -> u32 {
        let mut bits = 0;
        for (set, bit) in [
            (!self.trusted_uplinks.is_empty(), features::UPLINKS),
            (self.non_tcp, features::NON_TCP),
            (self.deny_unknown, features::UNKNOWN_PODS),
        ] {
            if set {
                bits |= bit;
            }
        }
        bits
    }
}

/// One activation: what the table means. Lives as long as an event or a connection may name it.
pub struct Generation {
    /// Node-local number of the activation.
    pub epoch: u32,
    /// Given by whoever compiled the bundle; 0 is unordered.
    pub generation: u64,
    pub hash: BundleHash,
    pub compiler: String,
    /// Where it came from.
    pub bundle: PathBuf,
    /// What it says, for when the node changes.
    pub content: Arc<Bundle>,
    pub slot: u32,
    pub words: usize,
    pub summary: Summary,
    pub pods: Vec<LinkedPod>,
    /// By the record number of a cell; record 0 is "no record".
    pub attributions: Vec<Attribution>,
    /// The same, what they say.
    pub verdicts: Vec<Decided>,
    /// What the proxy judges by.
    pub rules: Rules,
    /// What it takes to follow sources while the table is in force.
    pub kept: Kept,
    sources: Mutex<Sources>,
    /// Slots of the pods' addresses.
    pub slots: BTreeMap<IpAddr, u32>,
    pub since: SystemTime,
    pub times: Times,
}

impl Generation {
    /// The sources of the table, to be followed.
    pub fn sources(&self) -> MutexGuard<'_, Sources> {
        // A panic while it was held leaves whole values.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long an activation took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Times {
    pub read_us: u64,
    pub link_us: u64,
    /// From linked words to a slot that is ready to become active; a grace period included, where
    /// one was waited for.
    pub publish_us: u64,
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
    #[error("bundle `{path}` is not accepted")]
    Untrusted {
        path: PathBuf,
        #[source]
        source: TrustError,
    },
    #[error(
        "bundle `{path}` is of generation {found}, and generation {active} is active: compile it with a higher one"
    )]
    Older {
        path: PathBuf,
        found: u64,
        active: u64,
    },
    #[error("`{path}` is another bundle than the one that is active, which was not kept")]
    Another { path: PathBuf },
    #[error(transparent)]
    Table(#[from] TableError),
}

/// A bundle that was read, with the time it took.
#[derive(Debug)]
pub struct Loaded {
    pub bundle: Arc<Bundle>,
    pub hash: BundleHash,
    pub path: PathBuf,
    /// As they were read; empty where they need not be kept.
    pub bytes: Vec<u8>,
    pub time: Duration,
}

impl Loaded {
    /// What was compiled in this process. It is not kept, so that no rollback leads to it. Without a
    /// hash of its own, one is expected.
    pub fn compiled(bundle: Bundle, name: &str) -> Self {
        let hash = match bundle.hash.as_str() {
            "" => BundleHash::default(),
            hash => BundleHash::known(hash.to_owned()),
        };
        Self {
            hash,
            bundle: Arc::new(bundle),
            path: name.into(),
            bytes: Vec::new(),
            time: Duration::ZERO,
        }
    }
}

/// Words for this node, with the time it took.
pub struct Prepared {
    pub linked: Linked,
    rules: Rules,
    kept: Kept,
    sources: Sources,
    slots: BTreeMap<IpAddr, u32>,
    pub time: Duration,
}

/// Reads a bundle and checks that it is signed where that is required, whole, and of this version.
/// Whether it may follow what is active is [`check_order`]'s question.
pub fn read(path: &Path, trust: &Trust) -> Result<Loaded, ApplyError> {
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
    let mut loaded = parse(bytes, path, trust)?;
    loaded.time = start.elapsed();
    Ok(loaded)
}

/// Checks a bundle as [`read`] does. `path` names it.
pub fn parse(bytes: Vec<u8>, path: &Path, trust: &Trust) -> Result<Loaded, ApplyError> {
    let start = Instant::now();
    trust
        .check_signature(&bytes)
        .map_err(|source| ApplyError::Untrusted {
            path: path.into(),
            source,
        })?;
    let bundle = bundle::read(&bytes).map_err(|source| ApplyError::Bundle {
        path: path.into(),
        source,
    })?;
    Ok(Loaded {
        hash: BundleHash::known(bundle.hash.clone()),
        bundle: Arc::new(bundle),
        path: path.into(),
        bytes,
        time: start.elapsed(),
    })
}

/// Links a bundle for this node, to follow the table `before`. `capacity` is what a slot holds, in
/// words; 0 for the most that one may hold. What `active` says of addresses, the table in force for
/// this inventory's pods, is taken over where the policies allow it.
pub fn link(
    loaded: &Loaded,
    inventory: &Inventory,
    settings: &Settings,
    before: &Before,
    capacity: u32,
    active: Option<&Generation>,
) -> Result<Prepared, ApplyError> {
    let start = Instant::now();
    let slots = before.slots(inventory);
    let view = view(inventory, settings, before, capacity, &slots);
    let program = &loaded.bundle.program;
    let cluster = &inventory.cluster;
    let again = match active {
        Some(active) => {
            let sources = active.sources();
            link::link_again(&sources, active.kept.words(), program, cluster, &view)
        }
        None => Ok(None),
    };
    let linked = again.and_then(|again| match again {
        Some(again) => Ok(again),
        None => link::link_sources(program, cluster, &view, &[]),
    });
    let (linked, sources) = linked.map_err(|source| ApplyError::Link {
        path: loaded.path.clone(),
        source,
    })?;
    if !linked.disputed.is_empty() {
        let addresses = &linked.disputed;
        tracing::warn!(?addresses, "several pods claim them, and none is believed");
    }
    let kept = Kept::new(&linked.words, capacity);
    let words = Box::new(kept.clone());
    let rules = Rules::with_keys(view.epoch, program, &linked, words, &settings.keys).map_err(
        |source| ApplyError::Rules {
            path: loaded.path.clone(),
            source,
        },
    )?;
    let mut prepared = Prepared {
        rules,
        slots: slots_by_address(inventory, &linked),
        linked,
        kept,
        sources,
        time: start.elapsed(),
    };
    prepared.pause(before, &slots);
    Ok(prepared)
}

/// What an activation means, once its words lie in a slot: everything that reports and the proxy
/// need, before anybody can be judged by it.
pub fn generation(
    loaded: Loaded,
    prepared: Prepared,
    staged: &Staged,
    publish: Duration,
) -> Generation {
    let linked = prepared.linked;
    Generation {
        epoch: staged.epoch,
        generation: loaded.bundle.generation,
        hash: loaded.hash,
        compiler: loaded.bundle.compiler.clone(),
        bundle: loaded.path,
        slot: staged.slot,
        words: linked.words.len(),
        summary: linked.summary,
        attributions: attributions(&loaded.bundle.program, &linked.records),
        verdicts: linked.records.iter().map(|r| r.verdict).collect(),
        pods: linked.pods,
        content: loaded.bundle,
        rules: prepared.rules,
        kept: prepared.kept,
        sources: Mutex::new(prepared.sources),
        slots: prepared.slots,
        since: SystemTime::now(),
        times: Times {
            read_us: micros(loaded.time),
            link_us: micros(prepared.time),
            publish_us: micros(publish),
        },
    }
}

/// Refuses a bundle that is older than one that was active, and where signatures are required one
/// that is older than any that was ever accepted. Generation 0 is unordered. An operator's rollback
/// does not ask this.
pub fn check_order(loaded: &Loaded, active: u64, trust: &Trust) -> Result<(), ApplyError> {
    trust
        .check_order(loaded.bundle.generation, &loaded.bundle.hash)
        .map_err(|source| ApplyError::Untrusted {
            path: loaded.path.clone(),
            source,
        })?;
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

impl Prepared {
    /// Writes down which interfaces may speak for pods of other nodes.
    pub fn trust_uplinks(&mut self, indices: &[u32]) {
        for (at, index) in (header::UPLINKS..).zip(trusted(indices)) {
            self.linked.words[at as usize] = index;
        }
    }
}

/// The words of a table that stand for trusted interfaces.
pub fn trusted(indices: &[u32]) -> [u32; UPLINKS_MAX as usize] {
    let mut words = [0; UPLINKS_MAX as usize];
    for (word, index) in words.iter_mut().zip(indices) {
        *word = *index;
    }
    words
}

fn view(
    inventory: &Inventory,
    settings: &Settings,
    before: &Before,
    capacity: u32,
    slots: &BTreeMap<PodName, u32>,
) -> NodeView {
    NodeView {
        local: Local::Only(inventory.names()),
        interfaces: inventory
            .pods
            .iter()
            .map(|pod| {
                (
                    pod.name.clone(),
                    pod.interfaces.iter().map(|i| interface(pod, i)).collect(),
                )
            })
            .collect(),
        addresses: inventory.node_addresses.clone(),
        pod_cidrs: settings.pod_cidrs.clone(),
        host: settings.host,
        // Each pod of these is among those that are only guarded.
        excluded_namespaces: BTreeSet::new(),
        guarded_only: inventory
            .pods
            .iter()
            .filter(|pod| left_out(pod, &inventory.cluster, settings).is_some())
            .map(|pod| pod.name.clone())
            .collect(),
        options: option_bits(settings),
        pod_flags: before.flags(inventory, slots),
        epoch: before.epoch + 1,
        capacity,
        disputes: Disputes::Unknown,
        slots: slots.clone(),
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

fn interface(pod_: &LocalPod, interface: &crate::inventory::Interface) -> link::Interface {
    link::Interface {
        ifindex: interface.link.index,
        bridge: interface.bridge,
        netns_id: match interface.hook {
            // A socket that is not found may be alive all the same.
            _ if pod_.hides_sockets => 0,
            HookAt::Pod => pod::NETNS_OWN,
            HookAt::Host => interface
                .netns_id
                .and_then(|id| u32::try_from(id).ok())
                .map_or(0, |id| id + 1),
        },
    }
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

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
