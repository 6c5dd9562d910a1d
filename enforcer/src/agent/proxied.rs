//! The flag of pods that may have connections through the proxy: the kernel looks for them in its
//! maps while it is set. It is set with the table that brings a pod's first "ask", outlives that
//! table, and goes when nothing asks any more and no connection is left.

use std::{collections::BTreeSet, time::Duration};

use enforcer_ebpf::words::{header, pod, pod_flags};

use crate::{apply::Generation, table::Tables};

/// How long the flag stays after an activation, at least: what was steered before the table ceased
/// to ask may still wait to be accepted.
const KEPT: Duration = Duration::from_secs(5);

/// Whether the flag of the pod in a slot is set.
pub fn is_set(tables: &Tables, slot: u32) -> bool {
    tables.read_active(flags_of(tables, slot)) & pod_flags::PROXIED != 0
}

/// Clears the flag where it is of no use. `busy` are the slots of pods that have connections through
/// the proxy.
pub fn clear(tables: &Tables, active: &Generation, busy: &BTreeSet<u32>) {
    // A clock that was set back: later is early enough.
    if !active.since.elapsed().is_ok_and(|age| age >= KEPT) {
        return;
    }
    let idle = active.pods.iter().filter(|pod| !pod.asks);
    for pod in idle.filter(|pod| !busy.contains(&pod.slot)) {
        tables.clear_pod_flags(pod.slot, pod_flags::PROXIED);
    }
}

/// Offset of a pod's flags in the active table.
fn flags_of(tables: &Tables, slot: u32) -> u32 {
    tables.read_active(header::PODS) + slot * pod::WORDS + pod::FLAGS
}
