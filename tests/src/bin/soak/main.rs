//! `cargo xtask soak`'s program: one node for a long time. Policies and pods come and go, agents are
//! killed, floods come in, and every connection must meet what the oracle says of the policies that
//! are in force; at the end nothing may have grown.
//!
//! Exit status: 0 all was as expected, 1 it was not.

mod followed;
mod growth;
mod policies;
mod world;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Parser;

use followed::Followed;
use world::World;

/// How long a new state of affairs is looked at, in connections.
const LOOKS: u32 = 12;

#[derive(Parser)]
struct Arguments {
    /// How long
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// What happens is drawn from it; default: another one each time, which is told
    #[arg(long)]
    seed: Option<u64>,
    /// The agent follows an API server, which is a double
    #[arg(long)]
    kube: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if !tests::live::possible() {
        return Ok(()); // which has said why
    }
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("soak: {} minutes, --seed {seed}", arguments.minutes);
    let mut rng = fastrand::Rng::with_seed(seed);
    let limit = Duration::from_secs_f64(arguments.minutes * 60.0);
    let start = Instant::now();
    if arguments.kube {
        return follow(&mut rng, start, limit);
    }
    let mut world = World::new(&mut rng)?;
    let mut done = BTreeMap::<&str, u32>::new();
    let mut told = Instant::now();
    while start.elapsed() < limit {
        let what = match rng.u32(0..20) {
            0..=8 => {
                world.change_policies(&mut rng)?;
                "policies changed"
            }
            9 => {
                world.roll_back()?;
                "rolled back"
            }
            10..=11 => {
                world.try_shadow(&mut rng)?;
                "shadows promoted"
            }
            // Seldom, so that agents grow old enough to be seen to grow.
            12 if rng.u32(0..4) == 0 => {
                world.kill_agent()?;
                "agents killed"
            }
            13 if rng.u32(0..4) == 0 => {
                world.change_pods(&mut rng)?;
                "pods made and removed"
            }
            14..=15 => {
                world.flood(&mut rng);
                "floods"
            }
            16 => {
                world.pause(&mut rng)?;
                "pauses"
            }
            _ => "quiet",
        };
        *done.entry(what).or_default() += 1;
        for _ in 0..LOOKS {
            let allowed = world.look(&mut rng)?;
            let what = if allowed { "allowed" } else { "refused" };
            *done.entry(what).or_default() += 1;
        }
        world.sample()?;
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            println!("soak: {} s, {done:?}", start.elapsed().as_secs());
        }
    }
    let grown = world.settle()?;
    println!("soak: {done:?}; {grown}");
    judged_both(&done)
}

/// The same for an agent that follows an API server.
fn follow(rng: &mut fastrand::Rng, start: Instant, limit: Duration) -> Result<()> {
    let mut world = Followed::new()?;
    let mut done = BTreeMap::<&str, u32>::new();
    let mut told = Instant::now();
    while start.elapsed() < limit {
        let what = match rng.u32(0..12) {
            0..=4 => {
                world.change_policies(rng)?;
                "policies changed"
            }
            5..=7 => {
                world.change_pods(rng)?;
                "pods made and removed"
            }
            8..=9 => {
                world.trouble(rng);
                world.change_policies(rng)?;
                "watches cut"
            }
            10 => {
                world.outage(rng)?;
                "outages"
            }
            _ => {
                world.restart(rng)?;
                "agents killed"
            }
        };
        *done.entry(what).or_default() += 1;
        let (allowed, refused) = world.catch_up()?;
        *done.entry("allowed").or_default() += allowed;
        *done.entry("refused").or_default() += refused;
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            println!("soak: {} s, {done:?}", start.elapsed().as_secs());
        }
    }
    println!("soak: {done:?}; {}", world.told());
    judged_both(&done)
}

/// A soak in which everything was allowed, or nothing, has shown nothing.
fn judged_both(done: &BTreeMap<&str, u32>) -> Result<()> {
    for verdict in ["allowed", "refused"] {
        let count = done.get(verdict).copied().unwrap_or(0);
        ensure!(count > 10, "only {count} connections were {verdict}");
    }
    Ok(())
}
