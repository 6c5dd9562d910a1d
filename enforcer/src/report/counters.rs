//! Counters: packets by reason, and hits by policy and rule.
//!
//! The kernel counts hits by record number under the slot of the table. Before a slot is written
//! again its counts are read, added up by name, and cleared; so numbers go on over any number of
//! activations. What an earlier agent's table has counted is cleared unread: nobody knows its names.

use std::collections::BTreeMap;

use aya::maps::{Map, MapData, MapError, PerCpuArray, PerCpuValues};
use enforcer_ebpf::{flow::Hits, maps::hits_index, reason::Reason};
use serde::{Deserialize, Serialize};

use crate::{
    apply::{Attribution, Generation},
    plain::Plain,
    report::line::cause_name,
};

/// The kernel's counters, and what was counted under tables that are gone.
pub struct Counters {
    reasons: PerCpuArray<MapData, u64>,
    hits: PerCpuArray<MapData, Plain<Hits>>,
    retired: BTreeMap<HitName, Count>,
    processors: usize,
}

/// What a hit is counted by: names, never numbers of one table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct HitName {
    /// As `policyc eval` names it.
    pub reason: String,
    /// `namespace/name`
    pub policy: Option<String>,
    pub rule: Option<u32>,
}

/// Opening segments and packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Count {
    pub opened: u64,
    pub packets: u64,
}

/// One line of the hits' table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HitCount {
    #[serde(flatten)]
    pub name: HitName,
    #[serde(flatten)]
    pub count: Count,
}

/// What can go wrong with the counters.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} the counters")]
pub struct CountersError {
    operation: &'static str,
    #[source]
    source: Box<MapError>,
}

impl Counters {
    pub fn new(reasons: Map, hits: Map) -> Result<Self, CountersError> {
        Ok(Self {
            reasons: reasons.try_into().map_err(failed("open"))?,
            hits: hits.try_into().map_err(failed("open"))?,
            retired: BTreeMap::new(),
            processors: aya::util::nr_cpus().map_or(1, |n| n),
        })
    }

    /// Packets by reason, in the order of the reasons; those that never happened left out.
    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>, CountersError> {
        let mut counts = Vec::new();
        for reason in Reason::ALL {
            let values = self
                .reasons
                .get(&u32::from(*reason as u8), 0)
                .map_err(failed("read"))?;
            match values.iter().sum::<u64>() {
                0 => {}
                count => counts.push((*reason, count)),
            }
        }
        Ok(counts)
    }

    /// Hits by name: of all tables that were, and of those that lie in the slots now.
    pub fn hits(&self, live: &[&Generation]) -> Result<Vec<HitCount>, CountersError> {
        let mut sums = self.retired.clone();
        for generation in live {
            self.add(generation, &mut sums)?;
        }
        Ok(sums
            .into_iter()
            .map(|(name, count)| HitCount { name, count })
            .collect())
    }

    /// Takes over the counts of a table whose slot is about to be written, and clears them. `old` is
    /// `None` where the table is an earlier agent's; it has as many records as `records` says.
    /// Nobody may be reading the slot any more.
    pub fn retire(
        &mut self,
        slot: u32,
        old: Option<&Generation>,
        records: u32,
    ) -> Result<(), CountersError> {
        if let Some(old) = old {
            let mut sums = self.retired.clone();
            self.add(old, &mut sums)?;
            self.retired = sums;
        }
        let none = vec![Plain(Hits::default()); self.processors];
        for record in 1..records {
            let zeros = PerCpuValues::try_from(none.clone())
                .map_err(|error| failed("clear")(MapError::IoError(error)))?;
            self.hits
                .set(hits_index(slot, record), zeros, 0)
                .map_err(failed("clear"))?;
        }
        Ok(())
    }

    fn add(
        &self,
        generation: &Generation,
        sums: &mut BTreeMap<HitName, Count>,
    ) -> Result<(), CountersError> {
        for (record, attribution) in (0u32..).zip(&generation.attributions).skip(1) {
            let values = self
                .hits
                .get(&hits_index(generation.slot, record), 0)
                .map_err(failed("read"))?;
            let (mut opened, mut packets) = (0, 0);
            for Plain(hits) in values.iter() {
                opened += hits.opened;
                packets += hits.packets;
            }
            if packets > 0 {
                let sum = sums.entry(HitName::of(attribution)).or_default();
                sum.opened += opened;
                sum.packets += packets;
            }
        }
        Ok(())
    }
}

impl HitName {
    fn of(attribution: &Attribution) -> Self {
        Self {
            reason: attribution
                .cause
                .as_ref()
                .map_or_else(|| "ask".into(), cause_name),
            policy: attribution.policy.clone(),
            rule: attribution.rule,
        }
    }
}

fn failed(operation: &'static str) -> impl FnOnce(MapError) -> CountersError {
    move |source| CountersError {
        operation,
        source: Box::new(source),
    }
}
