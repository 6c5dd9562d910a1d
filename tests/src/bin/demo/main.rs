//! `cargo xtask demo`'s program: plays the scenario of `policyc/examples/demo` on this machine, in
//! network namespaces of its own, and takes everything away again.
//!
//! Exit status: 0 all was as expected, 1 it was not, 3 this machine cannot run it, 130 interrupted.

mod account;
mod agent;
mod scenario;
mod walk;

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Signal, set_parent_process_death_signal},
};
use tests::netns::sweep;
use tokio::signal::unix::{SignalKind, signal};

use agent::Place;

/// Begins the names of all namespaces; the manifests name them so.
const PREFIX: &str = "enfdemo";
/// Everything of a run that has a path.
const STATE: &str = "/run/enfdemo";

/// The exit status where a virtual machine is needed.
const CANNOT: u8 = 3;
/// The exit status after Ctrl-C, as shells give it.
const INTERRUPTED: u8 = 130;

#[derive(Parser)]
struct Arguments {
    /// Folder of the manifests
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../policyc/examples/demo"))]
    examples: PathBuf,
    /// Folder of the programs; default: where this one is
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Only find out whether this machine can run it
    #[arg(long)]
    probe: bool,
    /// Play the scenario; without it, a process of its own is started for that
    #[arg(long, hide = true)]
    walk: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let state = Path::new(STATE);
    if arguments.walk {
        return walk(arguments, state);
    }
    let lock = match prepare(state) {
        Ok(lock) => lock,
        Err(error) => {
            eprintln!("cannot run here: {error:#}");
            return Ok(ExitCode::from(CANNOT));
        }
    };
    let result = if arguments.probe {
        Ok(ExitCode::SUCCESS)
    } else {
        supervised()
    };
    // Also after a crash or a signal, with whatever it left.
    let cleaned = clean(state);
    drop(lock);
    let code = result?;
    cleaned?;
    Ok(code)
}

fn walk(arguments: Arguments, state: &Path) -> Result<ExitCode> {
    // Who would clean up after it is gone then: the next run does, and must not meet this one.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let programs = match arguments.programs {
        Some(dir) => dir,
        None => std::env::current_exe()?
            .parent()
            .context("a program lies in a folder")?
            .into(),
    };
    let place = Place {
        programs,
        examples: arguments.examples,
        state: state.into(),
        bpffs: state.join("bpf"),
        proxy_netns: format!("{PREFIX}-proxy"),
    };
    let as_expected = walk::walk(&place, PREFIX)?;
    Ok(if as_expected {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Plays the scenario in a process of its own: however that ends, this one is left to clean up.
fn supervised() -> Result<ExitCode> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).arg("--walk");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut child = command.spawn().context("cannot start the walk")?;
        tokio::select! {
            status = child.wait() => {
                return Ok(if status?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        child.kill().await.context("cannot end the walk")?;
        eprintln!("\ninterrupted: everything is taken away");
        Ok(ExitCode::from(INTERRUPTED))
    })
}

/// Takes the lock, removes what an earlier run left, and mounts a BPF file system of this run's
/// own. Fails where the machine cannot run the demo.
fn prepare(state: &Path) -> Result<File> {
    ensure!(rustix::process::geteuid().is_root(), "root is needed");
    // A folder that is always there: a file of our own would be left behind.
    let lock = File::open("/run").context("there is no /run")?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("waiting for another demo on this machine to end");
            lock.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error).context("cannot lock"),
    }
    clean(state).context("an earlier run's leftovers")?;
    let bpffs = state.join("bpf");
    fs::create_dir_all(&bpffs)?;
    mount("bpf", &bpffs, "bpf", MountFlags::empty(), None)
        .context("this kernel mounts no BPF file system")?;
    let probe = tests::netns::Netns::create(&format!("{PREFIX}-probe"));
    probe.context("no network namespaces")?;
    Ok(lock)
}

/// Removes everything that a run makes, whether it is whole or not.
fn clean(state: &Path) -> Result<()> {
    sweep(&format!("{PREFIX}-"))?;
    let bpffs = state.join("bpf");
    match unmount(&bpffs, UnmountFlags::DETACH) {
        // Not mounted, or not there.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot unmount {}", bpffs.display()));
        }
    }
    match fs::remove_dir_all(state) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", state.display()))
        }
        _ => Ok(()),
    }
}
