//! What was measured, and what it must reach.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use crate::process::Memory;

/// Goals.
const CORES_MAX: f64 = 0.2;
const MEMORY_MIB_MAX: f64 = 200.0;
const POD_P99_MS_MAX: f64 = 50.0;
const POLICY_P99_MS_MAX: f64 = 250.0;
/// Changes of pods a second: with fewer nothing was shown.
const RATE_MIN: f64 = 950.0;

pub struct Figures {
    /// Until the agent was ready.
    pub start: Duration,
    /// Changes of pods a second, while pods were measured.
    pub rate: f64,
    /// Of the agent in that time.
    pub cores: f64,
    pub memory: Memory,
    /// From the change to the first packet that meets it: where nothing else happens, and where pods
    /// change all the time.
    pub quiet_pods: Latencies,
    pub pods: Latencies,
    pub quiet_policies: Latencies,
    pub policies: Latencies,
}

#[derive(Default)]
pub struct Latencies {
    sorted: Vec<f64>,
}

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        let milliseconds = latency.as_secs_f64() * 1e3;
        let at = self.sorted.partition_point(|other| *other <= milliseconds);
        self.sorted.insert(at, milliseconds);
    }

    /// In milliseconds: the least that so many of a hundred do not exceed.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    fn json(&self) -> Value {
        json!({
            "samples": self.sorted.len(),
            "p50_ms": self.percentile(50),
            "p90_ms": self.percentile(90),
            "p99_ms": self.percentile(99),
            "max_ms": self.percentile(100),
        })
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, most {:.1} ms of {}",
            self.percentile(50),
            self.percentile(90),
            self.percentile(99),
            self.percentile(100),
            self.sorted.len()
        )
    }
}

impl Figures {
    pub fn json(&self) -> Value {
        json!({
            "start_s": self.start.as_secs_f64(),
            "pod_changes_per_s": self.rate,
            "cpu_cores": self.cores,
            "memory_mib": self.memory.own,
            "tables_mib": self.memory.tables,
            "peak_mib": self.memory.peak,
            "quiet_pod": self.quiet_pods.json(),
            "pod": self.pods.json(),
            "quiet_policy": self.quiet_policies.json(),
            "policy": self.policies.json(),
        })
    }

    /// Goals that were not reached. What is not a number has reached nothing.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let mut most = |value: f64, most: f64, what: &str| {
            if value.is_nan() || value > most {
                missed.push(format!("{what}: {value:.2}, more than {most}"));
            }
        };
        most(self.cores, CORES_MAX, "processor cores");
        most(self.memory.own, MEMORY_MIB_MAX, "MiB of memory");
        most(
            self.pods.percentile(99),
            POD_P99_MS_MAX,
            "milliseconds from a pod to the kernel",
        );
        most(
            self.policies.percentile(99),
            POLICY_P99_MS_MAX,
            "milliseconds from a policy to the kernel",
        );
        if self.rate < RATE_MIN {
            missed.push(format!(
                "changes a second: {:.0}, less than {RATE_MIN}",
                self.rate
            ));
        }
        missed
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Memory { own, tables, peak } = self.memory;
        writeln!(
            f,
            "start, until ready            {:.1} s",
            self.start.as_secs_f64()
        )?;
        writeln!(f, "changes of pods               {:.0} a second", self.rate)?;
        writeln!(
            f,
            "processor                     {:.3} of a core",
            self.cores
        )?;
        writeln!(
            f,
            "memory                        {own:.1} MiB, and {tables:.1} MiB of tables; at most {peak:.1} MiB"
        )?;
        writeln!(f, "from a pod to the kernel      {}", self.pods)?;
        writeln!(f, "  in a quiet cluster          {}", self.quiet_pods)?;
        writeln!(f, "from a policy to the kernel   {}", self.policies)?;
        writeln!(f, "  in a quiet cluster          {}", self.quiet_policies)
    }
}
