//! `cargo xtask demo`: builds the programs and plays the scenario, here or, where this machine
//! cannot run it, in a virtual machine.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    build, paths, setup,
    step::{self, Done},
    vm::{self, GuestFile},
};

/// The programs of the demo, each with its package.
const PROGRAMS: [(&str, &str); 3] = [
    ("tests", "demo"),
    ("policyc", "policyc"),
    ("enforcer", "enforcer"),
];

/// The demo's exit status where a machine has no BPF, no namespaces or no root.
const CANNOT: i32 = 3;

/// The manifests, as seen from the repository's root.
const EXAMPLES: &str = "policyc/examples/demo";

/// In the guest.
const HOME: &str = "/demo";

/// Plays the demo.
///
/// # Errors
/// When something does not build, or did not end as expected.
pub fn run(virtual_machine: bool) -> Result<()> {
    println!("building; the first time takes minutes");
    build::bpf(&setup::ready()?)?;
    let programs = programs()?;
    if virtual_machine {
        return in_virtual_machine(&programs);
    }
    let (_, demo) = programs
        .iter()
        .find(|(name, _)| name == "demo")
        .context("no demo was built")?;
    let probe = Command::new(demo).arg("--probe").status();
    let probe = probe.context("cannot start the demo")?;
    match probe.code() {
        Some(0) => {}
        Some(CANNOT) => {
            println!("playing it in a virtual machine instead");
            return in_virtual_machine(&programs);
        }
        _ => bail!("the demo cannot start ({probe})"),
    }
    // Takes this program's place, so that Ctrl-C and the exit status are the demo's own.
    let error = Command::new(demo)
        .current_dir(paths::root())
        .args(["--examples", EXAMPLES])
        .exec();
    Err(error).context("cannot start the demo")
}

/// Static, so that the same programs run on this machine and in the guest.
fn programs() -> Result<Vec<(String, PathBuf)>> {
    let title = "build the programs";
    let mut arguments = vec!["build"];
    for (package, program) in PROGRAMS {
        arguments.extend(["--package", package, "--bin", program]);
    }
    let (done, programs) = build::static_programs(title, &arguments)?;
    if !done.success {
        step::report("FAILED", title, done.time, &done.how);
        eprint!("{}", step::tail(&done.output));
        bail!("{title}: {} (all of it: {})", done.how, done.log.display());
    }
    step::report("ok", title, done.time, "");
    Ok(programs)
}

fn in_virtual_machine(programs: &[(String, PathBuf)]) -> Result<()> {
    let examples = paths::root().join(EXAMPLES);
    let mut files = Vec::new();
    for (name, from) in programs {
        let to = format!("{HOME}/{name}");
        files.push(GuestFile {
            from: from.clone(),
            to,
        });
    }
    add_folder(&examples, &format!("{HOME}/examples"), &mut files)?;
    let script = format!("check {HOME}/demo --examples {HOME}/examples\n");
    let mut inside = false;
    let done = vm::boot(vm::Kernel::V6_1, "boot", &files, &script, "", |line| {
        // The guest says `vm: ...` before and after the demo's own lines.
        match line.strip_prefix("vm: ") {
            Some(word) => {
                inside = word.starts_with("run ");
                None
            }
            None => inside.then(|| line.to_owned()),
        }
    })?;
    finish(&done)
}

fn finish(done: &Done) -> Result<()> {
    if done.success {
        return Ok(());
    }
    if done.time < Duration::from_secs(2) {
        print!("{}", step::tail(&done.output)); // it never booted
    }
    bail!(
        "the demo did not end as expected ({}; all of it: {})",
        done.how,
        done.log.display()
    )
}

fn add_folder(from: &Path, to: &str, files: &mut Vec<GuestFile>) -> Result<()> {
    for entry in
        std::fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))?
    {
        let entry = entry?;
        let to = format!("{to}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            add_folder(&entry.path(), &to, files)?;
        } else {
            files.push(GuestFile {
                from: entry.path(),
                to,
            });
        }
    }
    Ok(())
}
