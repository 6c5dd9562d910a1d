//! The active table as [`Words`].
#![expect(
    unsafe_code,
    reason = "the table is one map value behind a raw pointer"
)]

use core::{
    arch::asm,
    hint::black_box,
    ptr::{null, read_volatile},
};

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use enforcer_ebpf::{
    decide,
    maps::active,
    words::{Address, Words},
};

use super::{
    globals::CAPACITY,
    maps::{ACTIVE, TABLES},
    run::Run,
};

/// One table. Which one is read once for each run, so that no packet is judged by a mixture.
pub struct Table {
    words: *const u32,
    /// Words that may be read: 0 while no table is active.
    capacity: u32,
    /// Slot of the table.
    pub slot: u32,
    /// 0, which the verifier need not know.
    blank: u32,
}

impl Table {
    /// The table that judges now, on behalf of a run.
    #[inline(always)]
    pub fn of_run(run: &Run) -> Self {
        Self::active().on_behalf_of(run)
    }

    /// The same, for a run: see [`Run::blank`].
    #[inline(always)]
    pub fn on_behalf_of(self, run: &Run) -> Self {
        Self {
            blank: run.blank(),
            ..self
        }
    }

    /// The table that judges now.
    #[inline(always)]
    pub fn active() -> Self {
        let slot = match ACTIVE.get_ptr(active::TABLE) {
            // SAFETY: a map value; userspace stores to it concurrently, hence volatile.
            Some(word) => unsafe { read_volatile(word) },
            None => u32::MAX,
        };
        Self::in_slot(slot)
    }

    /// Slot of the table that is only asked beside the active one; no slot where there is none.
    #[inline(always)]
    pub fn shadow_slot() -> u32 {
        match ACTIVE.get_ptr(active::SHADOW) {
            // SAFETY: as above.
            Some(word) => unsafe { read_volatile(word) },
            None => u32::MAX,
        }
    }

    #[inline(always)]
    pub fn in_slot(slot: u32) -> Self {
        // A literal zero would be merged with a read-only global that is zero when compiled, and
        // would no longer be zero once the loader has written that global.
        let first = black_box(0);
        match TABLES.get_value_ptr_mut(slot, &first) {
            Some(words) => Self {
                words: words.cast_const().cast(),
                capacity: CAPACITY.load(),
                slot,
                blank: 0,
            },
            None => Self {
                words: null(),
                capacity: 0,
                slot,
                blank: 0,
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

    #[inline(always)]
    fn within(&self, index: u32, count: u32) -> bool {
        self.capacity >= count && index <= self.capacity - count
    }

    #[inline(always)]
    fn opaque(&self, number: u32) -> u32 {
        number ^ self.blank
    }

    #[inline(always)]
    fn four(&self, index: u32) -> [u32; 4] {
        let mut index = index;
        // What is compared is what is used: read back from the stack twice, it would be two values to
        // Linux 6.1.
        // SAFETY: a register is given to itself.
        unsafe {
            asm!("{index} = {index}", index = inout(wreg) index, options(nostack, pure, nomem));
        }
        if self.capacity < 4 || index > self.capacity - 4 {
            return [0; 4];
        }
        // SAFETY: as above, of the four words from index on.
        unsafe {
            let first = self.words.add(index as usize);
            [
                read_volatile(first),
                read_volatile(first.add(1)),
                read_volatile(first.add(2)),
                read_volatile(first.add(3)),
            ]
        }
    }

    #[inline(always)]
    fn seconds(&self) -> u32 {
        // SAFETY: a plain helper call.
        let seconds = unsafe { bpf_ktime_get_boot_ns() } / 1_000_000_000;
        (seconds & 0xffff_ffff) as u32
    }

    #[inline(always)]
    fn address_v6(&self, address: &[u32; 4]) -> Address {
        let (high, low) = halves(address);
        Address(address_v6_in(self.slot, high, low))
    }

    #[inline(always)]
    fn narrow_v6(&self, address: &[u32; 4], low: u32, step: u32) -> u32 {
        let (high, rest) = halves(address);
        narrow_v6_in(self.slot, high, rest, low, step)
    }
}

// VERIFIER: these two are global functions of plain numbers. The kernel checks each once, by itself,
// and knows nothing of what it returns; inlined, the buckets would be walked again for each path that
// leads to them, and the sixteen halvings in 65 536 ways.

/// Asks the table in `slot` for an IPv6 address, given as its two halves.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn address_v6_in(slot: u32, high: u64, low: u64) -> u32 {
    decide::address_v6(&Table::in_slot(slot), &whole(high, low)).0
}

/// One step of the search among the ranges of the table in `slot`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn narrow_v6_in(slot: u32, high: u64, rest: u64, low: u32, step: u32) -> u32 {
    decide::narrow_v6(&Table::in_slot(slot), &whole(high, rest), low, step)
}

#[inline(always)]
fn halves(address: &[u32; 4]) -> (u64, u64) {
    (
        u64::from(address[0]) << 32 | u64::from(address[1]),
        u64::from(address[2]) << 32 | u64::from(address[3]),
    )
}

#[inline(always)]
fn whole(high: u64, low: u64) -> [u32; 4] {
    [
        (high >> 32) as u32,
        (high & 0xffff_ffff) as u32,
        (low >> 32) as u32,
        (low & 0xffff_ffff) as u32,
    ]
}
