//! The flows of datagrams that pods began (map DATAGRAMS_OUT), under `--non-tcp=enforce`: those of
//! which nothing was sent for a minute are over, and their places in the pods' quotas free.

use std::collections::BTreeMap;

use aya::maps::{HashMap, Map, MapData, MapError};
use enforcer_ebpf::{
    flow::{DATAGRAM_IDLE_SECONDS, DatagramKey, DatagramValue},
    words::LOCAL_PODS_MAX,
};

use super::{FlowsError, seconds_since_boot};
use crate::{plain::Plain, table::Counts};

/// The map DATAGRAMS_OUT, and how many entries each slot holds.
#[derive(Debug)]
pub struct DatagramFlows {
    entries: HashMap<MapData, Plain<DatagramKey>, Plain<DatagramValue>>,
    count: Counts,
}

impl DatagramFlows {
    pub fn new(out: Map, count: &MapData) -> Result<Self, FlowsError> {
        Ok(Self {
            entries: out.try_into().map_err(|source| FlowsError::Open {
                source: Box::new(source),
            })?,
            count: Counts::of(count, LOCAL_PODS_MAX)
                .map_err(|source| FlowsError::Count { source })?,
        })
    }

    /// Forgets the flows that are over, and sets counts right that an agent which broke off has left
    /// wrong. Returns how many were forgotten.
    pub fn clean(&mut self) -> Result<usize, FlowsError> {
        let now = seconds_since_boot()?;
        let before: Vec<u64> = (0..LOCAL_PODS_MAX).map(|s| self.count.load(s)).collect();
        let mut there = BTreeMap::<u32, u64>::new();
        let mut over = Vec::new();
        let mut whole = true;
        for entry in self.entries.iter() {
            // The kernel removes none, so what cannot be read is an error of the walk's own.
            let Ok((Plain(key), Plain(value))) = entry else {
                whole = false;
                break;
            };
            *there.entry(value.maker).or_default() += 1;
            if now.saturating_sub(value.seen_seconds) >= DATAGRAM_IDLE_SECONDS {
                over.push((key, value.maker));
            }
        }
        if whole {
            self.recount(&there, &before);
        }
        let mut forgotten = 0;
        for (key, slot) in over {
            match self.entries.remove(&Plain(key)) {
                Ok(()) => {
                    self.count.add(slot, -1);
                    forgotten += 1;
                }
                Err(error) if is_gone(&error) => {}
                Err(source) => {
                    return Err(FlowsError::Entry {
                        operation: "forget",
                        source: Box::new(source),
                    });
                }
            }
        }
        Ok(forgotten)
    }

    /// Where nothing was counted while the entries were walked, the count must be theirs.
    fn recount(&self, there: &BTreeMap<u32, u64>, before: &[u64]) {
        for (slot, before) in (0u32..).zip(before) {
            let (after, there) = (self.count.load(slot), there.get(&slot).copied());
            let there = there.unwrap_or(0);
            if *before == after && after != there {
                let wrong = there.wrapping_sub(after).cast_signed();
                tracing::debug!(slot, wrong, "flows of datagrams were counted wrongly");
                self.count.add(slot, wrong);
            }
        }
    }
}

fn is_gone(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
