//! The active table as [`Words`].
#![expect(
    unsafe_code,
    reason = "the table is one map value behind a raw pointer"
)]

use core::ptr::{null, read_volatile};

use enforcer_ebpf::{maps::active, words::Words};

use super::{
    globals::CAPACITY,
    maps::{ACTIVE, TABLES},
};

/// One table. Which one is read once for each run, so that no packet is judged by a mixture.
pub struct Table {
    words: *const u32,
    /// Words that may be read: 0 while no table is active.
    capacity: u32,
    /// Slot of the table.
    pub slot: u32,
}

impl Table {
    /// The table that judges now.
    #[inline(always)]
    pub fn active() -> Self {
        let slot = match ACTIVE.get_ptr(active::TABLE) {
            // SAFETY: a map value; userspace stores to it concurrently, hence volatile.
            Some(word) => unsafe { read_volatile(word) },
            None => u32::MAX,
        };
        match TABLES.get_value_ptr_mut(slot, &0) {
            Some(words) => Self {
                words: words.cast_const().cast(),
                capacity: CAPACITY.load(),
                slot,
            },
            None => Self {
                words: null(),
                capacity: 0,
                slot,
            },
        }
    }
}

impl Words for Table {
    #[inline(always)]
    fn at(&self, index: u32) -> u32 {
        if index >= self.capacity {
            return 0;
        }
        // SAFETY: index lies within the value; userspace may store to it concurrently, hence
        // volatile: what was checked must be what is used.
        unsafe { read_volatile(self.words.add(index as usize)) }
    }
}
