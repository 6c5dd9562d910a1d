//! `cargo xtask soak`: one node for a long time, and agents that are killed at any moment.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{build, setup, step};

/// Beyond the time that was asked for: building, and settling at the end.
const MORE: Duration = Duration::from_secs(300);
/// What one kill may take, on a busy machine.
const KILL: Duration = Duration::from_secs(20);

/// Soaks a node for so many minutes, then kills its agent so many times.
///
/// # Errors
/// When something was not as it must be, or nothing could be run.
pub fn run(minutes: f64, kills: u32) -> Result<()> {
    build::bpf(&setup::ready()?)?;
    let mut programs = build::static_cargo("build");
    programs.args(["--package", "tests", "--bins"]);
    step::must("build the programs", &mut programs, build::LIMIT)?;
    if minutes > 0.0 {
        let limit = build::LIMIT + Duration::from_secs_f64(minutes * 60.0) + MORE;
        let title = format!("soak for {minutes} minutes");
        let mut soak = command(minutes);
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

fn finish(title: &str, done: &step::Done) -> Result<()> {
    let result = if done.success { "ok" } else { "FAILED" };
    step::report(result, title, done.time, "");
    if !done.success {
        eprint!("{}", step::tail(&done.output));
        anyhow::bail!("{title}: {} (all of it: {})", done.how, done.log.display());
    }
    Ok(())
}
