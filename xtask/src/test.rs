//! `cargo xtask test`: everything that CI runs, in order. Every step runs, also after one that
//! failed, so that one run tells all.

pub mod counts;

use std::{
    env,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{build, fuzz, setup, setup::Toolchain, soak, step, step::Done, vm};
use counts::Counts;

/// One line of the closing table.
struct Row {
    title: String,
    failed: bool,
    time: Duration,
    counts: Counts,
}

/// All that was run so far.
#[derive(Default)]
struct Account {
    rows: Vec<Row>,
}

/// Runs everything and prints the account, whose last line is `N passed, M failed`.
///
/// # Errors
/// When something failed or, under `CI=true`, was skipped.
pub fn run() -> Result<()> {
    let start = Instant::now();
    let toolchain = setup::ready_for_tests()?;
    say_conformance();
    let mut account = Account::default();
    account.step("format", cargo(&["fmt", "--all", "--check"]))?;
    account.step("clippy", cargo(&CLIPPY))?;
    account.step("clippy for BPF", clippy_bpf(&toolchain))?;
    account.step(
        "build the BPF object",
        build::bpf_cargo(&toolchain, "build"),
    )?;
    account.step("host tests", host_tests())?;
    let mut manifests = Command::new(env::current_exe()?);
    manifests.arg("manifests");
    account.step("manifests", manifests)?;
    account.step("build the fuzz targets", fuzz::build_targets())?;
    for target in fuzz::TARGETS {
        account.attempt(&fuzz::title(target), || fuzz::hunt(target, FUZZ_SECONDS));
    }
    let programs = ["--package", "policyc", "--package", "enforcer", "--bins"];
    let mut statically = build::static_cargo("build");
    statically.args(programs);
    account.step("build the static programs", statically)?;
    let mut kernel = build::static_cargo("test");
    kernel.args([
        "--package",
        "tests",
        "--no-fail-fast",
        "--",
        "--show-output",
    ]);
    if let Some(envoy) = setup::envoy::program() {
        kernel.env("ENFORCER_TEST_ENVOY", envoy);
    }
    account.step("kernel and live tests", kernel)?;
    account.step("soak", soak::command(SOAK_MINUTES))?;
    // The first command that a newcomer tries.
    let mut demo = Command::new(env::current_exe()?);
    demo.arg("demo");
    account.step("demo", demo)?;
    account.virtual_machine(vm::Kernel::V6_1);
    account.close(start.elapsed())
}

/// How long CI runs one node.
const SOAK_MINUTES: f64 = 1.0;

/// How long CI looks for inputs that break each of the fuzz targets.
const FUZZ_SECONDS: u32 = 30;

const CLIPPY: [&str; 6] = [
    "clippy",
    "--workspace",
    "--all-targets",
    "--",
    "-D",
    "warnings",
];

fn cargo(arguments: &[&str]) -> Command {
    let (command, rest) = arguments.split_first().unwrap_or((&"help", &[]));
    let mut cargo = build::cargo(command);
    cargo.args(rest);
    cargo
}

fn clippy_bpf(toolchain: &Toolchain) -> Command {
    let mut clippy = build::bpf_cargo(toolchain, "clippy");
    clippy.args(["--", "-D", "warnings"]);
    clippy
}

/// Unit, property and conformance tests: what needs neither root nor BPF.
fn host_tests() -> Command {
    let mut tests = build::cargo("test");
    tests.args([
        "--workspace",
        "--exclude",
        "tests",
        "--no-fail-fast",
        "--",
        "--show-output",
    ]);
    tests.env("INSTA_UPDATE", "no"); // a changed snapshot is a failure, never a new file
    tests
}

fn say_conformance() {
    for name in ["CONFORMANCE_DIR", "CONFORMANCE_VALIDATION"] {
        match env::var(name) {
            Ok(dir) => println!("{name}: {dir}"),
            Err(_) => println!("{name} is not set: the project's own cases only"),
        }
    }
}

impl Account {
    fn step(&mut self, title: &str, mut command: Command) -> Result<()> {
        let done = step::run(title, &mut command, build::LIMIT)?;
        self.add(title, &done);
        Ok(())
    }

    /// A kernel that cannot be had is a failure of this step, not the end of the account.
    fn virtual_machine(&mut self, kernel: vm::Kernel) {
        self.attempt(vm::title(kernel), || {
            vm::test_on(kernel, &vm::static_tests()?, vm::Extent::Smoke, &[])
        });
    }

    /// A step whose preparation may fail, too.
    fn attempt(&mut self, title: &str, work: impl FnOnce() -> Result<Done>) {
        let start = Instant::now();
        match work() {
            Ok(done) => self.add(title, &done),
            Err(error) => {
                let counts = Counts {
                    failed: 1,
                    ..Counts::default()
                };
                step::report("FAILED", title, start.elapsed(), &format!("{error:#}"));
                self.rows.push(Row {
                    title: title.into(),
                    failed: true,
                    time: start.elapsed(),
                    counts,
                });
            }
        }
    }

    fn add(&mut self, title: &str, done: &Done) {
        let counts = Counts::of(&done.output, done.success);
        let failed = !done.success || (is_ci() && counts.skipped > 0);
        // `exit status: 0` says nothing to anybody.
        let note = if done.how.starts_with("exit status: 0") {
            ""
        } else {
            &done.how
        };
        step::report(if failed { "FAILED" } else { "ok" }, title, done.time, note);
        print!("{}", vm::verified(&done.output));
        if failed {
            print!("{}", counts::failing_part(&done.output));
            println!("  (all of it: {})", done.log.display());
        }
        self.rows.push(Row {
            title: title.into(),
            failed,
            time: done.time,
            counts,
        });
    }

    fn close(&self, time: Duration) -> Result<()> {
        println!(
            "\n{:<32} {:>8} {:>8} {:>8} {:>9}",
            "step", "passed", "failed", "skipped", "seconds"
        );
        for row in &self.rows {
            let Counts {
                passed,
                failed,
                skipped,
            } = row.counts;
            let seconds = row.time.as_secs_f64();
            let mark = if row.failed { "  <--" } else { "" };
            println!(
                "{:<32} {passed:>8} {failed:>8} {skipped:>8} {seconds:>9.1}{mark}",
                row.title
            );
        }
        let all = self
            .rows
            .iter()
            .fold(Counts::default(), |all, row| all.and(row.counts));
        let failed = all.failed + if is_ci() { all.skipped } else { 0 };
        println!(
            "{:<32} {:>8} {:>8} {:>8} {:>9.1}",
            "all",
            all.passed,
            failed,
            all.skipped,
            time.as_secs_f64()
        );
        if all.skipped > 0 {
            let meaning = if is_ci() {
                ": under CI=true each is a failure"
            } else {
                ""
            };
            println!("{} skipped{meaning}", all.skipped);
        }
        println!("\n{} passed, {failed} failed", all.passed);
        if failed > 0 || self.rows.iter().any(|row| row.failed) {
            bail!("the tests failed");
        }
        Ok(())
    }
}

/// CI promises a machine on which everything can run.
fn is_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true")
}
