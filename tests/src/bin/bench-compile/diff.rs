//! What a reviewer waits for: `policyc diff` of two bundles of 10 000 policies and 100 000 pods, of
//! which one policy changed; and the same where a policy of the whole mesh joins.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, ensure};
use policyc::{
    ast::{Action, Attachment},
    bundle,
    cluster::Cluster,
    diff::{self, Diff},
    inventory::Inventory,
    options::CatchAllDeny,
    resolve,
};
use tests::{
    cpu,
    generate::{Size, cluster},
};

use crate::{Figures, median, sizes::peak_memory_mb};

const ROUNDS: usize = 5;

/// 1.5 s from two bundles' bytes to the differences, and 1.5 GB.
pub fn measure() -> Result<Figures> {
    let old = cluster(Size::LARGE);
    let mut new = old.clone();
    let changed = new.policies.iter_mut().find(|p| p.name == "policy-00007");
    let rules = changed.and_then(|policy| policy.rules.as_mut());
    let rule = rules.and_then(|rules| rules.get_mut(2));
    let operation = rule.and_then(|rule| rule.to.as_mut()?.first_mut());
    operation
        .ok_or_else(|| anyhow!("the generator makes three rules"))?
        .paths = Some(vec!["/api/v3/*".into()]);
    let mut everywhere = old.clone();
    let mut deny = old.policies[0].clone();
    deny.namespace = "istio-system".into();
    deny.name = "everywhere".into();
    deny.action = Action::Deny;
    deny.attachment = Attachment::default();
    everywhere.policies.push(deny);
    let [old, new, everywhere] = [&old, &new, &everywhere].map(written);
    let (old, new, everywhere) = (old?, new?, everywhere?);

    let mut figures = Figures::default();
    let (time, diff) = timed(&old, &new)?;
    ensure!(!diff.is_empty(), "one policy changed");
    figures.add("differences", diff.differences.len() as f64);
    figures.goal("one_policy_changed_ms", time, 1_500.0);
    let (time, diff) = timed(&old, &old)?;
    ensure!(diff.is_empty(), "nothing changed");
    figures.goal("nothing_changed_ms", time, 1_500.0);
    figures.goal("peak_memory_mb", peak_memory_mb()?, 1_500.0);
    let (time, diff) = timed(&old, &everywhere)?;
    ensure!(!diff.is_empty(), "a policy of the whole mesh joined");
    figures.add("policy_of_the_mesh_joined_ms", time);
    Ok(figures)
}

fn written(cluster: &Cluster) -> Result<Vec<u8>> {
    let nowhere = |_: &policyc::diagnostic::At| (String::new(), 1);
    let none = BTreeMap::new();
    let program = resolve::resolve(cluster, CatchAllDeny::DenyAll, &none, &nowhere)?;
    Ok(bundle::write(&program, &Inventory::of(cluster), 1)?)
}

/// Milliseconds of processor time from the bytes of two bundles to their differences, the middle of several.
fn timed(old: &[u8], new: &[u8]) -> Result<(f64, Diff)> {
    let mut times = Vec::new();
    let mut last = None;
    for _ in 0..ROUNDS {
        let (diff, time) = cpu::spent(|| compared(old, new));
        times.push(time.as_secs_f64() * 1e3);
        last = Some(diff?);
    }
    let diff = last.ok_or_else(|| anyhow!("no round"))?;
    Ok((median(times), diff))
}

fn compared(old: &[u8], new: &[u8]) -> Result<Diff> {
    let mut sides = Vec::new();
    for bytes in [old, new] {
        let program = bundle::read(bytes)?.program;
        let cluster = bundle::read_inventory(bytes)?.into_cluster(program.mesh.clone());
        sides.push((program, cluster));
    }
    let named: Vec<diff::Side<'_>> = sides
        .iter()
        .map(|(program, cluster)| diff::Side {
            name: "side",
            program,
            cluster,
        })
        .collect();
    diff::diff(&named[0], &named[1], 1_767_225_600).map_err(|why| anyhow!(why))
}
