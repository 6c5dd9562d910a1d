//! Where the agent runs: its file systems, its namespaces, the node's settings.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::{Finding, missing, note, ok, read};
use crate::{netns::has_ipv6, pins::is_bpffs};

/// Number of the first namespace of processes, and of users: `PROC_PID_INIT_INO` and
/// `PROC_USER_INIT_INO` of the kernel.
const FIRST_PIDS: u64 = 0xeffffffc;
const FIRST_USERS: u64 = 0xeffffffd;

pub(super) fn examine(bpffs: &Path) -> Vec<Finding> {
    let mut findings = vec![bpf_file_system(bpffs), users(), processes(), names()];
    findings.push(forwarding("IPv4", "/proc/sys/net/ipv4/ip_forward"));
    findings.push(match has_ipv6() {
        true => forwarding("IPv6", "/proc/sys/net/ipv6/conf/all/forwarding"),
        false => ok("IPv6", "off (ipv6.disable=1): pods speak IPv4 only"),
    });
    findings.push(bridge());
    findings.push(reverse_path());
    findings
}

fn bpf_file_system(path: &Path) -> Finding {
    let found = path.display().to_string();
    if is_bpffs(path) {
        ok("BPF file system", found)
    } else {
        missing(
            "BPF file system",
            format!("`{found}` is not one"),
            "run `mount -t bpf bpf /sys/fs/bpf`, or name one with --bpffs; in a container, mount the \
             node's own: programs and maps must outlive the container",
        )
    }
}

/// The kernel asks for capabilities of the first user namespace, whoever is root in another.
fn users() -> Finding {
    const WHAT: &str = "user namespace";
    match namespace("user") {
        Some(FIRST_USERS) => ok(WHAT, "the machine's own"),
        Some(_) => missing(
            WHAT,
            "one of its own (a rootless or user-namespaced container): BPF refuses it",
            "run the agent without: hostUsers: true, no rootless runtime",
        ),
        None => note(WHAT, "not known: /proc is not mounted", "mount /proc"),
    }
}

/// Pods are found through the processes in them, where their namespaces have no name.
fn processes() -> Finding {
    const WHAT: &str = "process namespace";
    match namespace("pid") {
        Some(FIRST_PIDS) => ok(WHAT, "the machine's own"),
        Some(_) => note(
            WHAT,
            "one of its own: pods are found by /run/netns and annotations only",
            "set hostPID: true; a node that is itself a container (kind, k3d) is fine as it is",
        ),
        None => note(WHAT, "not known: /proc is not mounted", "mount /proc"),
    }
}

fn names() -> Finding {
    const WHAT: &str = "named namespaces";
    match fs::read_dir("/run/netns").map(Iterator::count) {
        Ok(count) => ok(WHAT, format!("/run/netns has {count}")),
        Err(_) => note(
            WHAT,
            "no /run/netns",
            "in a container, mount the node's /run/netns with mountPropagation: Bidirectional, or \
             use hostPID: CNIs name pods' namespaces there",
        ),
    }
}

fn namespace(kind: &str) -> Option<u64> {
    Some(fs::metadata(format!("/proc/self/ns/{kind}")).ok()?.ino())
}

fn forwarding(protocol: &str, path: &str) -> Finding {
    let what = format!("{protocol} forwarding");
    match read(path).as_str() {
        "0" | "" => note(
            &what,
            "off",
            "a node whose CNI routes between pods turns it on; L7 rules need it",
        ),
        _ => ok(&what, "on"),
    }
}

fn bridge() -> Finding {
    match read("/proc/sys/net/bridge/bridge-nf-call-iptables").as_str() {
        "" | "0" => ok("bridged frames", "switched past netfilter"),
        _ => ok("bridged frames", "pass netfilter"),
    }
}

/// What comes in by an uplink under a local pod's address is refused by the programs in any case.
fn reverse_path() -> Finding {
    match read("/proc/sys/net/ipv4/conf/all/rp_filter").as_str() {
        "1" => ok(
            "reverse path filter",
            "strict: forged remote sources are fewer",
        ),
        _ => ok(
            "reverse path filter",
            "not strict for all: what others forge is up to the network",
        ),
    }
}
