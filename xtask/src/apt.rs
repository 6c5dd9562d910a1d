//! Debian's packages of other suites than the machine's own, and sources of packages: read through a
//! private apt, so that nothing of the machine changes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// Keys of Debian's archive, under the name of each release.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// What is fetched.
#[derive(Clone, Copy)]
pub enum Kind {
    Binary,
    Source,
}

/// An apt with its own sources, lists and state.
pub struct PrivateApt {
    home: PathBuf,
}

impl PrivateApt {
    /// With its state below `home`, which may be absent.
    pub fn new(home: &Path, kind: Kind, suites: &[&str]) -> Result<Self> {
        let apt = Self { home: home.into() };
        for dir in ["apt/lists/partial", "apt/cache/archives/partial"] {
            fs::create_dir_all(home.join(dir))
                .with_context(|| format!("cannot write to the cache {}", home.display()))?;
        }
        let archive = archive()?;
        let key = KEYRINGS.iter().find(|file| Path::new(file).exists());
        let key = key.map_or_else(String::new, |file| format!("[signed-by={file}] "));
        let word = match kind {
            Kind::Binary => "deb",
            Kind::Source => "deb-src",
        };
        let lines: String = suites
            .iter()
            .map(|suite| format!("{word} {key}{archive} {suite} main\n"))
            .collect();
        fs::write(home.join("apt/sources.list"), lines)?;
        fs::write(home.join("apt/status"), "")?;
        Ok(apt)
    }

    pub fn command(&self, program: &str, command: &str) -> Command {
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
    pub fn depends(&self, package: &str) -> Result<BTreeSet<String>> {
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
        .context("Debian's packages are fetched with apt-get, which this machine does not have")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let address = text.lines().find_map(|line| line.strip_prefix("Debian "));
    address.map(str::to_owned).context(
        "apt knows no Debian archive on this machine: run `apt-get update`, or use a Debian machine",
    )
}
