//! `cargo xtask bench`: builds what measures, and runs it. Each bench fails when a stated goal is
//! missed.

use std::{ffi::OsStr, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::{build, paths, setup, step};

/// Cost against table size, as seen from the repository's root.
const PICTURE: &str = "tests/figures/cost.svg";

/// What can be measured.
#[derive(Clone, Copy, ValueEnum)]
pub enum What {
    /// One agent in a large cluster: processor time, memory, how soon news is enforced
    Agent,
    /// From text to a bundle to an active table, beside nft; requests judged in userspace
    Compile,
    /// Nanoseconds of one decision in the kernel, beside a hash and a prefix lookup
    Datapath,
    /// The proxy beside Envoy: processor time, latency, memory
    L7,
    /// One change of the cluster, from the call to the table
    Increments,
    /// Real traffic between pods, beside nft, iptables and BPF maps
    Net,
}

/// Measures.
///
/// # Errors
/// When something does not build, cannot run here, or misses its goal.
pub fn run(what: What, json: Option<PathBuf>) -> Result<()> {
    match what {
        What::Agent => agent(json),
        What::Compile => compile(json),
        What::Datapath => datapath(json),
        What::L7 => l7(json),
        What::Increments => program("bench-increments", json, &[]),
        What::Net => net(json),
    }
}

fn agent(json: Option<PathBuf>) -> Result<()> {
    build::bpf(&setup::ready()?)?;
    let enforcer = release_agent()?;
    let arguments = [OsStr::new("--enforcer"), enforcer.as_os_str()];
    program("bench-agent", json, &arguments)
}

fn compile(json: Option<PathBuf>) -> Result<()> {
    setup::ready()?;
    // What an author runs is measured as it is shipped.
    let mut policyc = build::cargo("build");
    policyc.args(["--release", "--package", "policyc"]);
    step::must("build policyc", &mut policyc, build::LIMIT)?;
    program("bench-compile", json, &[])
}

fn datapath(json: Option<PathBuf>) -> Result<()> {
    let toolchain = setup::ready()?;
    let mut programs = build::bpf_cargo(&toolchain, "build");
    programs.args(["--bin", "enforcer-ebpf-bench"]);
    step::must("build the BPF programs", &mut programs, build::LIMIT)?;
    program("bench-datapath", json, &[])
}

/// Leaves its picture where the README shows it.
fn net(json: Option<PathBuf>) -> Result<()> {
    let toolchain = setup::ready_for_peers()?;
    build::bpf(&toolchain)?;
    let mut programs = build::bpf_cargo(&toolchain, "build");
    programs.args(["--bin", "enforcer-ebpf-bench"]);
    step::must(
        "build the bench's BPF programs",
        &mut programs,
        build::LIMIT,
    )?;
    let agent = release_agent()?;
    program(
        "bench-net",
        json,
        &[
            OsStr::new("--enforcer"),
            agent.as_os_str(),
            OsStr::new("--svg"),
            paths::root().join(PICTURE).as_os_str(),
        ],
    )
}

/// The agent as it is shipped.
fn release_agent() -> Result<PathBuf> {
    let mut agent = build::cargo("build");
    agent.args(["--release", "--package", "enforcer"]);
    step::must("build the agent", &mut agent, build::LIMIT)?;
    Ok(paths::target().join("release/enforcer"))
}

fn l7(json: Option<PathBuf>) -> Result<()> {
    let envoy = setup::envoy::provide()?;
    program(
        "bench-l7",
        json,
        &[OsStr::new("--envoy"), envoy.as_os_str()],
    )
}

/// Builds one of the measuring programs, optimised as what it measures is, and runs it.
fn program(name: &str, json: Option<PathBuf>, arguments: &[&OsStr]) -> Result<()> {
    let mut bench = build::cargo("build");
    bench.args(["--release", "--package", "tests", "--bin", name]);
    step::must("build the bench", &mut bench, build::LIMIT)?;
    let mut run = Command::new(paths::target().join("release").join(name));
    run.args(arguments);
    if let Some(path) = json {
        run.arg("--json").arg(path);
    }
    let status = run.status().context("cannot start the bench")?;
    ensure!(
        status.success(),
        "a goal was missed, or nothing could be measured"
    );
    Ok(())
}
