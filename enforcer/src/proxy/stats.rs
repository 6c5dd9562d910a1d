//! What the proxy has done so far: counters and a histogram, read while they are written.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use super::Refusal;

/// What the proxy has done so far.
#[derive(Debug, Default)]
pub struct Stats {
    pub open: AtomicUsize,
    pub accepted: AtomicU64,
    /// Requests and connections.
    pub allowed: AtomicU64,
    pub refused: AtomicU64,
    /// Requests and tunnels that were broken off because they lost their permission.
    pub broken_off: AtomicU64,
    /// Times that an authorizer was asked.
    pub asked: AtomicU64,
    refusals: [AtomicU64; Refusal::ALL.len()],
    /// From the head of a request to the last byte of its answer.
    pub latency: Histogram,
}

impl Stats {
    pub(super) fn count(&self, refusal: Refusal) {
        self.refusals[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often the proxy itself has refused, for one reason.
    pub fn refusals(&self, refusal: Refusal) -> u64 {
        self.refusals[refusal as usize].load(Ordering::Relaxed)
    }

    /// Connections reset because the proxy, or their source, had as many as it may.
    pub fn over_limit(&self) -> u64 {
        self.refusals(Refusal::OverLimit) + self.refusals(Refusal::SourceOverLimit)
    }
}

/// Upper bounds of the buckets, in seconds.
pub const BOUNDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0,
    60.0,
];

/// Times by bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The last is for what is above all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub(super) fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.iter().take_while(|bound| seconds > **bound).count();
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many fell into each bucket, the open one last, and the sum of all in seconds.
    pub fn read(&self) -> (Vec<u64>, f64) {
        let buckets = self.buckets.iter();
        let buckets = buckets.map(|b| b.load(Ordering::Relaxed)).collect();
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed));
        (buckets, sum.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_bucket_whose_bound_it_does_not_pass() {
        let histogram = Histogram::default();
        for micros in [100, 101, 60_000_000, 61_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        let (buckets, sum) = histogram.read();
        let filled: Vec<usize> = (0..buckets.len()).filter(|i| buckets[*i] > 0).collect();
        assert_eq!(filled, [0, 1, 13, 14]);
        assert!((sum - 121.000_201).abs() < 1e-9, "{sum}");
    }
}
