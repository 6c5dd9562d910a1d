//! `enforcer support-bundle`: what somebody who is to help needs to know, in one file.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::Args;
use flate2::{Compression, write::GzEncoder};
use serde_json::json;

use super::{Failure, PlaceArgs, SocketArgs, socket::Client};
use crate::{
    control::{Answer, Request},
    object,
};

/// What the archive says of itself.
const ABOUT: &str = "\
What this archive holds:
  versions.json   of the agent, of the kernel contract, of the kernel
  status.json     what `enforcer status --format json` says: the options that the agent was started
                  with, the bundle's number and hash, pods, counters, hits by policy and rule, pauses
  doctor.json     what `enforcer doctor --format json` says
  pins.json       names of pinned maps and links
  node.json       settings of the kernel that matter
  errors.txt      what could not be found out

What it does not hold, on purpose: bundles and policies, manifests, addresses that policies name, keys
and key sets, tokens, headers and paths of requests, verdicts, logs, environment variables, reasons of
pauses. Names of pods, policies and interfaces are in it.
";

/// Settings of the kernel that verdicts depend on.
const SETTINGS: [&str; 8] = [
    "kernel/osrelease",
    "kernel/version",
    "kernel/unprivileged_bpf_disabled",
    "net/core/bpf_jit_enable",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
];

/// Write what somebody who is to help needs to know into one file
///
/// Status, counters, options, versions and what `doctor` says, as a tar.gz that only you can read. No
/// keys, tokens, policies or requests: the file README in it says what is left out. Works without an
/// agent, too.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  enforcer support-bundle\n  enforcer support-bundle -o /tmp/support.tar.gz"
)]
pub struct SupportBundle {
    /// The file to write; it must not be there
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "enforcer-support.tar.gz"
    )]
    output: PathBuf,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    socket: SocketArgs,
}

/// The files of the archive so far, and what was not found out.
struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    errors: Vec<String>,
}

impl SupportBundle {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.output)
            .map_err(|error| format!("cannot make `{}`: {error}", self.output.display()))?;
        let mut archive = Archive {
            tar: tar::Builder::new(GzEncoder::new(file, Compression::default())),
            errors: Vec::new(),
        };
        let written = self.fill(&mut archive);
        let finished = written.and_then(|()| archive.finish());
        if let Err(error) = finished {
            // Half of it helps nobody.
            let _gone = fs::remove_file(&self.output);
            return Err(error);
        }
        println!("{}", self.output.display());
        Ok(ExitCode::SUCCESS)
    }

    fn fill(&self, archive: &mut Archive) -> Result<(), Failure> {
        archive.add("README", ABOUT.as_bytes())?;
        let versions = json!({
            "enforcer": env!("CARGO_PKG_VERSION"),
            "abi": enforcer_ebpf::words::ABI,
            "programs": object::is_built(),
            "kernel": setting("kernel/osrelease"),
            "architecture": std::env::consts::ARCH,
        });
        archive.json("versions.json", &versions)?;
        let status = self.status();
        archive.found("status.json", status)?;
        let doctor = self.doctor();
        archive.found("doctor.json", doctor)?;
        archive.json("pins.json", &pins(&self.place.bpffs.join("enforcer")))?;
        let settings: serde_json::Map<_, _> = SETTINGS
            .iter()
            .map(|name| ((*name).to_owned(), json!(setting(name))))
            .collect();
        archive.json("node.json", &settings.into())
    }

    fn status(&self) -> Result<serde_json::Value, Failure> {
        let mut client = Client::connect(&self.socket.socket)?;
        let Answer::Status(mut status) = client.ask(&Request::Status {})? else {
            return Err(client.unexpected().into());
        };
        // Free text: nobody knows what is in it.
        for pause in &mut status.pauses {
            pause.reason = pause.reason.as_ref().map(|_| "(left out)".into());
        }
        Ok(serde_json::to_value(status)?)
    }

    /// As the command finds it: with all that it may come to look at.
    fn doctor(&self) -> Result<serde_json::Value, Failure> {
        let output = Command::new(std::env::current_exe()?)
            .args(["doctor", "--format", "json", "--bpffs"])
            .arg(&self.place.bpffs)
            .output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Archive {
    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(policyc::clock::clock()?);
        let path = Path::new("enforcer-support").join(name);
        Ok(self.tar.append_data(&mut header, path, bytes)?)
    }

    fn json(&mut self, name: &str, value: &serde_json::Value) -> Result<(), Failure> {
        self.add(name, serde_json::to_string_pretty(value)?.as_bytes())
    }

    /// What cannot be found out is worth knowing as well.
    fn found(
        &mut self,
        name: &str,
        found: Result<serde_json::Value, Failure>,
    ) -> Result<(), Failure> {
        match found {
            Ok(value) => self.json(name, &value),
            Err(error) => {
                self.errors
                    .push(format!("{name}: {}", crate::chain(&*error)));
                Ok(())
            }
        }
    }

    fn finish(mut self) -> Result<(), Failure> {
        let errors = self.errors.join("\n");
        self.add("errors.txt", errors.as_bytes())?;
        let mut file = self.tar.into_inner()?.finish()?;
        Ok(file.flush()?)
    }
}

/// Names below a directory of pins, by directory.
fn pins(family: &Path) -> serde_json::Value {
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let versions = names(family).into_iter().map(|version| {
        let of = |kind: &str| names(&family.join(&version).join(kind));
        (
            version.clone(),
            json!({ "maps": of("maps"), "links": of("links") }),
        )
    });
    serde_json::Value::Object(versions.collect())
}

fn setting(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(text.trim().to_owned())
}
