//! Text to an active table for 100 000 decisions, beside `nft -f` of the verdict map that says the
//! same: 100 destinations, each with 1 000 allowed sources of its own.

use std::{collections::BTreeMap, fmt::Write as _, fs, process::Command, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, IterableMap as _, Map};
use enforcer::{
    object::roomy,
    table::{Tables, create_outer},
};
use enforcer_ebpf::maps::ACTIVE_WORDS;
use policyc::{
    compile::compile,
    link::{self, NodeView},
    options::CatchAllDeny,
    read,
};
use serde_json::{Value, json};
use tests::{
    generate::manifests::yaml,
    netns::{Netns, unique_prefix},
    ready,
};

use crate::{Figures, median};

const BPF_F_MMAPABLE: u32 = 1 << 10;
const SOURCES: usize = 2_000;
const DESTINATIONS: usize = 100;
const ALLOWED: usize = 1_000;
const ROUNDS: usize = 5;

pub fn measure() -> Result<Figures> {
    if !ready::is_root() {
        bail!("only root can make an active table, and call nft");
    }
    let (ours, theirs) = (manifests(), ruleset());
    let file = std::env::temp_dir().join(format!("bench-compile-{}.nft", std::process::id()));
    fs::write(&file, &theirs).context("cannot write the ruleset")?;
    let netns = Netns::create(&unique_prefix("bench"))?;
    let (mut own, mut nft) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        activate(&ours)?;
        own.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        netns.output(Command::new("nft").arg("-f").arg(&file))?;
        nft.push(start.elapsed().as_secs_f64() * 1e3);
        netns.output(Command::new("nft").args(["flush", "ruleset"]))?;
    }
    fs::remove_file(&file)?;
    let (own, nft) = (median(own), median(nft));
    let mut figures = Figures::default();
    figures.add("yaml_mb", ours.len() as f64 / 1e6);
    figures.add("text_to_active_ms", own);
    figures.add("nft_ms", nft);
    figures.add("times_faster_than_nft", nft / own);
    if nft / own < 2.0 {
        let missed = format!("{:.1} times as fast as nft, less than 2", nft / own);
        figures.missed.push(missed);
    }
    Ok(figures)
}

/// Everything that happens between a changed file and packets judged by it.
fn activate(text: &str) -> Result<()> {
    let (loaded, found) = read::load_str("generated.yaml", text, None);
    ensure!(
        found.is_empty(),
        "the generator writes what is valid: {found:?}"
    );
    let program = compile(&loaded, CatchAllDeny::DenyAll, &BTreeMap::new())?;
    let node = NodeView {
        epoch: 1,
        ..NodeView::default()
    };
    let words = link::link(&program, &loaded.cluster, &node, &[])?.words;
    let capacity = roomy(u32::try_from(words.len()).context("it fits a slot")?);
    let active = Array::<_, u32>::create(ACTIVE_WORDS, BPF_F_MMAPABLE)?;
    let outer = Map::ArrayOfMaps(create_outer(capacity)?);
    let mut tables = Tables::adopt(outer, active.map(), capacity)?;
    let staged = tables.stage(&words)?;
    tables.switch(&staged);
    Ok(())
}

/// The sources that destination `d` allows.
fn allowed(d: usize) -> impl Iterator<Item = usize> {
    // Coprime to the number of sources, so that no source comes twice.
    (0..ALLOWED).map(move |i| (i * 1_001 + d * 17) % SOURCES)
}

fn source_address(s: usize) -> String {
    format!("10.1.{}.{}", s / 250, s % 250 + 1)
}

fn destination_address(d: usize) -> String {
    format!("10.2.0.{}", d + 1)
}

fn manifests() -> String {
    let pod = |name: String, address: String| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"serviceAccountName": name, "containers": [
                {"name": "main", "image": "main", "ports": [{"containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": address}]}})
    };
    let policy = |d: usize| -> Value {
        let principals: Vec<String> = allowed(d)
            .map(|s| format!("cluster.local/ns/default/sa/source-{s:04}"))
            .collect();
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("allow-{d:03}"), "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": format!("destination-{d:03}")}},
                "rules": [{"from": [{"source": {"principals": principals}}],
                    "to": [{"operation": {"ports": ["8080"]}}]}]}})
    };
    let sources = (0..SOURCES).map(|s| pod(format!("source-{s:04}"), source_address(s)));
    let destinations =
        (0..DESTINATIONS).map(|d| pod(format!("destination-{d:03}"), destination_address(d)));
    yaml(
        sources
            .chain(destinations)
            .chain((0..DESTINATIONS).map(policy)),
    )
}

fn ruleset() -> String {
    let mut text = String::from(
        "table ip bench {\n map verdicts {\n  type ipv4_addr . ipv4_addr . inet_service : verdict\n  \
         elements = {\n",
    );
    for d in 0..DESTINATIONS {
        for s in allowed(d) {
            let (source, destination) = (source_address(s), destination_address(d));
            let _ = writeln!(text, "   {source} . {destination} . 8080 : accept,");
        }
    }
    text + "  }\n }\n chain forward {\n  type filter hook forward priority 0; policy drop;\n  \
            ip saddr . ip daddr . tcp dport vmap @verdicts\n }\n}\n"
}
