//! What a filter costs on the way from one pod to another: the agent, nft, iptables, and BPF hash
//! and prefix maps, each in a network of its own, all alive at once, measured in short slices in
//! turn, every slice between two of a network without any filter. `cargo xtask bench net` builds
//! and runs this.
//!
//! What is compared is the *median time* of a request or of a batch of packets within a slice: a
//! slice that lost its core to another process moves the tail and the mean, not the median. The
//! variant `none` is a second network without a filter: its spread is the noise of the machine.

mod agent;
mod filter;
mod goals;
mod measure;
mod pin;
mod plot;
mod triplet;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use filter::{Filter, Installed};
use measure::{Metric, Samples};
use triplet::Triplet;

#[derive(Parser)]
struct Arguments {
    /// The agent to measure, with its programs built in
    #[arg(long)]
    enforcer: PathBuf,
    /// Write the figures there, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw cost against table size there, as SVG
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Slices of each kind
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Length of a slice, in milliseconds
    #[arg(long, default_value_t = 300)]
    slice: u64,
    /// Only variants whose name begins so; repeatable
    #[arg(long)]
    only: Vec<String>,
}

/// A filter at work in a network of its own, and what was measured there.
struct Variant {
    filter: Filter,
    samples: Samples,
    // Fields drop in order: what is installed goes before the network it is in.
    _installed: Installed,
    triplet: Triplet,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(
        tests::ready::is_root(),
        "only root can make networks and attach filters"
    );
    let wanted = |filter: &Filter| {
        let name = filter.name();
        arguments.only.is_empty() || arguments.only.iter().any(|only| name.starts_with(only))
    };
    let slice = Duration::from_millis(arguments.slice);
    let base = Triplet::new()?;
    let mut variants = Vec::new();
    for filter in Filter::all().into_iter().filter(wanted) {
        eprint!("\rsetting up {:<40}", filter.name());
        let triplet = Triplet::new()?;
        let installed = filter
            .install(&triplet, &arguments.enforcer)
            .with_context(|| format!("set up {}", filter.name()))?;
        variants.push(Variant {
            filter,
            samples: Samples::default(),
            _installed: installed,
            triplet,
        });
    }
    for round in 0..arguments.rounds {
        for metric in Metric::ALL {
            eprint!(
                "\rround {} of {}: {:<40}",
                round + 1,
                arguments.rounds,
                metric.name()
            );
            measure::round(metric, &base, &mut variants, slice)?;
        }
    }
    eprintln!("\r{:<60}\r", "");
    report(&variants);
    let missed = goals::missed(&variants);
    for goal in &missed {
        println!("missed: {goal}");
    }
    if let Some(path) = &arguments.json {
        fs::write(path, json(&variants).to_string())
            .with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &arguments.svg {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, plot::cost_by_size(&variants)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn report(variants: &[Variant]) {
    for metric in Metric::ALL {
        println!("{}: {}", metric.name(), metric.what());
        println!("  {:<26} {:>8} {:>17}", "", "median", "middle half");
        for variant in variants {
            if let Some(spread) = variant.samples.spread(metric) {
                println!(
                    "  {:<26} {:>8} {:>17}",
                    variant.filter.name(),
                    metric.show(spread.median),
                    format!("[{} {}]", metric.show(spread.low), metric.show(spread.high))
                );
            }
        }
        println!();
    }
}

fn json(variants: &[Variant]) -> serde_json::Value {
    let rows = variants.iter().map(|variant| {
        let metrics = Metric::ALL.into_iter().filter_map(|metric| {
            let spread = variant.samples.spread(metric)?;
            let values = variant.samples.of(metric);
            Some((
                metric.name().to_owned(),
                serde_json::json!({
                    "median": spread.median, "low": spread.low, "high": spread.high,
                    "samples": values,
                }),
            ))
        });
        serde_json::json!({
            "filter": variant.filter.name(),
            "entries": variant.filter.entries(),
            "metrics": metrics.collect::<serde_json::Map<_, _>>(),
        })
    });
    serde_json::Value::Array(rows.collect())
}
