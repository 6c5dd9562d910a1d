//! What a process has used so far.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Another process.
pub struct Process {
    id: u32,
}

/// In MiB.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Resident, without the tables.
    pub own: f64,
    /// Of the kernel's tables, as far as they are mapped.
    pub tables: f64,
    /// The most that was ever resident, the tables included.
    pub peak: f64,
}

impl Process {
    pub fn of(id: u32) -> Self {
        Self { id }
    }

    /// Processor time of all its threads, those that have ended included.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = self.read("stat")?;
        // After the name, which ends with the last parenthesis, the third field.
        let rest = stat.rsplit(") ").next().unwrap_or_default();
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).context("two counts of ticks")?;
        let second = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_secs_f64(
            (user + system) as f64 / second as f64,
        ))
    }

    pub fn memory(&self) -> Result<Memory> {
        let status = self.read("status")?;
        let peak = kib(&status, "VmHWM:")?;
        let resident = kib(&status, "VmRSS:")?;
        let mut tables = 0.0;
        let mut is_table = false;
        for line in self.read("smaps")?.lines() {
            // A mapping begins with its addresses, and its lines with a word and a colon.
            if line
                .split(' ')
                .next()
                .is_some_and(|word| !word.ends_with(':'))
            {
                is_table = line.contains("bpf-map");
            } else if is_table && line.starts_with("Rss:") {
                tables += kib(line, "Rss:")?;
            }
        }
        let mib = |kib: f64| kib / 1_024.0;
        Ok(Memory {
            own: mib(resident - tables),
            tables: mib(tables),
            peak: mib(peak),
        })
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.id);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

fn kib(text: &str, key: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no {key}"))
}
