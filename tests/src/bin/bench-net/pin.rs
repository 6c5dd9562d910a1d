//! Threads that stay on one CPU.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Moves the calling thread to the `nth` of the CPUs that this process may use, counted round.
///
/// # Errors
/// When the kernel refuses.
pub fn to(nth: usize) -> Result<()> {
    let all = sched_getaffinity(rustix::thread::Pid::from_raw(
        std::process::id().try_into()?,
    ))?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| all.is_set(*cpu))
        .collect();
    let cpu = *allowed
        .get(nth % allowed.len().max(1))
        .context("there is a CPU to run on")?;
    let mut one = CpuSet::new();
    one.set(cpu);
    Ok(sched_setaffinity(None, &one)?)
}
