//! Brings the agent up: everything that can be refused is checked first, then maps and places are
//! made, then the table and the programs take over. On a node where nothing ran before, a failure
//! leaves nothing behind; where an earlier agent's programs enforce, they go on doing so.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex},
};

use aya::maps::{Map, MapData, MapError, RingBuf};
use enforcer_ebpf::{
    maps::{
        DATAGRAMS_COUNT, DATAGRAMS_OUT, EVENTS, HITS, LISTENERS, MASQUERADED, OUT, OUT_COUNT,
        PROXY, REASONS, TABLES, UPSTREAM,
    },
    words::{Words as _, header},
};
use futures_util::FutureExt;
use policyc::{bundle::Bundle, cluster::Cluster};
use tokio::runtime::Handle;

use super::{Agent, HookChoice, Hooks, OrderError, State, take_up::take_up, takeover::Takeover};
use crate::{
    apply::{self, ApplyError, Before, Settings},
    attach::{Attach, AttachError, Attacher, Classifiers, others_programs},
    cni,
    delivery::Fetched,
    ext_authz::ExtAuthz,
    flows::{FlowsError, OutFlows, datagrams::DatagramFlows, denied::Exempt},
    inventory::{self, Inventory, InventoryError, Wanted, unknown},
    key_sets::{Fetcher, Freshness},
    kube::{self, Health},
    netlink::{self, NetlinkError},
    netns::{Netns, NetnsError},
    object::{self, Object, ObjectError, Room, take},
    pins::{Lock, Pins, PinsError},
    places::Places,
    proxy::{Proxy, ProxyConfig},
    proxy_flows::{ProxyFlows, ProxyFlowsError},
    proxy_host::{self, ProxyStartError},
    proxy_netns::{self, ProxyNetns, ProxyNetnsError, There},
    report::{
        Reporter,
        access::{AccessLog, AccessLogError},
        counters::{Counters, CountersError},
        events::Log,
    },
    rights::{self, RightsError},
    state::Keeper,
    trust::{Trust, TrustError},
    uplinks::{self, UplinksError},
};

/// What the agent is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bundle to begin with; `None` where policies come from the cluster.
    pub bundle: Option<Fetched>,
    pub inventory: Vec<PathBuf>,
    pub mesh: Option<PathBuf>,
    pub wanted: Wanted,
    pub settings: Settings,
    /// Files of public keys of which one must have signed a bundle; none: bundles need no signature.
    pub signature_keys: Vec<PathBuf>,
    /// File that remembers the highest accepted generation, where signatures are required.
    pub accepted: PathBuf,
    /// Directory on a BPF file system.
    pub bpffs: PathBuf,
    /// Name of the proxy's network namespace.
    pub netns: String,
    /// Where control commands are listened for.
    pub socket: PathBuf,
    /// Folder for what the kernel does not keep.
    pub state: PathBuf,
    /// All of this as it was given, for reports.
    pub configuration: BTreeMap<String, serde_json::Value>,
    /// Without it, what the proxy would judge is refused.
    pub proxy: Option<ProxyConfig>,
    /// How key sets are kept fresh.
    pub freshness: Freshness,
    /// Where accesses are logged; `-` is standard output.
    pub access_log: Option<PathBuf>,
    pub attach: Attach,
    pub hook: HookChoice,
    /// Least words of a table; `None`: twice what the first one needs.
    pub capacity: Option<u32>,
    /// Forward the programs' own log.
    pub bpf_log: bool,
}

/// What the API server has told of, in the place of files.
pub struct Given {
    pub cluster: Cluster,
    /// `None`: policies come from a bundle all the same.
    pub policies: Option<Bundle>,
    pub health: Arc<Health>,
}

/// A running agent, with what its tasks need.
pub struct Running {
    pub agent: Arc<Agent>,
    pub events: RingBuf<MapData>,
    pub log: Option<Log>,
    /// Ends when dropped; what would be steered to it is refused from then on.
    pub proxy: Option<Proxy>,
    pub object: aya::Ebpf,
    /// Another's programs on this node send packets straight into pods.
    pub redirects: bool,
}

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Rights(#[from] RightsError),
    #[error(transparent)]
    Uplinks(#[from] UplinksError),
    #[error(
        "--hook=pod needs TCX links, which Linux 6.6 brought and which --attach=clsact is not: what \
         sits in a pod's namespace otherwise, the pod may take away"
    )]
    NoInside,
    #[error("neither a bundle nor a cluster has policies to begin with")]
    NoPolicies,
    #[error("told to stop before it was ready")]
    Stopped,
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Proxy(#[from] ProxyStartError),
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Trust(#[from] TrustError),
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
    AccessLog(#[from] AccessLogError),
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

/// Starts the agent, unless `stop` comes first. The lock is to be given up last: then the next agent
/// may begin. Must be called within a tokio runtime.
pub async fn start(
    options: &Options,
    given: Option<Given>,
    stop: impl Future<Output = ()>,
) -> Result<(Running, Lock), StartError> {
    let mut stop = pin!(stop.fuse());
    if !object::is_built() {
        return Err(ObjectError::NotBuilt.into());
    }
    rights::check()?;
    options.attach.check()?;
    if options.hook == HookChoice::Pod && options.attach == Attach::Clsact {
        return Err(StartError::NoInside);
    }
    uplinks::check(&options.settings.trusted_uplinks)?;
    // Nothing is touched before bundle and inventory are known to be good.
    let first = tokio::select! {
        first = First::of(options, given) => first?,
        () = &mut stop => return Err(StartError::Stopped),
    };
    let found = Found::look(options).await?;
    let pins = Pins::below(&options.bpffs);
    let lock = pins.take()?;
    let kept_before = options.state.exists();
    // Before TCX an earlier agent's classifiers are not pinned; its tables are.
    let enforced_before = !pins.link_names()?.is_empty() || pins.map(TABLES).exists();
    let up = tokio::select! {
        up = bring_up(options, &pins, first, &found) => up,
        () = &mut stop => Err(StartError::Stopped),
    };
    let stopped = stop.now_or_never().is_some();
    match up {
        Ok(up) if enforced_before || !stopped => Ok((up, lock)),
        up => {
            let error = up.err().unwrap_or(StartError::Stopped);
            let undone = match enforced_before {
                true => pins.forget_grown_maps().map_err(StartError::from),
                false => found.restore(options, &pins).await,
            };
            if !enforced_before
                && !kept_before
                && let Err(error) = Keeper::remove(&options.state)
            {
                tracing::warn!(%error, "the agent's state is left behind");
            }
            if let Err(error) = undone {
                tracing::error!(
                    error = crate::chain(&error),
                    "what the failed start has made is left behind: run `enforcer detach`"
                );
            }
            Err(error)
        }
    }
}

/// What the agent begins with.
struct First {
    loaded: apply::Loaded,
    trust: Trust,
    inventory: Inventory,
    health: Option<Arc<Health>>,
    /// What the table needs, when none is there before.
    needed: Room,
}

impl First {
    async fn of(options: &Options, given: Option<Given>) -> Result<Self, StartError> {
        let trust = Trust::open(&options.signature_keys, &options.accepted)?;
        let (cluster, policies, health) = match given {
            Some(given) => (Some(given.cluster), given.policies, Some(given.health)),
            None => (None, None, None),
        };
        let loaded = match (policies, options.bundle.clone()) {
            (Some(bundle), _) => apply::Loaded::compiled(bundle, kube::source::NAME),
            (None, Some(Fetched { bytes, name })) => apply::parse(bytes, &name, &trust)?,
            (None, None) => return Err(StartError::NoPolicies),
        };
        apply::check_order(&loaded, 0, &trust)?;
        let mut inventory = match cluster {
            Some(mut cluster) => {
                // Identities are of the mesh that the policies were compiled for.
                cluster.mesh.clone_from(&loaded.bundle.program.mesh);
                inventory::find_live(cluster, &options.wanted).await?
            }
            None => {
                let cluster = inventory::file::read(&options.inventory, options.mesh.as_deref())?;
                inventory::find(cluster, &options.wanted).await?
            }
        };
        if options.settings.deny_unknown {
            let given = &options.settings.pod_cidrs;
            let ranges = unknown::ranges(&inventory.cluster, &options.wanted, given);
            inventory.unknown = unknown::look(&inventory, &ranges).await?.unknown;
            if ranges.is_empty() {
                tracing::warn!(
                    "no range of this node's pods is known, so that --unknown-pod=deny finds none: \
                     name it with --pod-cidr"
                );
            }
        }
        for (name, reason) in &inventory.lost {
            let pod = format!("{}/{}", name.0, name.1);
            tracing::warn!(pod, %reason, "not enforced");
        }
        if inventory.pods.is_empty() {
            tracing::warn!("no pod of this node is enforced: there is none, or none was found");
        }
        let nothing = Before::default();
        let prepared = apply::link(&loaded, &inventory, &options.settings, &nothing, 0, None)?;
        Ok(Self {
            loaded,
            trust,
            inventory,
            health,
            needed: Room {
                words: u32::try_from(prepared.linked.words.len()).unwrap_or(u32::MAX),
                records: prepared.linked.words.as_slice().at(header::RECORDS_COUNT),
            },
        })
    }
}

/// Whatever waits comes first: where this future is dropped, no verdict has changed.
async fn bring_up(
    options: &Options,
    pins: &Pins,
    mut first: First,
    found: &Found,
) -> Result<Running, StartError> {
    let place = proxy_netns::ensure(&options.netns, first.inventory.mtu()).await?;

    let room = Room {
        words: options
            .capacity
            .unwrap_or_else(|| object::roomy(first.needed.words)),
        records: object::roomy_records(first.needed.records),
    };
    let features = options.settings.features();
    let mut object = object::load(pins, &place, room, features, options.bpf_log)?;
    let uplinks = uplinks::indices(&options.settings.trusted_uplinks).await?;
    // The new programs may ask an old table that knows of none.
    object.tables.trust_uplinks(&apply::trusted(&uplinks));
    let log = options
        .bpf_log
        .then(|| logger(&mut object.ebpf))
        .transpose()?;
    let events = take(&mut object.ebpf, EVENTS)?
        .try_into()
        .map_err(|source| StartError::Events {
            source: Box::new(source),
        })?;
    let proxy_flows = ProxyFlows::new(
        take(&mut object.ebpf, UPSTREAM)?,
        take(&mut object.ebpf, PROXY)?,
        take(&mut object.ebpf, MASQUERADED)?,
        take(&mut object.ebpf, LISTENERS)?,
    )?;
    // The kernel may still be ending the sockets of the agent that held them.
    let left = proxy_flows.adopt()?;
    tracing::debug!(left, "flows of an earlier proxy");
    let reporter = Arc::new(Reporter::new());
    reporter.name_pods(&first.inventory.cluster);
    let places = Arc::new(Places::default());
    places.know(&first.inventory.cluster);
    let access = options.access_log.as_deref().map(AccessLog::open);
    let access = access.transpose()?;
    let Object { mut ebpf, tables } = object;
    let (before, capacity) = (Before::of(&tables), tables.capacity());
    let hooks = Hooks {
        choice: options.hook,
        attach: options.attach,
        pins: pins.clone(),
        capacity,
        features,
    };
    hooks.choose(&mut first.inventory, found.redirects)?;
    let (mut keeper, kept) = Keeper::open(&options.state);
    let mut counters = Counters::new(take(&mut ebpf, REASONS)?, take(&mut ebpf, HITS)?)?;
    let outgrown = take_up(&mut counters, &mut keeper, &kept, &tables, pins);
    if let Some(last) = kept.history.last().filter(|_| before.epoch > 0)
        && last.hash != first.loaded.bundle.hash
    {
        tracing::warn!(
            active = %last.bundle.display(),
            "the bundle that is in force is another one than --bundle names, which takes its place"
        );
    }
    let agent = Arc::new(Agent {
        state: Mutex::new(State {
            tables,
            counters,
            out: out_flows(&mut ebpf, pins)?,
            datagrams: DatagramFlows::new(
                take(&mut ebpf, DATAGRAMS_OUT)?,
                &pinned(pins, DATAGRAMS_COUNT)?,
            )?,
            exempt: Exempt::new(
                Map::HashMap(pinned(pins, UPSTREAM)?),
                Map::LruHashMap(pinned(pins, MASQUERADED)?),
            )?,
            ended_epoch: 0,
            inventory: Arc::new(first.inventory),
            leaving: false,
            shadow: None,
            keeper,
            kept,
            uplinks,
        }),
        active: arc_swap::ArcSwapOption::empty(),
        reporter,
        proxy: Default::default(),
        cluster: first.health,
        changes: tokio::sync::watch::Sender::new(0),
        look: Default::default(),
        wanted: options.wanted.clone(),
        inventory: (options.inventory.clone(), options.mesh.clone()),
        places: places.clone(),
        unfollowed: Default::default(),
        paused: Default::default(),
        settings: options.settings.clone(),
        hooks: hooks.clone(),
        paths: Mutex::default(),
        configuration: options.configuration.clone(),
        trust: first.trust,
        delivery: Default::default(),
        authorizers: Arc::new(ExtAuthz::new(Handle::current(), places.clone())),
        fetcher: Fetcher::new(options.settings.keys.clone(), places, options.freshness),
        access,
    });
    let proxy = start_proxy(options, &agent, proxy_flows, &place)?;
    let takeover = Takeover {
        attacher: Attacher::new(&mut ebpf, pins, options.attach, found.classifiers.clone()),
        pins,
        proxy: &place,
        before: &before,
        hooks: &hooks,
        outgrown,
    };
    let unremembered = takeover.unremembered(&agent.state().inventory.pods)?;
    // Epoch, slots and flags go on where an earlier agent's table stopped.
    let mut prepared = apply::link(
        &first.loaded,
        &agent.state().inventory,
        &options.settings,
        &before,
        capacity,
        None,
    )?;
    let seeding = prepared.seed(&unremembered);
    takeover.run(&agent, first.loaded, prepared, &seeding)?;
    Ok(Running {
        agent,
        events,
        log,
        proxy,
        object: ebpf,
        redirects: found.redirects,
    })
}

pub(super) async fn classifiers() -> Result<Classifiers, StartError> {
    let node = netlink::connect(&Netns::current()?)?;
    let links = netlink::links(&node).await?;
    Ok(Classifiers::find(&node, &links).await?)
}

async fn others_redirect() -> Result<bool, StartError> {
    let node = netlink::connect(&Netns::current()?)?;
    for link in netlink::links(&node).await? {
        let others = others_programs(&node, &link).await?;
        if others.iter().any(|name| cni::redirects(name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn out_flows(ebpf: &mut aya::Ebpf, pins: &Pins) -> Result<OutFlows, StartError> {
    Ok(OutFlows::new(take(ebpf, OUT)?, &pinned(pins, OUT_COUNT)?)?)
}

/// Another handle of a map that is pinned.
fn pinned(pins: &Pins, name: &'static str) -> Result<MapData, ObjectError> {
    MapData::from_pin(pins.map(name)).map_err(|source| ObjectError::Map {
        name,
        source: Box::new(source),
    })
}

/// Before anything can be steered to it.
fn start_proxy(
    options: &Options,
    agent: &Arc<Agent>,
    flows: ProxyFlows,
    place: &ProxyNetns,
) -> Result<Option<Proxy>, StartError> {
    let Some(config) = options.proxy.clone() else {
        return Ok(None);
    };
    let netns = Netns::open(place.netns.path())?;
    // It has a runtime of its own, which ends there and then when it cannot listen.
    let started =
        tokio::task::block_in_place(|| proxy_host::start(config, agent.clone(), flows, netns));
    Ok(Some(started?))
}

fn logger(ebpf: &mut aya::Ebpf) -> Result<Log, StartError> {
    aya_log::EbpfLogger::init(ebpf).map_err(|source| StartError::Log {
        source: Box::new(source),
    })
}

/// What was there of an agent's, this one's or another's, before the start touched anything.
struct Found {
    classifiers: Classifiers,
    place: There,
    /// Another's programs on this node send packets straight into pods.
    redirects: bool,
}

impl Found {
    async fn look(options: &Options) -> Result<Self, StartError> {
        Ok(Self {
            classifiers: classifiers().await?,
            place: proxy_netns::there(&options.netns).await?,
            redirects: others_redirect().await?,
        })
    }

    /// Takes away what a failed first start has made since, and nothing else.
    async fn restore(&self, options: &Options, pins: &Pins) -> Result<(), StartError> {
        pins.remove_all()?;
        let kept = |index, program: &'static str| self.classifiers.has(index, program);
        let (_, left) = classifiers().await?.remove_unless(kept);
        for (what, error) in left {
            tracing::error!(%error, what, "a classifier is left behind");
        }
        proxy_netns::remove_since(&options.netns, &self.place).await?;
        Ok(())
    }
}
