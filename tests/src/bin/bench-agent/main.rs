//! One agent in a large cluster: 1 000 nodes, 100 000 pods, 10 000 policies, and 1 000 changes of pods
//! a second. What it costs, and how long news takes until a packet meets it. `cargo xtask bench agent`
//! builds the agent and runs this.
//!
//! The cluster is a double of an API server, the node and its pods are real: a segment from another
//! node's pod is sent again and again until the answer shows that the news is enforced. Processor
//! time and memory are those of the agent's own process.

mod churn;
mod figures;
mod objects;
mod probe;
mod process;

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tests::{
    kube::double::Double,
    live::{agent::Home, possible, three_pods, traffic::Echo},
    ready::until,
    topology::{Topology, UPLINK},
};

use churn::Churn;
use figures::{Figures, Latencies};
use probe::{Probe, Seen};
use process::Process;

/// How long the agent may take until it knows the cluster, on a busy machine.
const START: Duration = Duration::from_secs(300);
/// How long news may take before it counts as lost.
const NEWS: Duration = Duration::from_secs(10);
/// Before anything is measured.
const WARM_UP: Duration = Duration::from_secs(5);
/// Between two changes of policies.
const REST: Duration = Duration::from_millis(100);
/// How often pods and policies come in a cluster where nothing else happens.
const QUIET: u32 = 30;

#[derive(Parser)]
struct Arguments {
    /// The agent's program
    #[arg(long)]
    enforcer: PathBuf,
    /// How long pods are measured, in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// How often a policy comes and goes
    #[arg(long, default_value_t = 100)]
    policies: u32,
    /// Write the figures there, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(possible(), "the agent cannot run here");
    let figures = measure(&arguments)?;
    print!("{figures}");
    if let Some(path) = &arguments.json {
        fs::write(path, serde_json::to_vec_pretty(&figures.json())?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let missed = figures.missed();
    for goal in &missed {
        println!("missed: {goal}");
    }
    Ok(match missed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// A node with another one beside it, from which other nodes' pods send.
fn node() -> Result<Topology> {
    let mut net = three_pods("bench-agent")?;
    // What comes back to a probe ends at its node: sent back, it would go round and round.
    net.with_remote()?
        .ip(&format!("route add blackhole {}", objects::PROBES))?;
    // Connections that are never made are soon forgotten.
    let backend = &net.get("backend").netns;
    backend.sysctl("net/ipv4/tcp_synack_retries", "0")?;
    Ok(net)
}

fn measure(arguments: &Arguments) -> Result<Figures> {
    let net = node()?;
    let _server = Echo::start(net.get("backend"), probe::PORT)?;
    let double = Double::start(&net.node)?;
    objects::fill(&double, &net);
    println!("{}", objects::summary());

    let program = arguments
        .enforcer
        .to_str()
        .context("a path in plain text")?;
    let home = Home::new(program, &net.node, "")?;
    let kubeconfig = home.file("kubeconfig");
    fs::write(&kubeconfig, double.kubeconfig())?;
    let began = Instant::now();
    let agent = home.follow(&net.node, &kubeconfig, &[])?;
    let agent = home.ready_within(START, agent)?;
    let start = began.elapsed();
    let process = Process::of(agent.id());

    let remote = net.remote.as_ref().context("it was made")?;
    let probe = Probe::open(remote, (&net.node, UPLINK), net.get("backend").v4)?;
    let double = std::sync::Arc::new(double);
    let (pod, address) = objects::probe_pod(0);
    double.set("pods", pod);
    probe.first(address, Seen::Answer, Instant::now(), START)?;
    println!("ready after {:.1} s", start.as_secs_f64());
    let mut next = 1..;
    let mut change = |latencies: &mut Latencies| {
        let number = next.next().context("numbers are left")?;
        let (pod, its) = objects::probe_pod(number);
        let changed = Instant::now();
        double.set("pods", pod);
        latencies.add(probe.first(its, Seen::Answer, changed, NEWS)?);
        objects::remove_probe_pod(&double, number);
        anyhow::Ok(())
    };
    let mut quiet_pods = Latencies::default();
    for _ in 0..QUIET {
        change(&mut quiet_pods)?;
        thread::sleep(REST);
    }
    let quiet_policies = policies(QUIET, &double, &probe, address)?;
    let churn = Churn::start(double.clone());
    thread::sleep(WARM_UP);

    let mut pods = Latencies::default();
    let (cpu, wall, changes) = (process.cpu()?, Instant::now(), churn.changes());
    while wall.elapsed() < Duration::from_secs(arguments.seconds) {
        change(&mut pods)?;
    }
    let wall = wall.elapsed();
    let cores = (process.cpu()? - cpu).as_secs_f64() / wall.as_secs_f64();
    let rate = (churn.changes() - changes) as f64 / wall.as_secs_f64();

    let policies = policies(arguments.policies, &double, &probe, address)?;
    churn.stop();
    let memory = process.memory()?;
    let known = until(NEWS, || counted(&home) == Some(objects::count()));
    ensure!(
        known,
        "the agent knows of {:?} pods, not {}",
        counted(&home),
        objects::count()
    );
    Ok(Figures {
        start,
        rate,
        cores,
        memory,
        quiet_pods,
        pods,
        quiet_policies,
        policies,
    })
}

/// A policy comes and goes so many times.
fn policies(times: u32, double: &Double, probe: &Probe, from: Ipv4Addr) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    for _ in 0..times {
        let changed = Instant::now();
        double.set("authorizationpolicies", objects::probe_policy());
        latencies.add(probe.first(from, Seen::Refusal, changed, NEWS)?);
        thread::sleep(REST);
        let changed = Instant::now();
        objects::remove_probe_policy(double);
        latencies.add(probe.first(from, Seen::Answer, changed, NEWS)?);
        thread::sleep(REST);
    }
    Ok(latencies)
}

/// Of how many pods the agent knows.
fn counted(home: &Home) -> Option<u64> {
    let status = home.status().ok()?;
    let kinds = status["cluster"]["kinds"].as_array()?;
    let pods = kinds.iter().find(|kind| kind["kind"] == "pods")?;
    pods["objects"].as_u64()
}
