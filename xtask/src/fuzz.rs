//! `cargo xtask fuzz`: looks, guided by coverage and for a bounded time, for manifests and bundles
//! that the compiler cannot cope with, and for bytes of a client that come through the proxy unjudged.
//! What is found becomes a file beside them, which the ordinary tests run ever after.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    build, paths,
    step::{self, Done},
};

/// The instrumentation that libFuzzer wants. Stable rustc can give it by LLVM's own options.
const INSTRUMENTED: &str = "--cfg fuzzing -C passes=sancov-module \
    -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares \
    -C codegen-units=1 -C debug-assertions=on -C overflow-checks=on";

/// One input must end within this time.
const INPUT_SECONDS: u32 = 10;
/// Cases whose bundles are seeds.
const BUNDLE_SEEDS: usize = 40;

/// What is fuzzed.
pub const TARGETS: [&str; 3] = ["manifests", "bundle", "proxy"];

/// `cargo xtask fuzz`.
///
/// # Errors
/// When something does not build, or an input was found.
pub fn run(seconds: u32) -> Result<()> {
    crate::setup::ready()?;
    let mut policyc = build::cargo("build");
    policyc.args(["--package", "policyc"]);
    step::must("build policyc", &mut policyc, build::LIMIT)?;
    step::must("build the fuzz targets", &mut build_targets(), build::LIMIT)?;
    for target in TARGETS {
        let done = hunt(target, seconds)?;
        let title = title(target);
        step::report(
            if done.success { "ok" } else { "FAILED" },
            &title,
            done.time,
            &done.how,
        );
        ensure!(
            done.success,
            "an input was found: it is below {}; make it a file in {}\n{}",
            work(target).display(),
            found(target).display(),
            step::tail(&done.output)
        );
    }
    Ok(())
}

/// Builds the targets.
pub fn build_targets() -> Command {
    let mut build = build::cargo("build");
    build
        .args(["--release", "--package", "policyc", "--package", "enforcer"])
        .args(["--features", "policyc/fuzz,enforcer/fuzz"])
        .args(TARGETS.map(|target| format!("--bin=fuzz-{target}")))
        // Named, so that build scripts and procedural macros are not instrumented.
        .args(["--target", paths::STATIC_TARGET, "--target-dir"])
        .arg(paths::target().join("fuzz"))
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            INSTRUMENTED,
        )
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    build
}

/// What a run of a target is called.
pub fn title(target: &str) -> String {
    format!("fuzz {target}")
}

/// Looks for inputs for some seconds. `Done::success` says that none was found.
///
/// # Errors
/// When the seeds cannot be gathered or the target cannot be started.
pub fn hunt(target: &str, seconds: u32) -> Result<Done> {
    let work = work(target);
    let (corpus, seeds) = (work.join("corpus"), work.join("seeds"));
    for folder in [&corpus, &seeds] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    gather(target, &seeds)?;
    let fuzzer = paths::target()
        .join("fuzz")
        .join(paths::STATIC_TARGET)
        .join("release")
        .join(format!("fuzz-{target}"));
    let mut fuzz = Command::new(fuzzer);
    fuzz.arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .args([
            "-rss_limit_mb=2048",
            "-max_len=16384",
            "-print_final_stats=1",
        ])
        .arg(format!("-artifact_prefix={}/", work.display()));
    if target != "bundle" {
        let words = fuzz_folder(target).join(format!("{target}.dict"));
        fuzz.arg(format!("-dict={}", words.display()));
    }
    fuzz.arg(corpus).arg(seeds);
    let limit = Duration::from_secs(u64::from(seconds) + 120);
    let mut done = step::run(&title(target), &mut fuzz, limit)?;
    if done.success {
        done.how = runs(&done.output);
    }
    Ok(done)
}

/// `12345 inputs tried`, from the fuzzer's closing words.
fn runs(output: &str) -> String {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    format!("{} inputs tried", line.unwrap_or("no").trim())
}

fn policyc() -> PathBuf {
    paths::root().join("policyc")
}

/// Of the target's crate.
fn fuzz_folder(target: &str) -> PathBuf {
    let package = if target == "proxy" {
        "enforcer"
    } else {
        "policyc"
    };
    paths::root().join(package).join("fuzz")
}

/// Where the inputs are that were found. For the proxy one is a seed like another.
fn found(target: &str) -> PathBuf {
    match target {
        "proxy" => fuzz_folder(target).join("seeds"),
        _ => fuzz_folder(target).join("found").join(target),
    }
}

fn work(target: &str) -> PathBuf {
    paths::target().join("fuzz/work").join(target)
}

/// What the fuzzer begins with: the manifests of the tests, and the bundles that they compile to; for
/// the proxy, requests.
fn gather(target: &str, seeds: &Path) -> Result<()> {
    if target == "proxy" {
        return copy_requests(seeds);
    }
    if target == "manifests" {
        let mut number = 0;
        for folder in ["tests/validation", "tests/corpus", "fuzz/found/manifests"] {
            copy_manifests(&policyc().join(folder), seeds, &mut number)?;
        }
        return Ok(());
    }
    let compiler = paths::target().join("debug/policyc");
    let mut cases: Vec<PathBuf> = fs::read_dir(policyc().join("tests/corpus"))
        .context("the corpus")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    cases.sort();
    for (number, case) in cases.iter().take(BUNDLE_SEEDS).enumerate() {
        let mut compile = Command::new(&compiler);
        compile.arg("compile");
        for (option, file) in [
            ("-f", "policies.yaml"),
            ("-f", "cluster.yaml"),
            ("--mesh", "mesh.yaml"),
        ] {
            let file = case.join(file);
            if file.exists() {
                compile.arg(option).arg(file);
            }
        }
        compile.arg("-o").arg(seeds.join(format!("{number}.bin")));
        let output = compile
            .output()
            .with_context(|| format!("cannot run {}", compiler.display()))?;
        ensure!(
            output.status.success(),
            "{} does not compile",
            case.display()
        );
    }
    Ok(())
}

fn copy_requests(seeds: &Path) -> Result<()> {
    let folder = found("proxy");
    let list = || format!("cannot list {}", folder.display());
    for entry in fs::read_dir(&folder).with_context(list)? {
        let entry = entry.with_context(list)?;
        fs::copy(entry.path(), seeds.join(entry.file_name()))?;
    }
    Ok(())
}

fn copy_manifests(folder: &Path, seeds: &Path, number: &mut usize) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()));
    let mut paths: Vec<PathBuf> = entries?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            copy_manifests(&path, seeds, number)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            fs::copy(&path, seeds.join(format!("{number}.yaml")))?;
            *number += 1;
        }
    }
    Ok(())
}
