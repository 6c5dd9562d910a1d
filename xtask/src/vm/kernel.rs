//! Debian's kernel packages, unpacked once into a cache outside the repository. Other suites than
//! the machine's own are read through a private apt, so that nothing of the machine changes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::Kernel as Choice;
use crate::{paths, step};

const LIMIT: Duration = Duration::from_secs(900);

/// The package that depends on the suite's newest kernel for virtual machines.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Where Debian splits a kernel: its image, its modules, and the lists of its modules.
const PARTS: [&str; 3] = ["linux-binary-", "linux-modules-", "linux-base-"];

/// Keys of Debian's archive, under the name of each release.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

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
    let apt = PrivateApt::new(source, home)?;
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

/// An apt with its own sources, lists and state.
struct PrivateApt {
    home: PathBuf,
}

impl PrivateApt {
    fn new(source: &Source, home: &Path) -> Result<Self> {
        let apt = Self { home: home.into() };
        for dir in ["apt/lists/partial", "apt/cache/archives/partial"] {
            fs::create_dir_all(home.join(dir))
                .with_context(|| format!("cannot write to the cache {}", home.display()))?;
        }
        let archive = archive()?;
        let key = KEYRINGS.iter().find(|file| Path::new(file).exists());
        let key = key.map_or_else(String::new, |file| format!("[signed-by={file}] "));
        let lines: String = source
            .suites
            .iter()
            .map(|suite| format!("deb {key}{archive} {suite} main\n"))
            .collect();
        fs::write(home.join("apt/sources.list"), lines)?;
        fs::write(home.join("apt/status"), "")?;
        Ok(apt)
    }

    fn command(&self, program: &str, command: &str) -> Command {
        let apt = self.home.join("apt");
        let mut process = Command::new(program);
        process.current_dir(&self.home);
        for (option, value) in [
            ("Dir::State", apt.clone()),
            ("Dir::State::lists", apt.join("lists")),
            ("Dir::State::status", apt.join("status")),
            ("Dir::Cache", apt.join("cache")),
            ("Dir::Etc::sourcelist", apt.join("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            ("APT::Architecture", "amd64".into()),
            ("APT::Architectures", "amd64".into()),
            // The user `_apt` may not write into a home folder.
            ("APT::Sandbox::User", "root".into()),
            ("Acquire::Languages", "none".into()),
            (
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
                "false".into(),
            ),
        ] {
            process
                .arg("-o")
                .arg(format!("{option}={}", value.display()));
        }
        process.arg(command);
        process
    }

    /// Names of what the newest version of a package depends on.
    fn depends(&self, package: &str) -> Result<BTreeSet<String>> {
        let output = self
            .command("apt-cache", "show")
            .arg(package)
            .output()
            .context("cannot run apt-cache")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "Debian has no package {package} in these suites"
        );
        // All versions are shown, the newest first, whatever apt itself would prefer.
        let depends = text.lines().find_map(|line| line.strip_prefix("Depends: "));
        Ok(depends
            .unwrap_or_default()
            .split([',', '|'])
            .filter_map(|one| one.split_whitespace().next())
            .map(str::to_owned)
            .collect())
    }
}

/// Address of the archive that this machine's own Debian packages come from.
fn archive() -> Result<String> {
    let mut apt = Command::new("apt-get");
    apt.args([
        "indextargets",
        "--format",
        "$(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]);
    let output = apt
        .output()
        .context("Debian's kernels are fetched with apt-get, which this machine does not have")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let address = text.lines().find_map(|line| line.strip_prefix("Debian "));
    address.map(str::to_owned).context(
        "apt knows no Debian archive on this machine: run `apt-get update`, or use a Debian machine",
    )
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

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
