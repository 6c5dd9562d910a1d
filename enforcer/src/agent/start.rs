//! Brings the agent up: everything that can be refused is checked first, then the table is filled,
//! then the programs are attached. On a node where nothing ran before, a failure leaves nothing
//! behind; where an earlier agent's programs enforce, they go on doing so.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use aya::maps::{MapData, MapError, RingBuf};
use enforcer_ebpf::maps::{EVENTS, HITS, LISTENERS, OUT, OUT_COUNT, PROXY, REASONS, UPSTREAM};

use super::{Agent, OrderError, State, owners_of};
use crate::{
    apply::{self, ApplyError, Settings},
    attach::{AttachError, Attacher, Hook, Outcome},
    detach,
    flows::{FlowsError, OutFlows},
    inventory::{self, Interface, Inventory, InventoryError, Wanted},
    object::{self, Object, ObjectError, take},
    pins::{Lock, Pins, PinsError},
    proxy_flows::{ProxyFlows, ProxyFlowsError},
    proxy_netns::{self, ProxyNetns, ProxyNetnsError},
    report::{
        Reporter,
        counters::{Counters, CountersError},
        events::Log,
    },
};

/// What the agent is started with.
#[derive(Clone, Debug)]
pub struct Options {
    pub bundle: PathBuf,
    pub inventory: Vec<PathBuf>,
    pub mesh: Option<PathBuf>,
    pub wanted: Wanted,
    pub settings: Settings,
    /// Directory on a BPF file system.
    pub bpffs: PathBuf,
    /// Name of the proxy's network namespace.
    pub netns: String,
    pub hook: Hook,
    /// Least words of a table; `None`: twice what the first one needs.
    pub capacity: Option<u32>,
    /// Forward the programs' own log.
    pub bpf_log: bool,
}

/// A running agent, with what its tasks need.
pub struct Running {
    pub agent: Arc<Agent>,
    pub events: RingBuf<MapData>,
    /// Where the proxy lives, and what it tells the kernel.
    pub proxy: ProxyNetns,
    pub proxy_flows: ProxyFlows,
    pub log: Option<Log>,
    pub object: aya::Ebpf,
    pub lock: Lock,
}

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "the agent must be root (uid 0), or have CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN"
    )]
    NotRoot,
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Pins(#[from] PinsError),
    #[error(transparent)]
    ProxyNetns(#[from] ProxyNetnsError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Flows(#[from] FlowsError),
    #[error(transparent)]
    Counters(#[from] CountersError),
    #[error(transparent)]
    ProxyFlows(#[from] ProxyFlowsError),
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error("cannot read the events of the kernel")]
    Events {
        #[source]
        source: Box<MapError>,
    },
    #[error("cannot read the log of the programs")]
    Log {
        #[source]
        source: Box<aya_log::Error>,
    },
}

/// Starts the agent. Must be called within a tokio runtime.
pub async fn start(options: Options) -> Result<Running, StartError> {
    if !object::is_built() {
        return Err(ObjectError::NotBuilt.into());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    // Nothing is touched before bundle and inventory are known to be good.
    let loaded = apply::read(&options.bundle)?;
    let cluster = inventory::file::read(&options.inventory, options.mesh.as_deref())?;
    let inventory = inventory::find(cluster, &options.wanted).await?;
    let prepared = apply::link(&loaded, &inventory, &options.settings, None)?;

    let pins = Pins::below(&options.bpffs);
    let lock = pins.take()?;
    let enforced_before = !pins.link_names()?.is_empty();
    let first = First {
        loaded,
        inventory,
        prepared,
    };
    match bring_up(&options, &pins, lock, first).await {
        Ok(running) => Ok(running),
        Err(error) => {
            if !enforced_before {
                undo(&options, &pins).await;
            }
            Err(error)
        }
    }
}

struct First {
    loaded: apply::Loaded,
    inventory: Inventory,
    prepared: apply::Prepared,
}

async fn bring_up(
    options: &Options,
    pins: &Pins,
    lock: Lock,
    first: First,
) -> Result<Running, StartError> {
    let proxy = proxy_netns::ensure(&options.netns, first.inventory.mtu()).await?;
    let needed = u32::try_from(first.prepared.linked.words.len()).unwrap_or(u32::MAX);
    let capacity = options.capacity.unwrap_or_else(|| object::roomy(needed));
    let Object { mut ebpf, tables } = object::load(pins, &proxy, capacity, options.bpf_log)?;
    let log = options.bpf_log.then(|| logger(&mut ebpf)).transpose()?;
    let events = take(&mut ebpf, EVENTS)?
        .try_into()
        .map_err(|source| StartError::Events {
            source: Box::new(source),
        })?;
    let counters = Counters::new(take(&mut ebpf, REASONS)?, take(&mut ebpf, HITS)?)?;
    let count = MapData::from_pin(pins.map(OUT_COUNT)).map_err(|source| ObjectError::Map {
        name: OUT_COUNT,
        source: Box::new(source),
    })?;
    let out = OutFlows::new(take(&mut ebpf, OUT)?, &count)?;

    let proxy_flows = ProxyFlows::new(
        take(&mut ebpf, UPSTREAM)?,
        take(&mut ebpf, PROXY)?,
        take(&mut ebpf, LISTENERS)?,
    )?;
    // Its sockets ended with the agent that held them.
    proxy_flows.forget_all()?;

    let known = apply::slots(&tables, &first.inventory);
    let reporter = Arc::new(Reporter::new());
    reporter.name_pods(&first.inventory.cluster);
    let agent = Agent {
        state: Mutex::new(State {
            tables,
            counters,
            out,
            inventory: first.inventory,
            slots: Default::default(),
        }),
        active: arc_swap::ArcSwapOption::empty(),
        reporter,
        changes: tokio::sync::watch::Sender::new(0),
        settings: options.settings.clone(),
        hook: options.hook,
    };
    {
        let state = &mut *agent.state();
        // Epoch, slots and flags go on where an earlier agent's table stopped.
        let prepared = if state.tables.active_slot().is_some() {
            apply::link(
                &first.loaded,
                &state.inventory,
                &options.settings,
                Some(&state.tables),
            )?
        } else {
            first.prepared
        };
        agent.publish(state, first.loaded, prepared)?;
        attach(options, pins, &mut ebpf, &proxy, state, &known)?;
    }
    Ok(Running {
        agent: Arc::new(agent),
        events,
        proxy,
        proxy_flows,
        log,
        object: ebpf,
        lock,
    })
}

/// Attaches everything in the order in which nothing is refused that should not be.
fn attach(
    options: &Options,
    pins: &Pins,
    ebpf: &mut aya::Ebpf,
    proxy: &ProxyNetns,
    state: &mut State,
    known: &std::collections::BTreeMap<inventory::PodName, u32>,
) -> Result<(), StartError> {
    let mut attacher = Attacher::new(ebpf, pins, options.hook);
    let mut outcomes: Vec<Outcome> = Vec::new();
    outcomes.push(attacher.lookup(&proxy.netns)?);
    outcomes.push(attacher.l7(&proxy_netns::outside_link(proxy))?);
    let interfaces: Vec<Interface> = state.inventory.interfaces().cloned().collect();
    // Connections that are there already are found before their answers are judged; those that are
    // opened while we attach are found by the second look.
    let mut seeded = seed(state, known)?;
    for interface in &interfaces {
        outcomes.push(attacher.from_pod(&interface.link)?);
    }
    seeded += seed(state, known)?;
    for interface in &interfaces {
        outcomes.push(attacher.to_pod(&interface.link)?);
    }
    let gone = attacher.prune()?;
    let others = pins.remove_other_versions()?;
    let count = |outcome| outcomes.iter().filter(|o| **o == outcome).count();
    tracing::info!(
        interfaces = interfaces.len(),
        made = count(Outcome::Made),
        replaced = count(Outcome::Replaced),
        remade = count(Outcome::Remade),
        detached = gone.len() + others,
        seeded,
        "attached"
    );
    Ok(())
}

/// Remembers the open connections of pods that were not guarded before.
fn seed(
    state: &mut State,
    known: &std::collections::BTreeMap<inventory::PodName, u32>,
) -> Result<usize, StartError> {
    let guarded: Vec<u32> = known.values().copied().collect();
    let owners = owners_of(&state.tables, &state.inventory);
    let mut seeded = 0;
    for owner in owners.iter().filter(|o| !guarded.contains(&o.slot)) {
        seeded += state.out.seed(owner)?;
    }
    Ok(seeded)
}

fn logger(ebpf: &mut aya::Ebpf) -> Result<Log, StartError> {
    aya_log::EbpfLogger::init(ebpf).map_err(|source| StartError::Log {
        source: Box::new(source),
    })
}

/// Takes away what a failed first start has made. What cannot be taken away is named.
async fn undo(options: &Options, pins: &Pins) {
    if let Err(error) = detach::all(pins, &options.netns).await {
        tracing::error!(
            error = crate::chain(&error),
            "what the failed start has made is left behind: run `enforcer detach`"
        );
    }
}
