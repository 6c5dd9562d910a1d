//! From a bundle to the active table, on a cluster of 100 000 pods: reading and linking, which
//! happen in memory, apart from making the words active in the kernel.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use aya::maps::{Array, IterableMap as _, Map};
use enforcer::table::{Tables, create_outer};
use enforcer_ebpf::maps::ACTIVE_WORDS;
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

const BPF_F_MMAPABLE: u32 = 1 << 10;
/// Activations, each into the slot that was active before.
const ROUNDS: u32 = 9;

/// Processor time of each part.
pub struct Activation {
    pub words: usize,
    pub bundle_bytes: usize,
    pub read: Duration,
    pub link: Duration,
    /// The first activation, which makes its slot.
    pub first: Duration,
    /// Median of the others, a grace period in each.
    pub next: Duration,
}

/// Measures.
///
/// # Errors
/// When the kernel gives no maps of that size.
pub fn measure() -> Result<Activation> {
    let cluster = cluster(Size::LARGE);
    let nowhere = |_: &policyc::diagnostic::At| (String::new(), 1);
    let program = resolve::resolve(&cluster, CatchAllDeny::DenyAll, &BTreeMap::new(), &nowhere)?;
    let bytes = bundle::write(&program, &Inventory::of(&cluster), 1)?;
    let (bundle, read) = cpu::spent(|| bundle::read(&bytes));
    let program = bundle?.program;
    let mut node = NodeView {
        local: Local::Node("node-0001".into()),
        epoch: 1,
        ..NodeView::default()
    };
    let (linked, link) = cpu::spent(|| link::link(&program, &cluster, &node, &[]));
    let words = linked?.words;
    let capacity = u32::try_from(words.len().next_power_of_two()).context("it fits a slot")?;
    let active = Array::<_, u32>::create(ACTIVE_WORDS, BPF_F_MMAPABLE)?;
    let mut tables = Tables::adopt(
        Map::ArrayOfMaps(create_outer(capacity)?),
        active.map(),
        capacity,
    )?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let (done, time) = cpu::spent(|| tables.stage(&words).map(|staged| tables.switch(&staged)));
        done?;
        times.push(time);
        node.epoch += 1;
    }
    let first = times.remove(0);
    times.sort_unstable();
    Ok(Activation {
        words: words.len(),
        bundle_bytes: bytes.len(),
        read,
        link,
        first,
        next: times.get(times.len() / 2).copied().unwrap_or_default(),
    })
}
