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

/// Says that a test cannot run here, and why.
pub fn skipped(reason: &str) {
    // Standard error is not captured by the test harness when it is written to directly.
    use std::io::Write;
    let line = format!("skipped: {reason}\n");
    let written = std::io::stderr().lock().write_all(line.as_bytes());
    assert!(written.is_ok(), "a skipped test must be able to say so");
}
