//! Runs the project's static binaries on a Debian kernel in a virtual machine: fetch the kernel,
//! pack an initramfs, boot, and read the verdict from one line on the serial console.

mod initramfs;
mod kernel;
mod qemu;

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::{
    build, paths, setup,
    step::{self, Done},
    test::counts::Counts,
};

/// The guest says this when all of its programs succeeded, and nothing else counts as success.
const SUCCESS: &str = "vm: success";

/// The tests' lines about the verifier begin so.
const VERIFIED: &str = "verified: ";

/// Emulation is some ten times slower than the host.
const LIMIT: Duration = Duration::from_secs(1800);

/// What runs in the guest.
const GUEST_TESTS: &[GuestTest] = &[
    GuestTest {
        binary: "kernel",
        smoke: &[],
        programs: &[],
    },
    GuestTest {
        binary: "shadow",
        smoke: &[],
        programs: &[],
    },
    GuestTest {
        binary: "hygiene",
        smoke: &[],
        programs: &[],
    },
    GuestTest {
        binary: "policies",
        smoke: &[],
        programs: &[],
    },
    GuestTest {
        binary: "network",
        smoke: &[],
        programs: &[],
    },
    GuestTest {
        binary: "live",
        smoke: &[
            "allowed_connections_pass",
            "without_a_proxy",
            "a_deny_ends_established_connections",
            "killed_and_started_again",
            "swaps_under_traffic",
            "an_agent_that_cannot_start",
            "detach_leaves_nothing",
            "requests_are_judged_by_the_proxy",
            "a_connection_that_the_client_ends_first",
            "a_restart_that_fails",
            "h11_the_proxys_client",
            "h13_a_deny_ends_idle",
            "datagrams_are_judged",
            "remote_pods_are_judged",
            "a_remote_pods_address_counts",
            "hooks::",
            "every_path_on_a_routed_node_that_drops",
            "removed_and_made_again_is_guarded_again_by",
            "fragments_meet",
            "resets::",
            "both_ends_may_open_at_once",
            "servers_that_answer_by_cookies",
        ],
        programs: &["enforcer-under-test"],
    },
    GuestTest {
        binary: "swap",
        smoke: &[],
        programs: &[],
    },
];

/// A test binary, what part of the names of its tests makes a smoke test (nothing: all of them), and
/// the programs that they start.
struct GuestTest {
    binary: &'static str,
    smoke: &'static [&'static str],
    programs: &'static [&'static str],
}

/// How much runs in the guest.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Extent {
    /// What shows that a kernel works: everything in the kernel, and the main roads of the agent.
    Smoke,
    Everything,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// Debian 12's own
    #[value(name = "6.1")]
    V6_1,
    /// From Debian 12's backports
    #[value(name = "6.12")]
    V6_12,
    /// The newest that Debian has
    Latest,
    /// One after the other
    All,
}

/// A file of the host and where the guest finds it.
pub struct GuestFile {
    pub from: PathBuf,
    pub to: String,
}

/// `cargo xtask vm-test`.
///
/// # Errors
/// When a tool or kernel cannot be had, or a test fails on one of the kernels.
pub fn run(kernel: Kernel, extent: Extent, only: &[String]) -> Result<()> {
    let toolchain = setup::ready()?;
    build::bpf(&toolchain)?;
    let tests = static_tests()?;
    let kernels: &[Kernel] = match &kernel {
        Kernel::All => &[Kernel::V6_1, Kernel::V6_12, Kernel::Latest],
        one => std::slice::from_ref(one),
    };
    let mut failed = Vec::new();
    for kernel in kernels {
        let title = title(*kernel);
        // One kernel that cannot be had says nothing about the others.
        let done = match test_on(*kernel, &tests, extent, only) {
            Ok(done) => done,
            Err(error) => {
                println!("FAILED  {title}: {error:#}");
                failed.push(title);
                continue;
            }
        };
        if done.success {
            step::report("ok", title, done.time, &summary(&done.output));
        } else {
            step::report("FAILED", title, done.time, &done.how);
            print!("{}", done.output);
            failed.push(title);
        }
        print!("{}", verified(&done.output));
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// The static test binaries: name and file.
///
/// # Errors
/// When they do not compile.
pub fn static_tests() -> Result<Vec<(String, PathBuf)>> {
    let title = "build the static tests";
    let (done, programs) =
        build::static_programs(title, &["test", "--package", "tests", "--no-run"])?;
    if !done.success {
        step::report("FAILED", title, done.time, &done.how);
        eprint!("{}", step::tail(&done.output));
        bail!("{title}: {} (all of it: {})", done.how, done.log.display());
    }
    step::report("ok", title, done.time, "");
    Ok(programs)
}

/// Runs the guest's tests on one kernel.
///
/// # Errors
/// When the kernel cannot be had, or a test that should run in the guest does not exist.
pub fn test_on(
    kernel: Kernel,
    tests: &[(String, PathBuf)],
    extent: Extent,
    only: &[String],
) -> Result<Done> {
    let mut files = Vec::new();
    let mut script = String::new();
    let built = |name: &str| {
        let program = tests.iter().find(|(built, _)| built == name);
        program.with_context(|| format!("there is no `{name}` to run in the guest"))
    };
    // The tests look for it where the build left it.
    let object = paths::bpf_object();
    files.push(GuestFile {
        to: object.display().to_string(),
        from: object,
    });
    for test in GUEST_TESTS {
        let to = format!("/tests/{}", test.binary);
        let filter = match extent {
            _ if !only.is_empty() => only.join(" "),
            Extent::Smoke => test.smoke.join(" "),
            Extent::Everything => OF_THE_REPOSITORY
                .map(|name| format!("--skip {name}"))
                .join(" "),
        };
        writeln!(script, "check {to} --show-output {filter}")?;
        let (_, from) = built(test.binary)?;
        files.push(GuestFile {
            from: from.clone(),
            to,
        });
        for program in test.programs {
            // The tests know these by the path where cargo left them.
            let (_, from) = built(program)?;
            files.push(GuestFile {
                from: from.clone(),
                to: from.display().to_string(),
            });
        }
    }
    let first = boot(kernel, title(kernel), &files, &script, "", |_| None)?;
    if !only.is_empty() && !only.iter().any(|name| IPV4_ONLY.contains(&**name)) {
        return Ok(first);
    }
    let title = format!("{} without IPv6", title(kernel));
    let parameters = "ipv6.disable=1";
    let script = format!(
        "check test ! -e /proc/net/if_inet6\ncheck /tests/live --show-output {IPV4_ONLY}\n"
    );
    let second = boot(kernel, &title, &files, &script, parameters, |_| None)?;
    Ok(first.then(second))
}

/// Parts of names of tests that read the repository, which is not in the guest: they say nothing of
/// its kernel.
const OF_THE_REPOSITORY: [&str; 2] = ["conformance::", "deploy::"];

/// The test that runs on a kernel without IPv6, too.
const IPV4_ONLY: &str = "a_node_that_speaks_ipv4_only_is_enforced";

/// Boots a kernel with these files and runs a shell script, in which `check PROGRAM...` runs what
/// must succeed. `parameters` are for the kernel. `show` picks the lines that the reader sees while the guest runs.
///
/// # Errors
/// When the kernel cannot be had or the machine cannot be started.
pub fn boot(
    kernel: Kernel,
    title: &str,
    files: &[GuestFile],
    script: &str,
    parameters: &str,
    show: impl FnMut(&str) -> Option<String>,
) -> Result<Done> {
    let kernel = kernel::fetch(kernel)?;
    let image = initramfs::pack(&kernel, files, script)?;
    let accelerator = qemu::accelerator(&kernel)?;
    let mut machine = qemu::command(&kernel, &image, accelerator, parameters);
    let mut done = step::follow(title, &mut machine, LIMIT, show)?;
    let verdict = done.output.lines().any(|line| line.trim() == SUCCESS);
    if done.success && !verdict {
        done.how = format!("the guest did not say `{SUCCESS}`");
    }
    done.success &= verdict;
    Ok(done)
}

/// The kernel's release and how many tests ran on it.
pub fn summary(output: &str) -> String {
    let counts = Counts::of(output, true);
    format!(
        "Linux {}: {} passed, {} skipped",
        release(output),
        counts.passed,
        counts.skipped
    )
}

/// What the kernel's verifier said of each program.
pub fn verified(output: &str) -> String {
    let lines = output.lines().map(str::trim_end);
    lines
        .filter(|line| line.starts_with(VERIFIED))
        .fold(String::new(), |all, line| all + "  " + line + "\n")
}

/// The kernel's release, as the guest says it, and how it ran.
pub fn release(output: &str) -> String {
    let line = output
        .lines()
        .find_map(|line| line.trim().strip_prefix("vm: kernel "));
    line.unwrap_or("no kernel booted").to_owned()
}

pub fn title(kernel: Kernel) -> &'static str {
    match kernel {
        Kernel::V6_1 => "VM with Debian's kernel 6.1",
        Kernel::V6_12 => "VM with Debian's kernel 6.12",
        Kernel::Latest => "VM with Debian's newest kernel",
        Kernel::All => "VM with each kernel",
    }
}
