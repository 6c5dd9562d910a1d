//! `cargo xtask soak`: one node for a long time, agents that are killed at any moment, and a proxy that
//! carries much.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{build, setup, step};

/// Beyond the time that was asked for: building, and settling at the end.
const MORE: Duration = Duration::from_secs(300);
/// What one kill may take, on a busy machine.
const KILL: Duration = Duration::from_secs(20);

/// What the proxy carries when it is asked for much: bytes, and connections at the same time.
const L7: [(&str, &str); 2] = [
    ("ENFORCER_TEST_L7_BYTES", "10737418240"),
    ("ENFORCER_TEST_L7_CONNECTIONS", "10000"),
];
/// How long that may take.
const L7_LIMIT: Duration = Duration::from_secs(3_600);

/// Soaks a node for so many minutes, then kills its agent so many times, then lets its proxy carry
/// much. With `kube` the agent follows an API server.
///
/// # Errors
/// When something was not as it must be, or nothing could be run.
pub fn run(minutes: f64, kills: u32, l7: bool, kube: bool) -> Result<()> {
    build::bpf(&setup::ready()?)?;
    let mut programs = build::static_cargo("build");
    programs.args(["--package", "tests", "--bins"]);
    step::must("build the programs", &mut programs, build::LIMIT)?;
    if minutes > 0.0 {
        let limit = build::LIMIT + Duration::from_secs_f64(minutes * 60.0) + MORE;
        let title = format!("soak for {minutes} minutes");
        let mut soak = command(minutes);
        if kube {
            soak.arg("--kube");
        }
        let done = step::follow(&title, &mut soak, limit, |line| {
            line.starts_with("soak: ").then(|| line.to_owned())
        })?;
        finish(&title, &done)?;
    }
    if kills > 0 {
        let title = format!("kill agents {kills} times");
        let limit = build::LIMIT + KILL * kills + MORE;
        let done = step::run(&title, &mut kill(kills), limit)?;
        finish(&title, &done)?;
    }
    if l7 {
        let title = "carry 10 GB and 10 000 connections";
        let limit = build::LIMIT + L7_LIMIT;
        let done = step::follow(title, &mut carry(), limit, |line| {
            let figure = line.contains(" KiB ") || line.contains(" at the same time, ");
            figure.then(|| line.to_owned())
        })?;
        finish(title, &done)?;
    }
    Ok(())
}

/// The soak alone, of programs that are built.
pub fn command(minutes: f64) -> Command {
    let mut soak = build::static_cargo("run");
    soak.args(["--package", "tests", "--bin", "soak", "--"])
        .args(["--minutes", &minutes.to_string()]);
    soak
}

fn kill(times: u32) -> Command {
    let mut test = build::static_cargo("test");
    test.args(["--package", "tests", "--test", "live", "--"])
        .args(["unkillable::", "--nocapture"])
        .env("ENFORCER_TEST_KILLS", times.to_string());
    test
}

fn carry() -> Command {
    let mut test = build::static_cargo("test");
    test.args(["--package", "tests", "--test", "clients", "--"])
        .args(["extent::", "--nocapture", "--test-threads=1"])
        .envs(L7);
    test
}

fn finish(title: &str, done: &step::Done) -> Result<()> {
    let result = if done.success { "ok" } else { "FAILED" };
    step::report(result, title, done.time, "");
    if !done.success {
        eprint!("{}", step::tail(&done.output));
        anyhow::bail!("{title}: {} (all of it: {})", done.how, done.log.display());
    }
    Ok(())
}
