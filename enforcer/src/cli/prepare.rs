//! `enforcer prepare`: what takes mounts and a writable `/proc/sys`, done once, so that the agent that
//! runs afterwards needs neither.

use std::{fs, path::Path, process::ExitCode};

use clap::Args;
use rustix::mount::{MountFlags, mount};

use super::{Failure, PlaceArgs};
use crate::{pins::is_bpffs, proxy_netns, rights};

/// Make what a later `enforcer run` finds: the BPF file system and the proxy's namespace
///
/// Both are mounts, and the namespace has settings of its own. After this, `run` needs its
/// capabilities alone: no mount of its own, and a `/proc/sys` that can only be read. In a cluster it
/// is the privileged init container of an agent that is not. What is there already stays as it is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  enforcer prepare\n  enforcer prepare --netns enforcer")]
pub struct Prepare {
    #[command(flatten)]
    place: PlaceArgs,
}

impl Prepare {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        rights::check()?;
        let mounted = ensure_bpffs(&self.place.bpffs)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let made = runtime.block_on(proxy_netns::prepare(&self.place.netns))?;
        println!(
            "BPF file system {}: {}; namespace {}: {}",
            self.place.bpffs.display(),
            word(mounted),
            self.place.netns,
            word(made)
        );
        Ok(ExitCode::SUCCESS)
    }
}

fn word(made: bool) -> &'static str {
    match made {
        true => "made",
        false => "was there",
    }
}

/// Whether it had to be mounted.
fn ensure_bpffs(path: &Path) -> Result<bool, Failure> {
    if is_bpffs(path) {
        return Ok(false);
    }
    let shown = path.display();
    fs::create_dir_all(path)
        .map_err(|error| format!("cannot make directory `{shown}`: {error}"))?;
    mount("bpf", path, "bpf", MountFlags::empty(), None)
        .map_err(|error| format!("cannot mount a BPF file system on `{shown}`: {error}"))?;
    Ok(true)
}
