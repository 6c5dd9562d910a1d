//! `enforcer run`: the agent itself.

mod cluster;
mod proxy;
pub(super) mod tasks;

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Args, ValueEnum};
use policyc::link::HostMode;
use tokio::sync::mpsc;

use tasks::{Signals, ask_hooks, clean, log_to_stderr, supervise, watch};

use super::{Failure, Format, PlaceArgs, SocketArgs, StateArgs};
use crate::{
    addresses,
    agent::{
        Agent, Gather, HookChoice, Options, Running,
        links::{self, Hands},
        start,
    },
    apply::{self, NamespaceSelector, Settings},
    attach::Attach,
    control::{self, Answer, Leaving},
    delivery::{self, Delivery, Fetched, Kept, Watch},
    detach::{self, DetachError, Removed},
    inventory::Wanted,
    pins::Pins,
    report::{asked::Asked, events, metrics},
    trust, uplinks,
};

/// Enforce a bundle on this node
///
/// Programs and maps outlive the agent: when it is stopped or killed, the last bundle goes on being
/// enforced, and a new agent takes over without a gap. `enforcer detach` ends enforcement.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  enforcer run --bundle bundle.bin --inventory manifests/\n  enforcer run --bundle bundle.bin --inventory pods.yaml --interface vbackend --mode audit\n  enforcer run --bundle bundle.bin --inventory manifests/ --require-signature policyc.pub\n  enforcer run --kube --policy-source=cluster --node-name worker-1"
)]
pub struct Run {
    /// The same options as a YAML mapping; what is given otherwise counts more
    #[arg(long, value_name = "FILE", env = "ENFORCER_CONFIG")]
    config: Option<PathBuf>,
    /// Made by `policyc compile`: a file, `configmap:NAMESPACE/NAME/KEY`, `oci:REGISTRY/REPOSITORY:TAG`
    /// or `oci:REGISTRY/REPOSITORY@DIGEST` (`oci+http:` without TLS). What is published there later is
    /// taken over
    #[arg(long, value_name = "SOURCE", env = "ENFORCER_BUNDLE")]
    bundle: Option<delivery::Source>,
    /// Seconds between two looks at a registry, and before a bundle that was refused is tried again
    #[arg(
        long,
        value_name = "SECONDS",
        env = "ENFORCER_BUNDLE_POLL",
        default_value = "60",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    bundle_poll: u64,
    /// Who the agent is to the registry, as `docker login` or a pull secret has it; read at each look
    #[arg(long, value_name = "FILE", env = "ENFORCER_BUNDLE_CREDENTIALS")]
    bundle_credentials: Option<PathBuf>,
    /// Accept only bundles that this public key has signed, PEM; repeatable, any of the keys will do
    #[arg(long, value_name = "KEY", env = "ENFORCER_REQUIRE_SIGNATURE")]
    require_signature: Vec<PathBuf>,
    /// Where the highest accepted generation is remembered, with --require-signature
    #[arg(long, value_name = "FILE", env = "ENFORCER_ACCEPTED", default_value = trust::STATE)]
    accepted: PathBuf,
    /// Manifests of namespaces, pods, services and nodes: a file or a folder; repeatable
    #[arg(long, value_name = "PATH", env = "ENFORCER_INVENTORY")]
    inventory: Vec<PathBuf>,
    #[command(flatten)]
    cluster: cluster::ClusterArgs,
    /// Istio's MeshConfig
    #[arg(long, value_name = "FILE", env = "ENFORCER_MESH")]
    mesh: Option<PathBuf>,
    /// Only pods of the inventory that run on this node. With --kube the default is the variable
    /// NODE_NAME, and else the host's name
    #[arg(long, value_name = "NAME", env = "ENFORCER_NODE_NAME")]
    node_name: Option<String>,
    /// Police only pods behind these interfaces, and guard the others against spoofing; repeatable
    #[arg(
        long,
        value_name = "NAME",
        env = "ENFORCER_INTERFACE",
        value_delimiter = ','
    )]
    interface: Vec<String>,
    /// `audit` reports verdicts and refuses nothing
    #[arg(long, value_enum, env = "ENFORCER_MODE", default_value = "enforce")]
    mode: Mode,
    /// What a refused connection meets: a TCP reset, or silence
    #[arg(long, value_enum, env = "ENFORCER_REFUSE", default_value = "reset")]
    refuse: Refuse,
    /// What the node itself may reach: ports that probes declare, everything, or what policy allows
    #[arg(long, value_enum, env = "ENFORCER_HOST", default_value = "probes")]
    host: Host,
    /// What is not TCP: AuthorizationPolicy governs TCP only, and the rest passes; or it is judged by
    /// source and port (UDP, SCTP) or by source (ICMP and the rest, as for a port that no rule names).
    /// Answers to what a pod sends first pass, while no more than a minute goes by without a datagram
    #[arg(long, value_enum, env = "ENFORCER_NON_TCP", default_value = "pass")]
    non_tcp: NonTcp,
    /// Which verdicts `monitor` sees: refused and steered connections, or allowed ones too
    #[arg(long, value_enum, env = "ENFORCER_EVENTS", default_value = "refused")]
    events: Events,
    /// Range of pod addresses beyond those of the inventory's Nodes; repeatable
    #[arg(
        long,
        value_name = "CIDR",
        env = "ENFORCER_POD_CIDR",
        value_delimiter = ','
    )]
    pod_cidr: Vec<ipnet::IpNet>,
    /// What becomes of connections to a pod whose interface is there already and of which nobody has
    /// told yet: they are refused in silence until it is known, or let through. Such an interface has
    /// an address of the pods' ranges behind it. Default: `deny` with --kube, `allow` otherwise, since
    /// files need not name every pod
    #[arg(long, value_enum, env = "ENFORCER_UNKNOWN_POD")]
    unknown_pod: Option<UnknownPod>,
    /// Only pods of these namespaces are policed, the others guarded against spoofing; repeatable
    #[arg(
        long,
        value_name = "NAME|LABEL=VALUE",
        env = "ENFORCER_ENROLL_NAMESPACE",
        value_delimiter = ','
    )]
    enroll_namespace: Vec<NamespaceSelector>,
    /// Believe in the address of another node's pod only where its packet came in through this device;
    /// repeatable, in the environment separated by commas. Name those that authenticate the nodes to
    /// each other, such as WireGuard's: `enforcer doctor` lists what carries pods' packets. A device
    /// may come and go; without it its packets are dropped, reason `untrusted_path`
    #[arg(
        long,
        value_name = "DEV",
        env = "ENFORCER_TRUSTED_UPLINK",
        value_delimiter = ','
    )]
    trusted_uplink: Vec<String>,
    /// Namespaces whose pods are not policed, only guarded against spoofing; repeatable
    #[arg(
        long,
        value_name = "NAME|LABEL=VALUE",
        env = "ENFORCER_EXCLUDE_NAMESPACE",
        value_delimiter = ',',
        default_value = "kube-system"
    )]
    exclude_namespace: Vec<NamespaceSelector>,
    /// Do not ask for pods' label `enforcer/enroll`, which otherwise counts more than their namespace
    #[arg(long, env = "ENFORCER_IGNORE_ENROLL_LABEL")]
    ignore_enroll_label: bool,
    /// Police pods that have a sidecar proxy or are redirected by an ambient mesh, too. Their policies
    /// are then judged by what that proxy sends and receives, which is often not who really asks
    #[arg(long, env = "ENFORCER_ENROLL_MESHED")]
    enroll_meshed: bool,
    /// Where packets to a pod are judged: where they skip the node's end of the pod's link, its own end
    /// is the place, in its namespace. There refusals are silent, and what needs the proxy is refused
    #[arg(long, value_enum, env = "ENFORCER_HOOK", default_value = "auto")]
    hook: HookChoice,
    /// How programs are attached; default: TCX where the kernel has it (6.6)
    #[arg(long, value_enum, env = "ENFORCER_ATTACH")]
    attach: Option<Attach>,
    /// Words of 4 bytes that a table may have; default: twice what the first one needs
    #[arg(long, value_name = "WORDS", env = "ENFORCER_CAPACITY")]
    capacity: Option<u32>,
    /// Run no proxy: connections whose verdict needs one are refused
    #[arg(long, env = "ENFORCER_NO_PROXY")]
    no_proxy: bool,
    /// Forward the programs' own log, at level debug
    #[arg(long, env = "ENFORCER_BPF_LOG")]
    bpf_log: bool,
    /// How the agent logs; what, says the variable RUST_LOG
    #[arg(long, value_enum, env = "ENFORCER_LOG_FORMAT", default_value = "human")]
    log_format: Format,
    #[command(flatten)]
    proxy: proxy::ProxyArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    state: StateArgs,
    /// All of this, for reports.
    #[arg(skip)]
    effective: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Mode {
    Enforce,
    Audit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Refuse {
    Reset,
    Drop,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Host {
    Probes,
    All,
    Enforce,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum NonTcp {
    Pass,
    Enforce,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum UnknownPod {
    Allow,
    Deny,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Events {
    Refused,
    All,
}

impl Run {
    /// Remembers how it was configured.
    pub(super) fn configured(&mut self, effective: BTreeMap<String, serde_json::Value>) {
        self.effective = effective;
    }

    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        log_to_stderr(self.log_format, self.bpf_log);
        // Two threads: one may wait for a grace period while the other serves.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Result<ExitCode, Failure> {
        let began = std::time::Instant::now();
        // Before anything is made, so that no end of the agent goes unnoticed.
        let mut signals = Signals::listen()?;
        let metrics = match self.proxy.metrics_listen {
            Some(address) => Some(metrics::bind(address).await.map_err(|error| {
                format!("cannot listen at {address} for --metrics-listen: {error}")
            })?),
            None => None,
        };
        self.cluster.check(
            self.bundle.is_some(),
            &self.inventory,
            &self.require_signature,
        )?;
        let node = self.cluster.node(self.node_name.as_deref())?;
        let asked = Arc::new(Asked::default());
        if let Some(listener) = metrics {
            let served = metrics::serve(listener, asked.clone());
            tokio::spawn(supervise("metrics", served));
        }
        // Before anything is waited for: `status` says what.
        let (control, socket) = control::bind(&self.socket.socket)?;
        let (detach_sender, mut detach_wanted) = mpsc::channel(16);
        tokio::spawn(control::serve(control, asked.clone(), detach_sender));
        let mut source = self.cluster.source(node.as_deref()).await?;
        let given = match &mut source {
            None => None,
            Some((source, health)) => {
                asked.follows(health);
                let first = tokio::select! {
                    first = source.first() => first?,
                    () = ended(&mut signals, &mut detach_wanted) => {
                        return Err(start::StartError::Stopped.into());
                    }
                };
                Some(start::Given {
                    cluster: first.cluster,
                    policies: first.bundle,
                    health: health.clone(),
                })
            }
        };
        let delivered = match &self.bundle {
            None => None,
            Some(from) => {
                asked.fetches(from.to_string());
                let stop = ended(&mut signals, &mut detach_wanted);
                Some(self.delivered(from, stop).await?)
            }
        };
        let begins_with = delivered.as_ref().map(|delivered| delivered.first.clone());
        let options = self.options(begins_with, node);
        let (running, lock) = start::start(&options, given, signals.wait()).await?;
        let Running {
            agent,
            events,
            log,
            proxy,
            object,
            redirects,
        } = running;
        asked.runs(&agent);
        tokio::spawn(supervise(
            "events",
            events::run(events, agent.reporter.clone()),
        ));
        if let Some(log) = log {
            tokio::spawn(supervise("log", events::forward(log)));
        }
        if let Some((source, _)) = source {
            let gather = Arc::new(Gather::default());
            let (told, following) = (gather.clone(), agent.clone());
            tokio::spawn(async move { told.follow(following).await });
            tokio::spawn(supervise("cluster", source.follow(agent.clone(), gather)));
        }
        if let Some(delivered) = delivered {
            delivered.follow(agent.clone());
        }
        let fetching = agent.clone();
        tokio::spawn(async move { fetching.fetch_keys().await });
        tokio::spawn(clean(agent.clone()));
        let hands = Hands {
            ebpf: object,
            pins: Pins::below(&options.bpffs),
            wanted: options.wanted.clone(),
            redirects,
            netns: options.netns.clone(),
            mtu: None,
        };
        let following = links::follow(agent.clone(), hands);
        tokio::spawn(supervise("interfaces", following));
        tokio::spawn(watch(agent.clone()));
        tokio::spawn(addresses::watch(agent.clone()));
        tokio::spawn(ask_hooks(agent.clone()));
        if !self.trusted_uplink.is_empty() {
            tokio::spawn(uplinks::watch(agent.clone(), self.trusted_uplink.clone()));
        }
        tracing::info!(
            ready_ms = began.elapsed().as_millis(),
            socket = %options.socket.display(),
            "ready"
        );
        tokio::select! {
            () = signals.wait() => {
                drop(proxy);
                agent.keep();
                // Before the lock, with which the next agent may make one of its own.
                drop(socket);
                tracing::info!("stopping; what was enforced stays enforced until `enforcer detach`");
            }
            Some(leaving) = detach_wanted.recv() => {
                agent.leave();
                let removed = detach::all(&Pins::below(&options.bpffs), &options.netns).await;
                drop(proxy);
                agent.forget();
                drop(socket);
                drop(lock);
                let answer = answer(&removed);
                leaving.tell(&answer).await;
                while let Ok(other) = detach_wanted.try_recv() {
                    other.tell(&answer).await;
                }
                tracing::info!("{}", removed?);
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The bundle to begin with: what has come, or where that is refused what came before it, if it
    /// came over the network. A file that is refused is an error.
    async fn delivered(
        &self,
        from: &delivery::Source,
        stop: impl Future<Output = ()>,
    ) -> Result<Delivered, Failure> {
        let kept = Kept::within(&self.state.folder(&self.socket), from);
        let credentials = self.bundle_credentials.clone();
        let options = delivery::Options {
            poll: std::time::Duration::from_secs(self.bundle_poll),
            credentials: credentials.map(|path| delivery::Credentials { path }),
        };
        let mut bundles = Watch::of(from.clone(), &options);
        let first = tokio::select! {
            first = bundles.first(&kept) => first?,
            () = stop => return Err(start::StartError::Stopped.into()),
        };
        let (first, refused) = match from.is_file() {
            true => (first, None),
            false => self.acceptable(first, &kept)?,
        };
        Ok(Delivered {
            status: Arc::new(Delivery::of(from, &first)),
            from_file: from.is_file(),
            kept,
            bundles,
            first,
            refused,
        })
    }

    /// What has come over the network, or what had come before it.
    fn acceptable(
        &self,
        first: Fetched,
        kept: &Kept,
    ) -> Result<(Fetched, Option<(Fetched, String)>), Failure> {
        let trust = trust::Trust::open(&self.require_signature, &self.accepted)?;
        let check = |fetched: &Fetched| {
            let loaded = apply::parse(fetched.bytes.clone(), &fetched.name, &trust)?;
            apply::check_order(&loaded, 0, &trust)
        };
        let Err(error) = check(&first) else {
            return Ok((first, None));
        };
        match kept.read() {
            Some(before) if check(&before).is_ok() => {
                Ok((before, Some((first, crate::chain(&error)))))
            }
            _ => Err(error.into()),
        }
    }

    fn options(&self, bundle: Option<Fetched>, node: Option<String>) -> Options {
        Options {
            bundle,
            inventory: self.inventory.clone(),
            mesh: self.mesh.clone(),
            wanted: Wanted {
                node,
                interfaces: self.interface.clone(),
            },
            settings: Settings {
                audit: self.mode == Mode::Audit,
                refuse_drop: self.refuse == Refuse::Drop,
                events_allowed: self.events == Events::All,
                host: match self.host {
                    Host::Probes => HostMode::Probes,
                    Host::All => HostMode::All,
                    Host::Enforce => HostMode::Enforce,
                },
                pod_cidrs: self.pod_cidr.clone(),
                enrolled_namespaces: self.enroll_namespace.clone(),
                excluded_namespaces: self.exclude_namespace.clone(),
                enroll_meshed: self.enroll_meshed,
                ignore_label: self.ignore_enroll_label,
                non_tcp: self.non_tcp == NonTcp::Enforce,
                deny_unknown: match self.unknown_pod {
                    Some(choice) => choice == UnknownPod::Deny,
                    None => self.cluster.is_followed(),
                },
                trusted_uplinks: self.trusted_uplink.clone(),
                keys: Default::default(),
            },
            signature_keys: self.require_signature.clone(),
            accepted: self.accepted.clone(),
            bpffs: self.place.bpffs.clone(),
            netns: self.place.netns.clone(),
            socket: self.socket.socket.clone(),
            state: self.state.folder(&self.socket),
            configuration: self.effective.clone(),
            proxy: (!self.no_proxy).then(|| self.proxy.config()),
            freshness: self.proxy.freshness(),
            access_log: self.proxy.access_log.clone(),
            attach: self.attach.unwrap_or_else(Attach::best),
            hook: self.hook,
            capacity: self.capacity,
            bpf_log: self.bpf_log,
        }
    }
}

/// Told to end before there is anything to take away. Whoever has asked to detach hears nothing, and does
/// it alone: nobody is in the way then.
async fn ended(signals: &mut Signals, detach: &mut mpsc::Receiver<Leaving>) {
    tokio::select! {
        () = signals.wait() => {}
        Some(_leaving) = detach.recv() => {}
    }
}

/// What a bundle's source has brought at first, and will bring.
struct Delivered {
    from_file: bool,
    kept: Kept,
    bundles: Watch,
    first: Fetched,
    /// What came and is not what the agent begins with, with the reason.
    refused: Option<(Fetched, String)>,
    status: Arc<Delivery>,
}

impl Delivered {
    fn follow(self, agent: Arc<Agent>) {
        let status = agent.delivery.get_or_init(|| self.status).clone();
        match &self.refused {
            Some((fetched, why)) => status.refused(fetched, why.clone()),
            None if !self.from_file => self.kept.write(&self.first),
            None => {}
        }
        tokio::spawn(delivery::follow(self.bundles, agent, status, self.kept));
    }
}

fn answer(removed: &Result<Removed, DetachError>) -> Answer {
    match removed {
        Ok(removed) => Answer::Detached(*removed),
        Err(error) => Answer::Error(crate::chain(error)),
    }
}
