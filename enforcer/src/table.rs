//! The tables in the kernel: slots, the words in them, and the one store that switches.
//!
//! A slot is an array map of one element whose value is the whole table, mapped into our memory.
//! [`Tables::stage`] writes the idle slot and [`Tables::switch`] stores its number into ACTIVE: no
//! packet is judged by a mixture, and whatever fails before that store changes nothing. A slot that
//! was active is written again only after a grace period, when no processor can still be reading it.

mod create;
mod memory;
mod pods;

use std::io;

use aya::maps::{ArrayOfMaps, Map, MapData, MapError};
use enforcer_ebpf::{
    maps::{ACTIVE_WORDS, active},
    words::{ABI, CAPACITY_MAX, MAGIC, RECORDS_MAX, SLOTS, UPLINKS_MAX, header},
};

pub use create::{CreateError, create_outer};
pub use memory::{Counts, Memory};

/// Value of ACTIVE's words while there is no such table.
const NONE: u32 = u32::MAX;
// One judges, one is written, one may be asked beside the first.
const _: () = assert!(SLOTS >= 3);

/// The slots, and the word that names the active one.
#[derive(Debug)]
pub struct Tables {
    outer: ArrayOfMaps<MapData, MapData>,
    active: Memory,
    slots: [Option<Slot>; SLOTS as usize],
    capacity: u32,
}

#[derive(Debug)]
struct Slot {
    map: MapData,
    memory: Memory,
    /// It was active, and no grace period has passed since.
    read_lately: bool,
}

/// What can go wrong with the tables. Whatever it is, the active table stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error(
        "the table has {length} words, and a slot holds {capacity}: start the agent with --capacity={needed}"
    )]
    Capacity {
        length: usize,
        capacity: u32,
        needed: usize,
    },
    #[error("the table's header says `{what}` = {found}, expected {expected}")]
    Header {
        what: &'static str,
        found: u32,
        expected: u32,
    },
    #[error("the table names {found} records, more than {RECORDS_MAX}")]
    Records { found: u32 },
    #[error("cannot {operation} slot {slot}")]
    Slot {
        operation: &'static str,
        slot: u32,
        #[source]
        source: Box<MapError>,
    },
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error("cannot map {object} into memory")]
    Map {
        object: &'static str,
        #[source]
        source: io::Error,
    },
}

/// A whole table in the idle slot, which nobody reads yet.
#[derive(PartialEq, Eq, Debug)]
pub struct Staged {
    pub slot: u32,
    pub epoch: u32,
}

impl Tables {
    /// Takes over the maps TABLES and ACTIVE, whatever they hold: after a restart of the agent, the
    /// table that went on judging meanwhile.
    pub fn adopt(outer: Map, active: &MapData, capacity: u32) -> Result<Self, TableError> {
        let active = Memory::of_words(active, ACTIVE_WORDS).map_err(|source| TableError::Map {
            object: "ACTIVE",
            source,
        })?;
        let mut tables = Self {
            outer: outer.try_into().map_err(failed("reach", 0))?,
            active,
            slots: [None, None, None],
            capacity,
        };
        for slot in 0..SLOTS {
            tables.slots[slot as usize] = tables.open(slot)?;
        }
        if tables.active_slot().is_none() {
            // Fresh maps read 0, which would name a slot that holds nothing.
            tables.active.store(active::TABLE, NONE);
        }
        tables.active.store(active::SHADOW, NONE);
        Ok(tables)
    }

    /// Words that a slot holds.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The slot whose table judges, if one does.
    pub fn active_slot(&self) -> Option<u32> {
        let slot = self.active.load(active::TABLE);
        let memory = &self.slots.get(slot as usize)?.as_ref()?.memory;
        let valid = memory.load(header::MAGIC) == MAGIC && memory.load(header::ABI) == ABI;
        valid.then_some(slot)
    }

    /// Activation number of the active table; 0 when there is none.
    pub fn epoch(&self) -> u32 {
        self.read_active(header::EPOCH)
    }

    /// A word of the active table; 0 when there is none, or outside the table.
    pub fn read_active(&self, index: u32) -> u32 {
        self.active_slot()
            .and_then(|slot| self.slots[slot as usize].as_ref())
            .map_or(0, |slot| slot.memory.load(index))
    }

    /// The whole active table; nothing when there is none.
    pub fn active_words(&self) -> Vec<u32> {
        let length = self.read_active(header::LENGTH).min(self.capacity);
        (0..length).map(|index| self.read_active(index)).collect()
    }

    /// The slot that the next table goes to. Another map is made only for a table that is asked
    /// beside the active one, so the others take turns.
    pub fn idle_slot(&self) -> u32 {
        let taken = [self.active_slot(), self.shadow_slot()];
        (0..SLOTS)
            .find(|slot| !taken.contains(&Some(*slot)))
            .unwrap_or(0)
    }

    /// The slot for a table that is asked beside the active one: never the one that the next table
    /// goes to.
    pub fn slot_for_shadow(&self) -> u32 {
        let free = |slot: &u32| self.active_slot() != Some(*slot);
        self.shadow_slot()
            .or_else(|| (0..SLOTS).rev().find(free))
            .unwrap_or(SLOTS - 1)
    }

    /// Slot of the table that is asked beside the active one.
    pub fn shadow_slot(&self) -> Option<u32> {
        let slot = self.active.load(active::SHADOW);
        (slot < SLOTS && Some(slot) != self.active_slot()).then_some(slot)
    }

    /// The words of a slot, for what may be stored while they are in force.
    pub fn memory(&self, slot: u32) -> Option<&Memory> {
        Some(&self.slots.get(slot as usize)?.as_ref()?.memory)
    }

    /// Waits until nobody reads a slot any more. Blocks for a grace period, some 10 ms, when it was
    /// read before. Must not be the active one.
    pub fn await_readers(&mut self, slot: u32) -> Result<(), TableError> {
        self.prepare(slot)
    }

    /// Records that may have been counted under a slot: those of the table that lies there, or all,
    /// where a table was only half written.
    pub fn records(&self, slot: u32) -> u32 {
        let Some(Some(slot)) = self.slots.get(slot as usize) else {
            return 0;
        };
        let count = slot.memory.load(header::RECORDS_COUNT);
        if slot.memory.load(header::MAGIC) == MAGIC || count == 0 {
            count.min(RECORDS_MAX)
        } else {
            RECORDS_MAX
        }
    }

    /// Writes `words` into the idle slot. Blocks as [`Tables::await_readers`] does.
    pub fn stage(&mut self, words: &[u32]) -> Result<Staged, TableError> {
        self.stage_in(self.idle_slot(), words)
    }

    /// Writes `words` into a slot that nobody is to read meanwhile: not the active one.
    pub fn stage_in(&mut self, slot: u32, words: &[u32]) -> Result<Staged, TableError> {
        self.check(words)?;
        self.prepare(slot)?;
        if let Some(idle) = &mut self.slots[slot as usize] {
            write(&mut idle.memory, words);
        }
        Ok(Staged {
            slot,
            epoch: words[header::EPOCH as usize],
        })
    }

    /// Makes a staged table the active one: one store.
    pub fn switch(&mut self, staged: &Staged) {
        let previous = self.active_slot();
        self.active.store(active::TABLE, staged.slot);
        if let Some(old) = previous.and_then(|slot| self.slots[slot as usize].as_mut()) {
            old.read_lately = true;
        }
    }

    /// Has a staged table asked beside the active one, which goes on judging alone.
    pub fn shadow(&mut self, staged: &Staged) {
        self.active.store(active::SHADOW, staged.slot);
    }

    /// Ends that. The slot is to be written again only after [`Tables::await_readers`].
    pub fn end_shadow(&mut self) {
        let slot = self.shadow_slot();
        self.active.store(active::SHADOW, NONE);
        if let Some(old) = slot.and_then(|slot| self.slots[slot as usize].as_mut()) {
            old.read_lately = true;
        }
    }

    /// Stores which interfaces may speak for pods of other nodes in the active table, at once.
    pub fn trust_uplinks(&self, words: &[u32; UPLINKS_MAX as usize]) {
        let active = self
            .active_slot()
            .and_then(|s| self.slots[s as usize].as_ref());
        if let Some(slot) = active {
            for (at, word) in (header::UPLINKS..).zip(words) {
                slot.memory.store(at, *word);
            }
        }
    }

    /// Whether `words` may become the active table.
    pub fn check(&self, words: &[u32]) -> Result<(), TableError> {
        let word = |index: u32| words.get(index as usize).copied().unwrap_or(0);
        let expect = |what, index, expected| match word(index) {
            found if found == expected => Ok(()),
            found => Err(TableError::Header {
                what,
                found,
                expected,
            }),
        };
        if words.len() > self.capacity.min(CAPACITY_MAX) as usize {
            return Err(TableError::Capacity {
                length: words.len(),
                capacity: self.capacity,
                needed: words.len().next_power_of_two(),
            });
        }
        expect("magic", header::MAGIC, MAGIC)?;
        expect("ABI", header::ABI, ABI)?;
        let length = u32::try_from(words.len()).unwrap_or(u32::MAX);
        expect("length", header::LENGTH, length)?;
        match word(header::RECORDS_COUNT) {
            found if found > RECORDS_MAX => Err(TableError::Records { found }),
            _ => Ok(()),
        }
    }

    /// Makes sure that a slot is there and that nobody reads it.
    fn prepare(&mut self, slot: u32) -> Result<(), TableError> {
        match &mut self.slots[slot as usize] {
            Some(idle) if idle.read_lately => {
                // Storing into a map of maps waits until no program can hold what was there before;
                // storing the same map is a grace period and nothing else.
                self.outer
                    .set(slot, &idle.map, 0)
                    .map_err(failed("wait for the readers of", slot))?;
                idle.read_lately = false;
            }
            Some(_) => {}
            None => {
                let map = create::inner(self.capacity)?;
                self.outer
                    .set(slot, &map, 0)
                    .map_err(failed("fill", slot))?;
                self.slots[slot as usize] = Some(Slot::of(map, self.capacity)?);
            }
        }
        Ok(())
    }

    fn open(&mut self, slot: u32) -> Result<Option<Slot>, TableError> {
        match self.outer.get(&slot, 0) {
            Ok(map) => {
                let mut opened = Slot::of(map, self.capacity)?;
                // Nobody knows what happened just before we came.
                opened.read_lately = true;
                Ok(Some(opened))
            }
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("open", slot)(error)),
        }
    }
}

impl Slot {
    fn of(map: MapData, capacity: u32) -> Result<Self, TableError> {
        let memory = Memory::of_words(&map, capacity).map_err(|source| TableError::Map {
            object: "a table",
            source,
        })?;
        Ok(Self {
            map,
            memory,
            read_lately: false,
        })
    }
}

/// Writes a whole table: first invalid, then the body, last what makes it valid.
fn write(memory: &mut Memory, words: &[u32]) {
    let before = memory.load(header::LENGTH);
    memory.store(header::MAGIC, 0);
    memory.copy_from(words, header::MAGIC + 1);
    let length = u32::try_from(words.len()).unwrap_or(u32::MAX);
    memory.clear(length, before);
    memory.store(header::MAGIC, words[header::MAGIC as usize]);
}

fn failed(operation: &'static str, slot: u32) -> impl FnOnce(MapError) -> TableError {
    move |source| TableError::Slot {
        operation,
        slot,
        source: Box::new(source),
    }
}
