//! The machine: qemu with the serial console on its output and nothing else attached.

use std::{fs::OpenOptions, path::Path, process::Command, sync::OnceLock, time::Duration};

use anyhow::Result;

use super::{SUCCESS, initramfs, kernel::Kernel};
use crate::step;

/// With a KVM that works, a kernel is up in about a second.
const KVM_LIMIT: Duration = Duration::from_secs(8);

/// How the guest's processor is made.
#[derive(Clone, Copy)]
pub enum Accelerator {
    Kvm,
    /// Emulation: works everywhere.
    Tcg,
}

/// Takes KVM when a guest really boots with it. Its device may exist and do nothing: then the
/// machine would hang, so it is tried with a time limit first.
///
/// # Errors
/// When the trial cannot be packed.
pub fn accelerator(kernel: &Kernel) -> Result<Accelerator> {
    /// The machine's own, whatever the guest: one trial is enough.
    static FOUND: OnceLock<Accelerator> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(*found);
    }
    let found = find_accelerator(kernel)?;
    Ok(*FOUND.get_or_init(|| found))
}

fn find_accelerator(kernel: &Kernel) -> Result<Accelerator> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if device.is_err() {
        return Ok(Accelerator::Tcg);
    }
    let image = initramfs::pack_trial(kernel)?;
    let trial = step::run(
        "try KVM",
        &mut command(kernel, &image, Accelerator::Kvm, ""),
        KVM_LIMIT,
    )?;
    let works = trial.success && trial.output.lines().any(|line| line.trim() == SUCCESS);
    Ok(if works {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    })
}

/// A machine with two processors that ends when its guest does.
/// `parameters` are the kernel's, beside those that every guest needs.
pub fn command(
    kernel: &Kernel,
    initramfs: &Path,
    accelerator: Accelerator,
    parameters: &str,
) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    match accelerator {
        Accelerator::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]),
        // Without cx16: the emulation of cmpxchg16b with two processors (qemu 7.2) now and then
        // spoils the flags, and the kernel dies of it; it has another way for old processors.
        Accelerator::Tcg => qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"]),
    };
    qemu.args([
        "-smp",
        "2",
        "-m",
        "2048",
        "-no-reboot",
        "-nodefaults",
        "-net",
        "none",
    ])
    .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
    .arg("-kernel")
    .arg(&kernel.image)
    .arg("-initrd")
    .arg(initramfs)
    .arg("-append")
    .arg(format!(
        "console=ttyS0 quiet panic=-1 mitigations=off {parameters}"
    ));
    qemu
}
