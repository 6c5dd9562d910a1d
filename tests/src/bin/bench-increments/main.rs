//! What one change of the cluster costs at 10 000 policies and 100 000 pods, on a node with 30 of
//! them: from the call to the table written. `cargo xtask bench increments` builds and runs this.
//!
//! Times are of the processor, since others use the machine as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use enforcer::{
    apply::{self, Before, Generation, Loaded, Settings},
    inventory::{Enrolment, Inventory, LocalPod, PodName},
    table::Staged,
};
use enforcer_ebpf::words::Words;
use policyc::{
    ast::Source,
    bundle::Bundle,
    cluster::{Cluster, Pod},
    diagnostic::At,
    ir::Program,
    link::{
        Local, NodeView, Sources, Table,
        incremental::{Followed, PodChange},
        link_sources,
    },
    options::CatchAllDeny,
    resolve::{Amendable, resolve},
};
use serde_json::{Map, Value};
use tests::{
    cpu,
    generate::{Size, cluster},
};

/// As the agent's and the compiler's programs have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LOCAL_PODS: usize = 30;
const POD_CHANGES: usize = 2_000;
const POLICY_CHANGES: usize = 60;
/// Goals.
const POD_MS_MAX: f64 = 5.0;
const POLICY_MS_MAX: f64 = 20.0;

#[derive(Parser)]
struct Arguments {
    /// Write the figures there, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The words of a slot, written as the agent writes them.
struct Slot(Vec<u32>);

impl Words for Slot {
    fn at(&self, index: u32) -> u32 {
        self.0.as_slice().at(index)
    }
}

impl Table for Slot {
    fn store(&mut self, index: u32, word: u32) {
        if let Some(place) = self.0.get_mut(index as usize) {
            *place = word;
        }
    }

    fn room(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(0)
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut figures = Figures::default();
    let cluster = cluster(Size::LARGE);
    let program = program(&cluster)?;
    pods(&cluster, &program, &mut figures)?;
    policies(cluster, &mut figures)?;
    for (name, value) in &figures.values {
        println!("{value:>12}  {}", name.replace('_', " "));
    }
    for missed in &figures.missed {
        eprintln!("missed: {missed}");
    }
    if let Some(path) = arguments.json {
        fs::write(&path, Value::Object(figures.values).to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(match figures.missed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn program(cluster: &Cluster) -> Result<Program> {
    let nowhere = |_: &At| (String::new(), 1);
    Ok(resolve(
        cluster,
        CatchAllDeny::DenyAll,
        &BTreeMap::new(),
        &nowhere,
    )?)
}

/// Names of the node's own pods.
fn local(cluster: &Cluster) -> Vec<PodName> {
    let here = |pod: &&Arc<Pod>| pod.node.as_deref() == Some("node-0001");
    let pods = cluster.pods.iter().filter(here).take(LOCAL_PODS);
    pods.map(|pod| (pod.namespace.clone(), pod.name.clone()))
        .collect()
}

/// Pods of other nodes: one is added, moves to an account that others have, and is removed again.
fn pods(cluster: &Cluster, program: &Program, figures: &mut Figures) -> Result<()> {
    let view = NodeView {
        local: Local::Only(local(cluster).into_iter().collect()),
        ..NodeView::default()
    };
    let ((linked, mut sources), time) = {
        let (linked, time) = cpu::spent(|| link_sources(program, cluster, &view, &[]));
        (linked?, time)
    };
    figures.add("whole_link_ms", ms(time));
    let mut slot = Slot(linked.words);
    slot.0.resize(slot.0.len() + (64 << 10), 0);
    let [mut added, mut changed, mut removed] = [const { Vec::new() }; 3];
    let others = cluster.pods.iter().rev().map(AsRef::as_ref);
    let others: Vec<&Pod> = others.take(POD_CHANGES).collect();
    for (i, like) in others.iter().enumerate() {
        let (high, low) = (i / 250, i % 250);
        let name = (like.namespace.clone(), format!("new-{i}"));
        let mut one = Pod {
            name: name.1.clone(),
            ips: vec![format!("10.{}.200.{low}", 1 + high).parse()?],
            ..(*like).clone()
        };
        let before = one.clone();
        added.push(step(
            &mut sources,
            program,
            cluster,
            &mut slot,
            &name,
            None,
            Some(&before),
        )?);
        let other = others.get((i * 7 + 1) % others.len()).context("some pod")?;
        one.template
            .service_account
            .clone_from(&other.template.service_account);
        one.namespace.clone_from(&other.namespace);
        one.template.labels.insert("app".into(), "changed".into());
        let now = Some(&one);
        changed.push(step(
            &mut sources,
            program,
            cluster,
            &mut slot,
            &name,
            Some(&before),
            now,
        )?);
        removed.push(step(
            &mut sources,
            program,
            cluster,
            &mut slot,
            &name,
            now,
            None,
        )?);
    }
    figures.times("pod_added", added, POD_MS_MAX);
    figures.times("pod_changed", changed, POD_MS_MAX);
    figures.times("pod_removed", removed, POD_MS_MAX);
    Ok(())
}

fn step(
    sources: &mut Sources,
    program: &Program,
    cluster: &Cluster,
    slot: &mut Slot,
    name: &PodName,
    before: Option<&Pod>,
    now: Option<&Pod>,
) -> Result<Duration> {
    let change = [PodChange { name, before, now }];
    let (followed, time) = cpu::spent(|| sources.follow(program, cluster, &change, slot));
    ensure!(matches!(followed, Followed::Done(_)), "{followed:?}");
    Ok(time)
}

/// One policy has other sources than before: compiled, linked for the node, and written into the idle
/// slot.
fn policies(mut cluster: Cluster, figures: &mut Figures) -> Result<()> {
    let names = local(&cluster);
    let pods = names.iter().map(|name| LocalPod {
        name: name.clone(),
        addresses: Vec::new(),
        interfaces: Vec::new(),
        netns: None,
        enrolment: Enrolment::Wanted,
        gateway: false,
        hides_sockets: false,
        away: None,
    });
    let pods: Vec<LocalPod> = pods.collect();
    let mut slots = [Vec::new(), Vec::new()];
    let (mut compiled, mut linked, mut written, mut all) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut active = None;
    let mut amendable = Amendable::new(program(&cluster)?);
    for round in 0..POLICY_CHANGES {
        let (namespace, _) = names.get(round % names.len()).context("a local pod")?;
        let mut policies = cluster.policies.iter_mut();
        let policy = policies.find(|policy| policy.namespace == *namespace);
        let policy = policy.context("a policy")?;
        let rules = policy.rules.as_mut();
        let rule = rules
            .and_then(|rules| rules.first_mut())
            .context("a rule")?;
        rule.from = Some(vec![Source {
            principals: Some(vec![format!(
                "cluster.local/ns/team-{:04}/sa/service-{:05}",
                round * 3 % 2_000,
                round * 3
            )]),
            ..Source::default()
        }]);
        let changed = Cluster {
            mesh: cluster.mesh.clone(),
            policies: vec![policy.clone()],
            ..Cluster::default()
        };
        let name = BTreeSet::from([(policy.namespace.clone(), policy.name.clone())]);
        let nowhere = |_: &At| (String::new(), 1);
        let (program, compile_time) = cpu::spent(|| {
            let amended = amendable.amend(&changed, &name, &nowhere);
            amended.map(|_| amendable.program().clone())
        });
        compiled.push(compile_time);
        let bundle = Bundle {
            generation: 0,
            compiler: String::new(),
            hash: String::new(),
            signer: None,
            program: program?,
        };
        let inventory = Inventory {
            cluster: Arc::new(std::mem::take(&mut cluster)),
            pods: pods.clone(),
            ..Inventory::default()
        };
        let loaded = Loaded::compiled(bundle, "the cluster");
        let (settings, before) = (Settings::default(), Before::default());
        let before = match &active {
            Some(Generation { pods, .. }) => before.named(pods),
            None => before,
        };
        let (prepared, link_time) =
            cpu::spent(|| apply::link(&loaded, &inventory, &settings, &before, 0, active.as_ref()));
        let prepared = prepared?;
        let words = &prepared.linked.words;
        let slot = &mut slots[round % 2];
        slot.resize(words.len(), 0);
        let ((), write_time) = cpu::spent(|| {
            for (place, word) in slot.iter_mut().zip(words) {
                if place != word {
                    *place = *word;
                }
            }
        });
        // Two slots are filled first.
        if round > 1 {
            linked.push(link_time);
            written.push(write_time);
            all.push(compile_time + link_time + write_time);
        }
        let staged = Staged { slot: 0, epoch: 1 };
        active = Some(apply::generation(loaded, prepared, &staged, write_time));
        cluster = Arc::unwrap_or_clone(inventory.cluster);
    }
    figures.add(
        "policy_compiled_median_ms",
        ms(quantile(&mut compiled, 0.5)),
    );
    figures.add("policy_linked_median_ms", ms(quantile(&mut linked, 0.5)));
    figures.add("policy_written_median_ms", ms(quantile(&mut written, 0.5)));
    figures.times("policy_changed", all, POLICY_MS_MAX);
    Ok(())
}

/// What was measured.
#[derive(Default)]
struct Figures {
    values: Map<String, Value>,
    missed: Vec<String>,
}

impl Figures {
    fn add(&mut self, name: &str, value: f64) {
        let rounded = (value * 1e4).round() / 1e4;
        self.values.insert(name.into(), rounded.into());
    }

    /// Median and 99th percentile, of which the latter has a goal.
    fn times(&mut self, what: &str, mut times: Vec<Duration>, most: f64) {
        self.add(&format!("{what}_median_ms"), ms(quantile(&mut times, 0.5)));
        let late = ms(quantile(&mut times, 0.99));
        self.add(&format!("{what}_p99_ms"), late);
        if late > most {
            let missed = format!("{what}_p99_ms is {late:.2}, more than {most}");
            self.missed.push(missed);
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let at = (times.len() as f64 * share).floor();
    times
        .iter()
        .enumerate()
        .find(|(i, _)| *i as f64 >= at)
        .map_or(Duration::MAX, |(_, time)| *time)
}
