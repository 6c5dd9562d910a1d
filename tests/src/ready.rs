//! Waiting for a condition with a deadline, and whether this machine can run a test at all.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(2);

/// Waits until `condition` holds. Returns `false` when it did not within `limit`.
#[must_use]
pub fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Whether a test that needs root may run. Where it may not, says so on a line of its own:
/// `skipped: reason`, which `cargo xtask test` counts, and takes for a failure under `CI=true`.
#[must_use]
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped("needs root, for network namespaces and BPF");
    }
    root
}

/// Set by `cargo xtask` in its virtual machines.
pub const GUEST: &str = "ENFORCER_GUEST";

/// Whether this kernel can make a network device of that kind. Where it cannot, the part of a test
/// that needs it is not run, and says so: a virtual machine's kernel has all that its age allows, so
/// that there it is run in any case.
///
/// # Panics
/// In a virtual machine without the device.
#[must_use]
pub fn has_device(kind: &str) -> bool {
    let Ok(netns) = crate::netns::Netns::create(&crate::netns::unique_prefix("device")) else {
        return false; // as without root
    };
    let device = match kind {
        "vlan" => "link add base type veth peer name far\nlink add probe link base type vlan id 1",
        "vxlan" => "link add probe type vxlan id 1 dstport 4789",
        "geneve" => "link add probe type geneve id 1 remote 192.0.2.2",
        "ipip" => "link add probe type ipip local 192.0.2.1 remote 192.0.2.2",
        _ => &format!("link add probe type {kind}"),
    };
    let made = netns.ip(device);
    let Err(error) = made else {
        return true;
    };
    assert!(
        std::env::var_os(GUEST).is_none(),
        "a virtual machine's kernel has {kind} devices: {error:#}"
    );
    println!("not run here: this kernel has no {kind} devices; `cargo xtask vm-test` has");
    false
}

/// Says that a test cannot run here, and why.
pub fn skipped(reason: &str) {
    // Standard error is not captured by the test harness when it is written to directly.
    use std::io::Write;
    let line = format!("skipped: {reason}\n");
    let written = std::io::stderr().lock().write_all(line.as_bytes());
    assert!(written.is_ok(), "a skipped test must be able to say so");
}
