//! Whether an agent grows while it lives.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// A young agent still makes what it needs.
const YOUTH: Duration = Duration::from_secs(5);
/// What may be added in a life: an allocator keeps what it has once had.
const MEMORY_MAX_KB: u64 = 64 << 10;
const DESCRIPTORS_MAX: usize = 24;

/// One agent's life.
#[derive(Debug)]
pub struct Life {
    process: u32,
    born: Instant,
    first: Option<Sample>,
    last: Option<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    memory_kb: u64,
    descriptors: usize,
}

impl Life {
    pub fn of(process: u32) -> Self {
        Self {
            process,
            born: Instant::now(),
            first: None,
            last: None,
        }
    }

    /// Looks at the agent.
    ///
    /// # Errors
    /// When it has grown more than it may, or is not there.
    pub fn sample(&mut self) -> Result<()> {
        if self.born.elapsed() < YOUTH {
            return Ok(());
        }
        let sample = Sample {
            memory_kb: resident_kb(self.process)?,
            descriptors: descriptors(self.process)?,
        };
        let first = *self.first.get_or_insert(sample);
        self.last = Some(sample);
        ensure!(
            sample.memory_kb <= first.memory_kb + MEMORY_MAX_KB
                && sample.descriptors <= first.descriptors + DESCRIPTORS_MAX,
            "the agent grows: {first:?}, after {:?} {sample:?}",
            self.born.elapsed()
        );
        Ok(())
    }

    /// In words.
    pub fn told(&self) -> String {
        format!(
            "the last agent, {} s old: {:?} at first, {:?} at last",
            self.born.elapsed().as_secs(),
            self.first,
            self.last
        )
    }
}

fn resident_kb(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("the kernel tells of memory")?.parse()?)
}

fn descriptors(process: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/fd"))?.count())
}
