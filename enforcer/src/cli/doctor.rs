//! `enforcer doctor`: can this node enforce, and if not, what would mend it.

use std::{path::Path, process::ExitCode};

use clap::Args;
use serde::Serialize;

use super::{Failure, Format, PlaceArgs};
use crate::{attach::Attach, object, pins::is_bpffs, rights};

/// Say what this node lacks, and how to mend it
///
/// Exit status 1 when something is missing that enforcement needs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  enforcer doctor\n  enforcer doctor --format json")]
pub struct Doctor {
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    #[command(flatten)]
    place: PlaceArgs,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    found: String,
    /// How to mend it; empty when there is nothing to mend.
    fix: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// It works, and could work better.
    Note,
    /// Enforcement does not work without it.
    Missing,
}

impl Doctor {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let findings = examine(&self.place.bpffs);
        match self.format {
            Format::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
            Format::Human => {
                for finding in &findings {
                    let mark = match finding.state {
                        State::Ok => "ok     ",
                        State::Note => "note   ",
                        State::Missing => "MISSING",
                    };
                    println!("{mark}  {:24} {}", finding.what, finding.found);
                    if !finding.fix.is_empty() {
                        println!("         {:24} -> {}", "", finding.fix);
                    }
                }
            }
        }
        let missing = findings.iter().any(|f| f.state == State::Missing);
        Ok(ExitCode::from(u8::from(missing)))
    }
}

fn examine(bpffs: &Path) -> Vec<Finding> {
    let mut findings = vec![programs(), kernel(), btf(), bpf_file_system(bpffs), hook()];
    findings.extend(capabilities());
    findings.push(forwarding(
        "IPv4 forwarding",
        "/proc/sys/net/ipv4/ip_forward",
    ));
    findings.push(forwarding(
        "IPv6 forwarding",
        "/proc/sys/net/ipv6/conf/all/forwarding",
    ));
    findings.push(jit());
    findings.push(bridge());
    findings
}

fn programs() -> Finding {
    if object::is_built() {
        ok("BPF programs", "part of this binary".into())
    } else {
        missing(
            "BPF programs",
            "not part of this binary".into(),
            "run `cargo xtask build`",
        )
    }
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .flat_map(str::parse);
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 1) {
        ok("kernel", release)
    } else {
        missing("kernel", release, "run Linux 6.1 or later")
    }
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        ok("kernel types (BTF)", "/sys/kernel/btf/vmlinux".into())
    } else {
        missing(
            "kernel types (BTF)",
            "no /sys/kernel/btf/vmlinux".into(),
            "run a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        )
    }
}

fn bpf_file_system(path: &Path) -> Finding {
    let found = path.display().to_string();
    if is_bpffs(path) {
        ok("BPF file system", found)
    } else {
        missing(
            "BPF file system",
            format!("`{found}` is not one"),
            "run `mount -t bpf bpf /sys/fs/bpf`, or name one with --bpffs",
        )
    }
}

fn hook() -> Finding {
    match Attach::best() {
        Attach::Tcx => ok("hook", "TCX".into()),
        Attach::Clsact => note(
            "hook",
            "clsact: this kernel has no TCX".into(),
            "Linux 6.6 and later replace programs without touching queueing disciplines",
        ),
    }
}

fn capabilities() -> impl Iterator<Item = Finding> {
    let effective = rights::effective();
    rights::CAPABILITIES.iter().map(move |capability| Finding {
        what: capability.name,
        state: match (capability.is_in(effective), capability.needed) {
            (true, _) => State::Ok,
            (false, true) => State::Missing,
            (false, false) => State::Note,
        },
        found: match capability.is_in(effective) {
            true => format!("granted: {}", capability.serves),
            false => format!("not granted: {}", capability.serves),
        },
        fix: match capability.is_in(effective) {
            true => "",
            false => "run it as root, or grant it",
        },
    })
}

fn forwarding(what: &'static str, path: &str) -> Finding {
    match read(path).as_str() {
        "" => note(what, "this kernel has no such protocol".into(), ""),
        "0" => note(
            what,
            "off".into(),
            "a node whose CNI routes between pods turns it on; L7 rules need it",
        ),
        _ => ok(what, "on".into()),
    }
}

fn jit() -> Finding {
    match read("/proc/sys/net/core/bpf_jit_enable").as_str() {
        "0" => note(
            "BPF compiler (JIT)",
            "off".into(),
            "run `sysctl net.core.bpf_jit_enable=1`: interpreted programs are many times slower",
        ),
        _ => ok("BPF compiler (JIT)", "on".into()),
    }
}

fn bridge() -> Finding {
    match read("/proc/sys/net/bridge/bridge-nf-call-iptables").as_str() {
        "" | "0" => ok("bridged frames", "switched past netfilter".into()),
        _ => ok("bridged frames", "pass netfilter".into()),
    }
}

fn read(path: &str) -> String {
    // What cannot be read is not there, which each caller has a word for.
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn ok(what: &'static str, found: String) -> Finding {
    Finding {
        what,
        state: State::Ok,
        found,
        fix: "",
    }
}

fn note(what: &'static str, found: String, fix: &'static str) -> Finding {
    Finding {
        what,
        state: State::Note,
        found,
        fix,
    }
}

fn missing(what: &'static str, found: String, fix: &'static str) -> Finding {
    Finding {
        what,
        state: State::Missing,
        found,
        fix,
    }
}
