//! Processor time, for benchmarks on a machine that others use too.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time that all threads of the process have used so far.
#[must_use]
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
}

/// Runs something and tells the processor time that it took, on whatever threads.
pub fn spent<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = now();
    let done = work();
    (done, now().saturating_sub(start))
}
