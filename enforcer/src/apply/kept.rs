//! The words of a table, kept in this process as well: the proxy judges by them, since the slot in the
//! kernel may be written again while a request is being judged. What changes in the one while it is in
//! force changes in the other.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use enforcer_ebpf::words::{CAPACITY_MAX, Words, header};
use policyc::link::Table;

use crate::table::Memory;

/// Words that may be added to a table while it is in force: 256 blocks, and a share of its size.
const ROOM: usize = 256 * 256;
const SHARE: usize = 8;

/// Words, and zeros where it may grow.
#[derive(Clone, Debug)]
pub struct Kept(Arc<Vec<AtomicU32>>);

impl Kept {
    /// `capacity` is what a slot holds; 0 for the most that one may hold.
    pub fn new(words: &[u32], capacity: u32) -> Self {
        let capacity = match capacity {
            0 => CAPACITY_MAX,
            capacity => capacity,
        };
        let room = words.len() + words.len() / SHARE + ROOM;
        let room = room.min(capacity as usize).max(words.len());
        let mut all = Vec::with_capacity(room);
        all.extend(words.iter().copied().map(AtomicU32::new));
        all.resize_with(room, AtomicU32::default);
        Self(Arc::new(all))
    }

    /// The words of the table, as they are now.
    pub fn words(&self) -> Vec<u32> {
        let length = self.at(header::LENGTH) as usize;
        let words = self.0.iter().take(length);
        words.map(|word| word.load(Ordering::Acquire)).collect()
    }
}

impl Words for Kept {
    fn at(&self, index: u32) -> u32 {
        let word = self.0.get(index as usize);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }
}

/// A table that is asked by the kernel and by the proxy.
pub struct Live<'a> {
    pub kept: &'a Kept,
    pub memory: &'a Memory,
}

impl Words for Live<'_> {
    fn at(&self, index: u32) -> u32 {
        self.kept.at(index)
    }
}

impl Table for Live<'_> {
    fn store(&mut self, index: u32, word: u32) {
        if let Some(kept) = self.kept.0.get(index as usize) {
            kept.store(word, Ordering::Release);
        }
        self.memory.store(index, word);
    }

    fn room(&self) -> u32 {
        u32::try_from(self.kept.0.len()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_may_grow_as_far_as_its_slot_and_reads_zero_there() {
        let words = vec![7; 1 << 10];
        let wide = Kept::new(&words, 0);
        assert_eq!((wide.at(1023), wide.at(1024)), (7, 0));
        assert!(wide.0.len() > words.len() + ROOM);
        assert_eq!(Kept::new(&words, 1 << 11).0.len(), 1 << 11);
    }
}
