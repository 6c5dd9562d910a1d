//! Installs what is needed and not there. Every need is probed at the real thing, a file or a
//! program's own version, so that nothing is believed from an earlier run.

pub mod envoy;
mod kube;
mod needs;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{paths, step};
use needs::{BPF_LINKER, KUBE_INSTALL, Need};

/// Downloads and builds take this long at most, on a slow line.
const LIMIT: Duration = Duration::from_secs(1800);

/// `cargo xtask setup`: says what it finds.
///
/// # Errors
/// What is missing, when it cannot be installed here.
pub fn run(kube: bool) -> Result<()> {
    let toolchain = ready_with_browser()?;
    if kube {
        have_kube()?;
        println!("ready: a real API server");
    }
    println!("ready: {}", toolchain.name());
    Ok(())
}

/// What builds the BPF object.
pub enum Toolchain {
    /// Debian's own rustc and cargo, with a compiled core for BPF.
    Debian,
    /// rustup's nightly with the sources of core.
    Nightly,
}

impl Toolchain {
    fn name(&self) -> &'static str {
        match self {
            Self::Debian => "the BPF object is built by Debian's rustc-web",
            Self::Nightly => "the BPF object is built by rustup's nightly toolchain",
        }
    }

    /// `cargo` of that toolchain, with the given command, for the BPF target.
    pub fn cargo(&self, command: &str) -> Command {
        match self {
            Self::Debian => {
                // cargo looks for its subcommands in rustup's folder first.
                let mut cargo = Command::new(match command {
                    "clippy" => needs::DEBIAN_CLIPPY,
                    _ => needs::DEBIAN_CARGO,
                });
                // rustup's variables would lead this cargo back to the stable toolchain.
                cargo
                    .env("CARGO", needs::DEBIAN_CARGO)
                    .env("RUSTC", needs::DEBIAN_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env_remove("RUSTUP_TOOLCHAIN")
                    .arg(command);
                cargo
            }
            Self::Nightly => {
                let mut cargo = Command::new("rustup");
                cargo.env_remove("RUSTC").env_remove("CARGO");
                cargo.args(["run", "nightly", "cargo", command, "-Z", "build-std=core"]);
                cargo
            }
        }
    }
}

/// Installs what is missing, if anything is, and says which toolchain there is. Silent and quick
/// when nothing is to do.
///
/// # Errors
/// What is missing, when it cannot be installed here.
pub fn ready() -> Result<Toolchain> {
    have(needs::missing)
}

/// As [`ready`], with the filters that a bench compares ours with.
///
/// # Errors
/// What is missing, when it cannot be installed here.
pub fn ready_for_peers() -> Result<Toolchain> {
    have(needs::missing_for_peers)
}

/// As [`ready`], with what checks an image.
///
/// # Errors
/// What is missing, when it cannot be installed here.
pub fn ready_for_dist() -> Result<Toolchain> {
    have(needs::missing_for_dist)
}

fn have(missing_now: fn() -> Vec<&'static Need>) -> Result<Toolchain> {
    let missing = missing_now();
    if missing.is_empty() {
        return Ok(needs::toolchain());
    }
    if !can_install() {
        bail!("{}", advice(&missing));
    }
    install(&missing)?;
    let still = missing_now();
    if still.is_empty() {
        return Ok(needs::toolchain());
    }
    bail!("installed, but not found afterwards\n{}", advice(&still))
}

/// As [`ready`], with a browser, an API server, the clients that the proxy is tested with, and Envoy.
/// Where these cannot be installed their tests say that they are skipped.
///
/// # Errors
/// What else is missing, when it cannot be installed here.
pub fn ready_for_tests() -> Result<Toolchain> {
    let toolchain = ready_with_browser()?;
    if let Err(error) = have_kube() {
        println!("no API server, and its tests are skipped: {error:#}");
    }
    Ok(toolchain)
}

fn ready_with_browser() -> Result<Toolchain> {
    let toolchain = ready()?;
    let missing = needs::missing_for_tests();
    if !missing.is_empty() && can_install() {
        install(&missing)?;
    }
    for need in needs::missing_for_tests() {
        println!(
            "not there, and its tests are skipped: {}, {}",
            need.what, need.why
        );
    }
    if let Err(error) = python(&clients(), &CLIENTS) {
        println!("not there, and their tests are skipped: clients in Python: {error:#}");
    }
    if let Err(error) = envoy::provide() {
        println!("not there, and its test is skipped: Envoy: {error:#}");
    }
    Ok(toolchain)
}

/// Clients and servers of the proxy's tests, as they are published for Python.
const CLIENTS: [&str; 2] = ["grpcio==1.85.3", "websockets==17.4"];

/// Where the tests look for them.
fn clients() -> PathBuf {
    paths::target().join("clients")
}

/// A Python environment below `target` with exactly these packages.
/// Nothing is done where it is there.
///
/// # Errors
/// When it cannot be made, or a package cannot be had.
pub fn python(folder: &Path, packages: &[&str]) -> Result<()> {
    if has_python(folder, packages) {
        return Ok(());
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(folder);
    step::must(
        "make a Python environment (Debian's package is python3-venv)",
        &mut make,
        LIMIT,
    )?;
    let mut install = Command::new(folder.join("bin/pip"));
    install
        .args(["install", "--quiet", "--only-binary", ":all:"])
        .args(packages);
    step::must("install Python's packages", &mut install, LIMIT)?;
    let list = list_in(folder);
    fs::write(&list, packages.join("\n"))
        .with_context(|| format!("cannot write {}", list.display()))
}

/// Whether such an environment is there, whole.
fn has_python(folder: &Path, packages: &[&str]) -> bool {
    fs::read_to_string(list_in(folder)).is_ok_and(|found| found == packages.join("\n"))
}

/// The list of its packages is written last: an environment that was not finished has none.
fn list_in(folder: &Path) -> PathBuf {
    folder.join("packages")
}

/// Installs what tests with a real API server need, where anything of it is missing.
fn have_kube() -> Result<()> {
    let missing = needs::missing_for_kube();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(can_install(), "{}", advice(&missing));
    install(&missing)?;
    let still = needs::missing_for_kube();
    ensure!(
        still.is_empty(),
        "installed, but not found afterwards\n{}",
        advice(&still)
    );
    Ok(())
}

fn can_install() -> bool {
    rustix::process::geteuid().is_root() && paths::program("apt-get").is_some()
}

fn install(missing: &[&Need]) -> Result<()> {
    let packages: Vec<&str> = missing.iter().filter_map(|need| need.package).collect();
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    for need in missing.iter().filter(|need| need.package.is_none()) {
        if need.install == KUBE_INSTALL {
            kube::provide(need.what)?;
            continue;
        }
        let title = format!("install {}", need.what);
        let mut words = need.install.split(' ');
        let program = words.next().context("every need can be installed")?;
        let mut command = Command::new(program);
        command.args(words);
        if need.what == BPF_LINKER {
            command.env("LLVM_PREFIX", needs::LLVM_PREFIX);
        }
        step::must(&title, &mut command, LIMIT)?;
    }
    Ok(())
}

/// The lists of packages may be absent or too old: then what is asked for is unknown or gone, and
/// one update mends it.
fn install_packages(packages: &[&str]) -> Result<()> {
    let title = match packages {
        [one] => format!("apt-get install {one}"),
        many => format!("apt-get install ({} packages)", many.len()),
    };
    let mut install = apt_get("install");
    install
        .args(["--yes", "--no-install-recommends"])
        .args(packages);
    if lists_are_there() {
        let done = step::run(&title, &mut install, LIMIT)?;
        if done.success {
            step::report("ok", &title, done.time, "");
            return Ok(());
        }
    }
    step::must("apt-get update", &mut apt_get("update"), LIMIT)?;
    let mut install = apt_get("install");
    install
        .args(["--yes", "--no-install-recommends"])
        .args(packages);
    step::must(&title, &mut install, LIMIT).map(drop)
}

fn apt_get(command: &str) -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-o", "DPkg::Lock::Timeout=300", command]);
    apt
}

fn lists_are_there() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

/// What a person must do where this program cannot.
fn advice(missing: &[&Need]) -> String {
    let mut text = String::from("this machine lacks what the project needs:\n");
    for need in missing {
        text += &format!("  - {}, {}\n", need.what, need.why);
    }
    let packages: Vec<&str> = missing.iter().filter_map(|need| need.package).collect();
    text += "To mend it";
    if Path::new("/etc/debian_version").exists() {
        text += ", run `cargo xtask setup` as root, or by hand:\n";
        if !packages.is_empty() {
            text += &format!(
                "  apt-get update && apt-get install --no-install-recommends {}\n",
                packages.join(" ")
            );
        }
    } else {
        text += " (only Debian is set up by itself):\n";
        if !packages.is_empty() {
            text += &format!(
                "  install the programs above; Debian's packages are {}\n",
                packages.join(" ")
            );
            text += "  for the BPF compiler, instead of Debian's packages:\n    \
                     rustup toolchain install nightly --component rust-src\n    \
                     cargo install bpf-linker --version 0.13.0\n";
        }
    }
    for need in missing.iter().filter(|need| need.package.is_none()) {
        let variable = if need.what == BPF_LINKER && Path::new(needs::LLVM_PREFIX).exists() {
            format!("LLVM_PREFIX={} ", needs::LLVM_PREFIX)
        } else {
            String::new()
        };
        text += &format!("  {variable}{}\n", need.install);
    }
    text.trim_end().into()
}

/// First line of what a program prints about itself; `None` where it does not run.
fn says(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
