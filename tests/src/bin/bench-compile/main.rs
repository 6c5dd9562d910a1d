//! What compiling costs: documents to a bundle, a bundle to a node's words, text to documents, text
//! to an active table beside `nft`, one request judged in userspace beside a direct reading of the
//! rules, `policyc check` on a large tree, and `policyc diff` of one change in it. `cargo xtask bench compile` builds and runs this.

mod active;
mod check;
mod diff;
mod judge;
mod reading;
mod sizes;

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value};

/// As policyc has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    /// Write the figures there, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Run one part in this process, for a process of its own
    #[arg(long, value_enum, hide = true)]
    part: Option<Part>,
}

/// Parts, each a process of its own, so that none pays for the memory of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    /// 10 000 policies, 100 000 pods: documents to bundle, bundle to words
    Large,
    /// 1 000 policies, 10 000 pods
    Medium,
    /// YAML and JSON to documents
    Reading,
    /// Text to an active table, beside `nft -f`
    Active,
    /// One request in userspace
    Judge,
    /// `policyc check` on a tree of 10 000 policies
    Check,
    /// `policyc diff` of 10 000 policies, one of them changed
    Diff,
}

/// What a part came to.
#[derive(Default)]
struct Figures {
    /// By name, with the unit last in it.
    values: Map<String, Value>,
    /// Goals that were missed, in words.
    missed: Vec<String>,
}

impl Figures {
    fn add(&mut self, name: &str, value: f64) {
        self.values
            .insert(name.into(), ((value * 10.0).round() / 10.0).into());
    }

    /// Adds a figure that has a goal.
    fn goal(&mut self, name: &str, value: f64, most: f64) {
        self.add(name, value);
        if value > most {
            self.missed
                .push(format!("{name} is {value:.1}, more than {most}"));
        }
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(part) = arguments.part {
        return one(part);
    }
    let mut all = Map::new();
    let mut missed = 0;
    for part in Part::value_variants() {
        if arguments.only.is_some_and(|only| only != *part) {
            continue;
        }
        let (figures, failed) = in_own_process(*part)?;
        missed += usize::from(failed);
        all.insert(name_of(*part), figures);
    }
    if let Some(path) = arguments.json {
        fs::write(&path, Value::Object(all).to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn name_of(part: Part) -> String {
    part.to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Runs a part, prints its figures, and says whether it missed a goal.
fn in_own_process(part: Part) -> Result<(Value, bool)> {
    let program = std::env::current_exe().context("where this program is")?;
    let output = Command::new(program)
        .args(["--part", &name_of(part)])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start a part")?;
    ensure!(
        !output.stdout.is_empty(),
        "part {} said nothing",
        name_of(part)
    );
    let figures: Value = serde_json::from_slice(&output.stdout).context("a part's figures")?;
    println!("{}", name_of(part));
    for (name, value) in figures.as_object().into_iter().flatten() {
        println!("  {value:>10}  {}", name.replace('_', " "));
    }
    Ok((figures, !output.status.success()))
}

fn one(part: Part) -> Result<ExitCode> {
    let figures = match part {
        Part::Large => sizes::large(),
        Part::Medium => sizes::medium(),
        Part::Reading => reading::measure(),
        Part::Active => active::measure(),
        Part::Judge => judge::measure(),
        Part::Check => check::measure(),
        Part::Diff => diff::measure(),
    }?;
    for missed in &figures.missed {
        eprintln!("missed: {missed}");
    }
    println!("{}", Value::Object(figures.values));
    Ok(if figures.missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Middle of several measurements.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
