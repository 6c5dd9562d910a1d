//! Counters: packets by reason, and hits by policy and rule.
//!
//! The kernel counts hits by record number under the slot of the table. Before a slot is written
//! again its counts are read, added up by name, kept, and only then cleared; so numbers go on over
//! any number of activations, and of agents: what the records of a table stand for is kept before it
//! may judge. What was counted under a table that nobody knows the names of is cleared unread.

use std::{collections::BTreeMap, path::Path};

use aya::maps::{Map, MapData, MapError, PerCpuArray, PerCpuValues};
use enforcer_ebpf::{
    flow::Hits,
    maps::hits_index,
    reason::Reason,
    words::{RECORDS_MAX, SLOTS},
};
use serde::{Deserialize, Serialize};

use crate::{apply::Attribution, plain::Plain, report::line::cause_name, state::Names};

/// The kernel's counters, and what was counted under tables that are gone.
pub struct Counters {
    reasons: PerCpuArray<MapData, u64>,
    hits: HitsMap,
    sums: BTreeMap<HitName, Count>,
    /// What the records of the table in each slot stand for.
    names: [Option<Names>; SLOTS as usize],
    processors: usize,
}

/// What a hit is counted by: names, never numbers of one table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct HitName {
    /// As `policyc eval` names it; `ask`, `audit`, `dry_run_allow` or `dry_run_deny`.
    pub reason: String,
    /// `namespace/name`
    pub policy: Option<String>,
    pub rule: Option<u32>,
}

/// Opening segments and packets, and requests that were judged in userspace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Count {
    pub opened: u64,
    pub packets: u64,
    #[serde(default)]
    pub requests: u64,
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
pub enum CountersError {
    #[error("cannot {operation} the counters")]
    Map {
        operation: &'static str,
        #[source]
        source: Box<MapError>,
    },
    #[error(
        "the bundle has {wanted} attribution records, and this agent counts hits of {most}: \
         start it again with the new bundle, which gives it more"
    )]
    Records { wanted: u32, most: u32 },
}

impl Counters {
    pub fn new(reasons: Map, hits: Map) -> Result<Self, CountersError> {
        Ok(Self {
            reasons: reasons.try_into().map_err(failed("open"))?,
            hits: hits.try_into().map_err(failed("open"))?,
            sums: BTreeMap::new(),
            names: Default::default(),
            processors: aya::util::nr_cpus().map_or(1, |n| n),
        })
    }

    /// Refuses a table with more records than hits can be counted for.
    pub fn check(&self, records: u32) -> Result<(), CountersError> {
        let most = self.most();
        match records > most {
            true => Err(CountersError::Records {
                wanted: records,
                most,
            }),
            false => Ok(()),
        }
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

    /// Packets counted for one reason.
    pub fn reason(&self, reason: Reason) -> Result<u64, CountersError> {
        let values = self.reasons.get(&u32::from(reason as u8), 0);
        Ok(values.map_err(failed("read"))?.iter().sum())
    }

    /// Goes on where an earlier agent stopped.
    pub fn restore(&mut self, sums: Vec<HitCount>) {
        self.sums = sums.into_iter().map(|hit| (hit.name, hit.count)).collect();
    }

    /// From now on the records of a slot stand for these names.
    pub fn assign(&mut self, slot: u32, names: Names) {
        if let Some(place) = self.names.get_mut(slot as usize) {
            *place = Some(names);
        }
    }

    /// Activation of the table in each slot whose records have names.
    pub fn assigned(&self) -> [Option<u32>; SLOTS as usize] {
        self.names
            .each_ref()
            .map(|names| names.as_ref().map(|names| names.epoch))
    }

    /// Counts requests that were judged in userspace.
    pub fn add_requests(&mut self, requests: impl IntoIterator<Item = (HitName, u64)>) {
        for (name, count) in requests {
            self.sums.entry(name).or_default().requests += count;
        }
    }

    /// Hits by name, of the tables that are gone alone.
    pub fn sums(&self) -> Vec<HitCount> {
        listed(self.sums.clone())
    }

    /// Hits by name: of all tables that were, and of those that lie in the slots now.
    pub fn hits(&self) -> Result<Vec<HitCount>, CountersError> {
        let mut sums = self.sums.clone();
        for slot in 0..SLOTS {
            self.add(slot, &mut sums)?;
        }
        Ok(listed(sums))
    }

    /// Takes over the counts of a table whose slot is about to be written. Nobody may be reading
    /// the slot any more. They are to be kept before they are [cleared](Counters::clear): whoever
    /// is killed in between leaves counts without names.
    pub fn retire(&mut self, slot: u32) -> Result<(), CountersError> {
        let mut sums = self.sums.clone();
        self.add(slot, &mut sums)?;
        self.sums = sums;
        if let Some(names) = self.names.get_mut(slot as usize) {
            *names = None;
        }
        Ok(())
    }

    /// Clears the counts of so many records of a slot.
    pub fn clear(&mut self, slot: u32, records: u32) -> Result<(), CountersError> {
        clear(&mut self.hits, slot, records, self.processors)
    }

    /// What was counted for one record of a slot, by all processors.
    pub fn of_record(&self, slot: u32, record: u32) -> Result<Hits, CountersError> {
        of_record(&self.hits, slot, record)
    }

    /// Adds what was counted in other counters, which are pinned there and which nobody counts in
    /// any more. To be kept before they are [cleared](Outgrown::clear).
    pub fn add_from(
        &mut self,
        pin: &Path,
        slots: &[(u32, Names)],
    ) -> Result<Outgrown, CountersError> {
        let map = MapData::from_pin(pin).map_err(failed("open"))?;
        let hits = Map::from_map_data(map).map_err(failed("open"))?;
        let hits = hits.try_into().map_err(failed("open"))?;
        let mut records = Vec::new();
        for (slot, names) in slots {
            add(&hits, *slot, names, &mut self.sums)?;
            records.push((
                *slot,
                u32::try_from(names.records.len()).unwrap_or(RECORDS_MAX),
            ));
        }
        Ok(Outgrown {
            hits,
            records,
            processors: self.processors,
        })
    }

    /// Records of one table whose hits can be counted.
    fn most(&self) -> u32 {
        self.hits.len() / SLOTS
    }

    fn add(&self, slot: u32, sums: &mut BTreeMap<HitName, Count>) -> Result<(), CountersError> {
        let Some(Some(names)) = self.names.get(slot as usize) else {
            return Ok(());
        };
        add(&self.hits, slot, names, sums)
    }
}

type HitsMap = PerCpuArray<MapData, Plain<Hits>>;

fn of_record(map: &HitsMap, slot: u32, record: u32) -> Result<Hits, CountersError> {
    let values = map
        .get(&hits_index(slot, record), 0)
        .map_err(failed("read"))?;
    let mut sum = Hits::default();
    for Plain(hits) in values.iter() {
        sum.opened += hits.opened;
        sum.packets += hits.packets;
    }
    Ok(sum)
}

fn add(
    map: &HitsMap,
    slot: u32,
    names: &Names,
    sums: &mut BTreeMap<HitName, Count>,
) -> Result<(), CountersError> {
    for (record, names) in (0u32..).zip(&names.records).skip(1) {
        let hits = of_record(map, slot, record)?;
        if hits.packets == 0 {
            continue;
        }
        for name in names {
            let sum = sums.entry(name.clone()).or_default();
            sum.opened += hits.opened;
            sum.packets += hits.packets;
        }
    }
    Ok(())
}

/// Counters that were added to others.
pub struct Outgrown {
    hits: HitsMap,
    /// By slot.
    records: Vec<(u32, u32)>,
    processors: usize,
}

impl Outgrown {
    /// Clears what was added.
    pub fn clear(mut self) -> Result<(), CountersError> {
        for (slot, records) in self.records {
            clear(&mut self.hits, slot, records, self.processors)?;
        }
        Ok(())
    }
}

fn clear(
    map: &mut HitsMap,
    slot: u32,
    records: u32,
    processors: usize,
) -> Result<(), CountersError> {
    let none = vec![Plain(Hits::default()); processors];
    // The map holds no more than this for one table.
    for record in 1..records.min(map.len() / SLOTS) {
        let zeros = PerCpuValues::try_from(none.clone())
            .map_err(|error| failed("clear")(MapError::IoError(error)))?;
        map.set(hits_index(slot, record), zeros, 0)
            .map_err(failed("clear"))?;
    }
    Ok(())
}

fn listed(sums: BTreeMap<HitName, Count>) -> Vec<HitCount> {
    sums.into_iter()
        .map(|(name, count)| HitCount { name, count })
        .collect()
}

impl Names {
    /// Of the records of a table.
    pub fn of(epoch: u32, attributions: &[Attribution]) -> Self {
        Self {
            epoch,
            records: attributions.iter().map(names_of).collect(),
        }
    }
}

fn names_of(attribution: &Attribution) -> Vec<HitName> {
    let decided = HitName {
        reason: attribution
            .cause
            .as_ref()
            .map_or_else(|| "ask".into(), cause_name),
        policy: attribution.policy.clone(),
        rule: attribution.rule,
    };
    let named = |reason: String, policy: &String, rule| HitName {
        reason,
        policy: Some(policy.clone()),
        rule: Some(rule),
    };
    let audit = attribution.audit.iter();
    let audit = audit.map(|hit| named("audit".into(), &hit.policy, hit.rule));
    let tried = attribution
        .dry_run
        .iter()
        .map(|hit| named(dry_run(&hit.action), &hit.policy, hit.rule));
    std::iter::once(decided).chain(audit).chain(tried).collect()
}

/// What a hit of a rule that is only tried is counted under.
pub fn dry_run(action: &str) -> String {
    format!("dry_run_{}", action.to_lowercase())
}

fn failed(operation: &'static str) -> impl FnOnce(MapError) -> CountersError {
    move |source| CountersError::Map {
        operation,
        source: Box::new(source),
    }
}
