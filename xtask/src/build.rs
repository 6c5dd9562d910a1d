//! The BPF object, the release binaries, and the static binaries that run in a virtual machine.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    paths, setup,
    setup::Toolchain,
    step::{self, Done},
};

/// From an empty target folder on a slow machine.
pub const LIMIT: Duration = Duration::from_secs(2400);

/// `cargo xtask build`.
///
/// # Errors
/// When a tool is missing or something does not compile.
pub fn run() -> Result<()> {
    let toolchain = setup::ready()?;
    bpf(&toolchain)?;
    let mut build = cargo("build");
    build.args(["--release", "--package", "policyc", "--package", "enforcer"]);
    step::must("build policyc and enforcer", &mut build, LIMIT)?;
    for name in ["policyc", "enforcer"] {
        println!("  {}", shown(&paths::target().join("release").join(name)));
    }
    Ok(())
}

/// Builds the BPF object.
///
/// # Errors
/// When it does not compile or is not where the agent's build looks for it.
pub fn bpf(toolchain: &Toolchain) -> Result<()> {
    step::must(
        "build the BPF object",
        &mut bpf_cargo(toolchain, "build"),
        LIMIT,
    )?;
    let object = paths::bpf_object();
    ensure!(object.exists(), "no BPF object at {}", object.display());
    Ok(())
}

/// `cargo build` or `cargo clippy` for the BPF programs.
pub fn bpf_cargo(toolchain: &Toolchain, command: &str) -> Command {
    let mut cargo = toolchain.cargo(command);
    if let Some(bin) = paths::cargo_bin() {
        // bpf-linker is called by its name.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::env::split_paths(&path).chain([bin]);
        if let Ok(path) = std::env::join_paths(dirs) {
            cargo.env("PATH", path);
        }
    }
    cargo
        .args([
            "--profile=bpf",
            "--package",
            "enforcer-ebpf",
            "--bin",
            "enforcer-ebpf",
        ])
        .args(["--features", "bpf", "--target", "bpfel-unknown-none"])
        .arg("--target-dir")
        .arg(paths::target().join("bpf"));
    cargo
}

/// The stable toolchain's cargo, for the host.
pub fn cargo(command: &str) -> Command {
    // Set by the cargo that runs this program.
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo.arg(command);
    cargo
}

/// The same for static binaries, which run in a virtual machine without any library. The target
/// is named, so that procedural macros and build scripts are not static.
pub fn static_cargo(command: &str) -> Command {
    let mut cargo = cargo(command);
    cargo
        .args(["--target", paths::STATIC_TARGET, "--target-dir"])
        .arg(paths::target().join("static"))
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-C target-feature=+crt-static",
        );
    cargo
}

/// The programs that a static `cargo build` or `cargo test --no-run` of these arguments makes, but
/// not the unit tests of a `bin`: name of the target and the file.
///
/// # Errors
/// When it does not compile.
pub fn static_programs(title: &str, arguments: &[&str]) -> Result<(Done, Vec<(String, PathBuf)>)> {
    let (command, rest) = arguments.split_first().context("a cargo command")?;
    let mut build = static_cargo(command);
    build
        .args(rest)
        .arg("--message-format=json-render-diagnostics");
    let mut done = step::run(title, &mut build, LIMIT)?;
    let mut programs = Vec::new();
    let output = std::mem::take(&mut done.output);
    for line in output.lines() {
        if !line.starts_with('{') {
            // What is left is for people.
            done.output += line;
            done.output.push('\n');
            continue;
        }
        let message: serde_json::Value =
            serde_json::from_str(line).context("cargo writes a JSON object a line")?;
        // `cargo test` makes a program of each `bin` twice: itself, and its unit tests.
        let unit_tests =
            message["target"]["kind"][0] == "bin" && message["profile"]["test"] == true;
        if unit_tests {
            continue;
        }
        if let (Some(name), Some(file)) = (
            message["target"]["name"].as_str(),
            message["executable"].as_str(),
        ) {
            programs.push((name.to_owned(), PathBuf::from(file)));
        }
    }
    Ok((done, programs))
}

/// A path as one would type it from the repository's root.
fn shown(path: &Path) -> String {
    path.strip_prefix(paths::root())
        .unwrap_or(path)
        .display()
        .to_string()
}
