//! Hits of an earlier agent's tables, which the kernel has gone on counting.

use enforcer_ebpf::maps::HITS;

use crate::{
    pins::Pins,
    report::counters::Counters,
    state::{Keeper, Kept, Names},
    table::Tables,
};

/// Goes on counting where an earlier agent stopped. Returns what was counted in maps that are about
/// to be replaced by larger ones, with the names of their records.
pub(super) fn take_up(
    counters: &mut Counters,
    keeper: &mut Keeper,
    kept: &Kept,
    tables: &Tables,
    pins: &Pins,
) -> Vec<(u32, Names)> {
    counters.restore(kept.hits.clone());
    let grown = pins.grown_map(HITS).exists();
    let mut outgrown = Vec::new();
    for (slot, epoch) in (0u32..).zip(kept.slots) {
        let names = keeper
            .names(slot)
            .filter(|names| Some(names.epoch) == epoch);
        let Some(names) = names else { continue };
        if !grown {
            if tables.epoch_of(slot) == epoch {
                counters.assign(slot, names);
            }
            continue;
        }
        // The active table was copied, to whatever slot.
        if let Some(active) = tables.active_slot()
            && tables.epoch_of(active) == epoch
        {
            counters.assign(active, names.clone());
        }
        outgrown.push((slot, names));
    }
    outgrown
}
