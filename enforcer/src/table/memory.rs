//! Array maps of words, mapped into our memory. The one place that touches it by pointer.

use std::{
    io,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The words of an array map: of its single value, or the first word of each of its elements.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<AtomicU32>,
    bytes: usize,
    words: u32,
    /// Distance between two words, in words: elements of an array are padded to eight bytes.
    stride: usize,
}

// SAFETY: the mapping belongs to this value alone and all shared access goes through atomics.
#[expect(unsafe_code, reason = "the mapping may move between threads")]
unsafe impl Send for Memory {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "the mapping may be read by several threads")]
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps an array map that holds `words` words, as one value or as one element each. The map must
    /// have been made with BPF_F_MMAPABLE.
    #[expect(unsafe_code, reason = "mapping a kernel object into memory")]
    pub fn of_words(map: &MapData, words: u32) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let (elements, value) = (info.max_entries() as usize, info.value_size() as usize);
        let in_one_value = elements == 1;
        let held = if in_one_value { value / 4 } else { elements };
        if held < words as usize {
            return Err(io::Error::other(format!(
                "it holds {held} words, not {words}"
            )));
        }
        let stride = if in_one_value {
            1
        } else {
            value.next_multiple_of(8) / 4
        };
        let page = rustix::param::page_size();
        let bytes = (value.next_multiple_of(8) * elements).next_multiple_of(page);
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else uses it, and the
        // kernel keeps the map alive as long as it is mapped.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.fd().as_fd(),
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            base,
            bytes,
            words,
            stride,
        })
    }

    /// The word at `index`, or 0 outside.
    pub fn load(&self, index: u32) -> u32 {
        self.word(index).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// Stores a word; what was written before is seen by whoever sees it. Outside: nothing.
    pub fn store(&self, index: u32, value: u32) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::Release);
        }
    }

    /// Copies all of `words` from index `from` on to the same places. Outside: nothing. Most are there
    /// already, from the table before last: what is only read stays shared among the processors.
    pub fn copy_from(&mut self, words: &[u32], from: u32) {
        for (i, value) in words.iter().enumerate().skip(from as usize) {
            if let Some(word) = u32::try_from(i).ok().and_then(|i| self.word(i))
                && word.load(Ordering::Relaxed) != *value
            {
                word.store(*value, Ordering::Relaxed);
            }
        }
    }

    /// Clears the words from `from` up to, not including, `to`.
    pub fn clear(&mut self, from: u32, to: u32) {
        for index in from..to.min(self.words) {
            if let Some(word) = self.word(index) {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    #[expect(unsafe_code, reason = "the mapping is reached by pointer")]
    fn word(&self, index: u32) -> Option<&AtomicU32> {
        if index >= self.words {
            return None;
        }
        // SAFETY: index < words, and words * stride words lie within the mapping, which lives as
        // long as self. It is aligned to a page, and others only ever access it in whole words.
        Some(unsafe { self.base.add(index as usize * self.stride).as_ref() })
    }
}

/// The elements of an array map of 64-bit counts, to which the kernel adds as well.
#[derive(Debug)]
pub struct Counts(Memory);

impl Counts {
    /// Maps an array map that holds `counts` elements of 64 bits, and was made with BPF_F_MMAPABLE.
    pub fn of(map: &MapData, counts: u32) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        if info.value_size() != 8 || info.max_entries() < 2 {
            return Err(io::Error::other("it is not an array of 64-bit counts"));
        }
        Memory::of_words(map, counts).map(Self)
    }

    /// The count at `index`, or 0 outside.
    pub fn load(&self, index: u32) -> u64 {
        self.count(index).map_or(0, |c| c.load(Ordering::Acquire))
    }

    /// Adds, wrapping around as the kernel's own additions do. Outside: nothing.
    pub fn add(&self, index: u32, amount: i64) {
        if let Some(count) = self.count(index) {
            count.fetch_add(amount.cast_unsigned(), Ordering::AcqRel);
        }
    }

    #[expect(unsafe_code, reason = "the mapping is reached by pointer")]
    fn count(&self, index: u32) -> Option<&AtomicU64> {
        if index >= self.0.words {
            return None;
        }
        // SAFETY: index < words, and elements of eight bytes lie a stride of two words apart, within
        // the mapping, which lives as long as self. It is aligned to a page, and nobody accesses
        // these elements but as a whole.
        Some(unsafe { self.0.base.cast::<AtomicU64>().add(index as usize).as_ref() })
    }
}

impl Drop for Memory {
    #[expect(unsafe_code, reason = "the mapping ends with its owner")]
    fn drop(&mut self) {
        // SAFETY: base and bytes are those of our own mapping, and no reference outlives self.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        if let Err(error) = unmapped {
            tracing::warn!(%error, "cannot unmap a table");
        }
    }
}
