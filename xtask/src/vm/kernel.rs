//! Debian's kernel packages, unpacked once into a cache outside the repository.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::Kernel as Choice;
use crate::{
    apt::{Kind, PrivateApt},
    paths::{self, remove_dir},
    step,
};

const LIMIT: Duration = Duration::from_secs(900);

/// The package that depends on the suite's newest kernel for virtual machines.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Where Debian splits a kernel: its image, its modules, and the lists of its modules.
const PARTS: [&str; 3] = ["linux-binary-", "linux-modules-", "linux-base-"];

/// An unpacked kernel.
pub struct Kernel {
    pub image: PathBuf,
    /// `lib/modules/<release>`
    pub modules: PathBuf,
}

/// Where a kernel comes from.
struct Source {
    name: &'static str,
    suites: &'static [&'static str],
}

impl Source {
    fn of(choice: Choice) -> Result<Self> {
        let (name, suites): (_, &[_]) = match choice {
            Choice::V6_1 => ("6.1", &["bookworm"]),
            Choice::V6_12 => ("6.12", &["bookworm-backports"]),
            Choice::Latest => ("latest", &["trixie-backports", "sid"]),
            Choice::All => bail!("one kernel at a time"),
        };
        Ok(Self { name, suites })
    }
}

/// The kernel, from the cache or from Debian.
///
/// # Errors
/// When there is no Debian archive to fetch it from, or the packages are not as expected.
pub fn fetch(choice: Choice) -> Result<Kernel> {
    let source = Source::of(choice)?;
    let home = paths::cache()?.join("kernels").join(source.name);
    let unpacked = home.join("root");
    if !unpacked.exists() {
        download(&source, &home).with_context(|| format!("kernel {}", source.name))?;
    }
    find(&unpacked).with_context(|| {
        format!(
            "{} is not an unpacked kernel: remove it and try again",
            unpacked.display()
        )
    })
}

fn download(source: &Source, home: &Path) -> Result<()> {
    let apt = PrivateApt::new(home, Kind::Binary, source.suites)?;
    let title = format!("find kernel {}", source.name);
    step::must(&title, &mut apt.command("apt-get", "update"), LIMIT)?;
    let packages = packages(&apt)?;
    let title = format!("download kernel {}", source.name);
    let mut download = apt.command("apt-get", "download");
    step::must(&title, download.args(&packages), LIMIT)?;

    // Whole or absent: unpacked beside, then renamed.
    let partial = home.join("partial");
    remove_dir(&partial)?;
    fs::create_dir_all(&partial)?;
    for entry in fs::read_dir(home)?.flatten() {
        let package = entry.path();
        if package.extension().is_some_and(|e| e == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(&package).arg(&partial);
            ensure!(
                unpack.status()?.success(),
                "cannot unpack {}",
                package.display()
            );
            fs::remove_file(&package)?;
        }
    }
    fs::rename(&partial, home.join("root"))?;
    remove_dir(&home.join("apt"))
}

/// The packages that hold the image and the modules: one, or, where Debian splits it, those that
/// the one depends on.
fn packages(apt: &PrivateApt) -> Result<Vec<String>> {
    let image = apt
        .depends(META_PACKAGE)?
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{META_PACKAGE} depends on no kernel"))?;
    let parts: Vec<String> = apt
        .depends(&image)?
        .into_iter()
        .filter(|name| PARTS.iter().any(|part| name.starts_with(part)))
        .collect();
    Ok(if parts.is_empty() { vec![image] } else { parts })
}

fn find(unpacked: &Path) -> Result<Kernel> {
    // Below usr in newer packages, and the image beside the modules there.
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|dir| first_in(&unpacked.join(dir), ""))
        .context("no lib/modules")?;
    let image = [unpacked.join("boot"), modules.clone()]
        .iter()
        .find_map(|dir| first_in(dir, "vmlinuz"))
        .context("no vmlinuz")?;
    Ok(Kernel { image, modules })
}

/// The first entry of a folder whose name begins so.
fn first_in(dir: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    entries
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(prefix))
        })
        .min()
}
