//! Documents to a bundle, and a bundle to the words of one node, at two sizes; on one core.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use policyc::{
    bundle,
    inventory::Inventory,
    link::{self, Local, NodeView},
    options::CatchAllDeny,
    resolve,
};
use tests::{
    cpu,
    generate::{Size, cluster},
};

use crate::{Figures, median};

const ROUNDS: usize = 5;

/// 10 000 policies of 3 rules, 100 000 pods: 2 s and 1 GB to a bundle, 300 ms to link.
pub fn large() -> Result<Figures> {
    let mut figures = measured(Size::LARGE, 2_000.0)?;
    figures.goal("peak_memory_mb", peak_memory_mb()?, 1_000.0);
    Ok(figures)
}

/// 1 000 policies, 10 000 pods: 150 ms to a bundle.
pub fn medium() -> Result<Figures> {
    measured(Size::MEDIUM, 150.0)
}

fn measured(size: Size, bundle_ms_max: f64) -> Result<Figures> {
    let cluster = cluster(size);
    let nowhere = |_: &policyc::diagnostic::At| (String::new(), 1);
    let (mut to_bundle, mut to_words) = (Vec::new(), Vec::new());
    let mut figures = Figures::default();
    for _ in 0..ROUNDS {
        let (written, time) = cpu::spent(|| -> Result<Vec<u8>> {
            let none = BTreeMap::new();
            let program = resolve::resolve(&cluster, CatchAllDeny::DenyAll, &none, &nowhere)?;
            Ok(bundle::write(&program, &Inventory::of(&cluster), 1)?)
        });
        to_bundle.push(time.as_secs_f64() * 1e3);
        let bytes = written?;
        let program = bundle::read(&bytes)?.program;
        let node = NodeView {
            local: Local::Node("node-0001".into()),
            ..NodeView::default()
        };
        let (linked, time) = cpu::spent(|| link::link(&program, &cluster, &node, &[]));
        to_words.push(time.as_secs_f64() * 1e3);
        let words = linked?.words.len() as f64;
        figures.add("bundle_kb", bytes.len() as f64 / 1e3);
        figures.add("table_words", words);
    }
    figures.goal("documents_to_bundle_ms", median(to_bundle), bundle_ms_max);
    figures.goal("bundle_to_words_ms", median(to_words), 300.0);
    Ok(figures)
}

/// Most memory that this process ever had, in MB.
pub fn peak_memory_mb() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("the kernel tells the peak as VmHWM")? * 1.024 / 1e3)
}
