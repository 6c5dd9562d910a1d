//! Our proxy as a process of its own: it reads a bundle, links it and judges by it, as the agent does;
//! only the kernel is left out.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use enforcer::proxy::{
    Event, Flow, Flows, Judge, Maker, ProxyConfig, Reporter, Ruling, UpstreamTarget, rules::Rules,
    start,
};
use enforcer_ebpf::words::Words;
use policyc::{
    bundle,
    cluster::Cluster,
    diagnostic::any_error,
    inventory::Inventory,
    ir::RuleRef,
    link::{self, Local, NodeView},
    options::CatchAllDeny,
    read, resolve,
};
use serde_json::json;
use tokio::sync::watch;

use super::policies::{Kind, account, path};

/// The pod: the proxy listens at its address.
const POD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The client.
const CLIENT: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[derive(clap::Args)]
pub struct Options {
    #[arg(long)]
    bundle: PathBuf,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    backend: SocketAddr,
}

/// How to start it, and where it will listen.
pub fn command(
    folder: &Path,
    kind: Kind,
    count: usize,
    backend: SocketAddr,
) -> Result<(Command, SocketAddr)> {
    let at = TcpListener::bind((POD, 0))?.local_addr()?;
    let file = folder.join(format!("{kind:?}-{count}.bin"));
    fs::write(&file, compile(kind, count)?)?;
    let mut command = Command::new("taskset");
    command
        .args(["-c", &super::load::proxy_cpu().to_string()])
        .arg(std::env::current_exe()?)
        .arg("proxy")
        .arg("--bundle")
        .arg(file)
        .args(["--listen", &at.to_string()])
        .args(["--backend", &backend.to_string()]);
    Ok((command, at))
}

fn compile(kind: Kind, count: usize) -> Result<Vec<u8>> {
    let pod = |name: &str, account: &str, ip: Ipv4Addr| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"serviceAccountName": account, "containers": [{"name": "main", "image": "none"}]},
            "status": {"phase": "Running", "podIP": ip.to_string()},
        })
    };
    let mut items = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
        pod("backend", "backend", POD),
        pod("client", "last", CLIENT),
    ];
    let policy = |name: String, spec: serde_json::Value| {
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec,
        })
    };
    let selector = json!({"matchLabels": {"app": "backend"}});
    if kind == Kind::Tcp {
        let when = json!([{"key": "connection.sni", "values": ["bad.example"]}]);
        let spec = json!({"selector": selector, "action": "DENY", "rules": [{"when": when}]});
        items.push(policy("not-one-name".into(), spec));
    } else {
        for i in 0..count {
            let name = account(i, count);
            let principal = format!("cluster.local/ns/default/sa/{name}");
            let rule = json!({
                "from": [{"source": {"principals": [principal]}}],
                "to": [{"operation": {"methods": ["GET"], "paths": [path(kind, i, count)]}}],
            });
            items.push(policy(name, json!({"selector": selector, "rules": [rule]})));
        }
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let (loaded, found) = read::load_str("bench.json", &list, None);
    ensure!(!any_error(&found), "the bench's own policies: {found:?}");
    let place = |_: &policyc::diagnostic::At| ("bench.json".into(), 1);
    let cluster = &loaded.cluster;
    let none = Default::default();
    let program = resolve::resolve(cluster, CatchAllDeny::DenyAll, &none, &place)?;
    Ok(bundle::write(&program, &Inventory::of(cluster), 0)?)
}

struct World {
    rules: Rules,
    changes: watch::Sender<u64>,
}

struct Kept(Vec<u32>);

impl Words for Kept {
    fn at(&self, index: u32) -> u32 {
        self.0.as_slice().at(index)
    }
}

impl Judge for World {
    fn ruling(&self, flow: Flow, maker: Maker) -> Option<Ruling> {
        Some(self.rules.ruling(flow, maker))
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
    fn policy_name(&self, _: u32, rule: RuleRef) -> Option<String> {
        self.rules.policy_name(rule)
    }
}

impl Flows for World {
    fn client_opened(&self, _: Flow) -> Maker {
        Maker::Unknown
    }
    fn upstream_opening(&self, _: Flow) -> io::Result<()> {
        Ok(())
    }
    fn upstream_closed(&self, _: Flow) {}
    fn client_closed(&self, _: Flow) {}
}

impl Reporter for World {
    fn verdict(&self, _: &Event<'_>) {}
    // As in an agent whose verdicts nobody follows.
    fn wants_verdicts(&self) -> bool {
        false
    }
}

/// Runs until it is killed.
pub fn run(options: &Options) -> Result<()> {
    let rules = rules(&options.bundle)?;
    let world = Arc::new(World {
        rules,
        changes: watch::Sender::new(0),
    });
    let config = ProxyConfig {
        listen: options.listen,
        upstream: UpstreamTarget::Fixed(options.backend),
        workers: 1,
        ..ProxyConfig::default()
    };
    let (judge, flows, reporter) = (world.clone(), world.clone(), world);
    let _proxy = start(config, judge, flows, reporter, || Ok(()), |_| Ok(()))?;
    loop {
        std::thread::sleep(Duration::from_secs(3_600));
    }
}

fn rules(path: &Path) -> Result<Rules> {
    let bytes = fs::read(path).context("the bundle")?;
    let bundle = bundle::read(&bytes)?;
    let cluster: Cluster =
        bundle::read_inventory(&bytes)?.into_cluster(bundle.program.mesh.clone());
    let node = NodeView {
        local: Local::Only([("default".into(), "backend".into())].into()),
        epoch: 1,
        ..NodeView::default()
    };
    ensure!(
        cluster.pods.iter().any(|pod| pod.ips == [IpAddr::V4(POD)]),
        "the bundle has the pod"
    );
    let linked = link::link(&bundle.program, &cluster, &node, &[])?;
    let words = Box::new(Kept(linked.words.clone()));
    Ok(Rules::new(1, &bundle.program, &linked, words)?)
}
