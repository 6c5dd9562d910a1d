//! Where things are: the repository, what it builds, and what is kept between clones.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The machine that the static binaries are for, named so that procedural macros stay dynamic.
pub const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The repository's root.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Everything that is built.
pub fn target() -> PathBuf {
    root().join("target")
}

/// Output of the steps, a file a step.
pub fn logs() -> PathBuf {
    target().join("xtask/logs")
}

/// The compiled TC programs, an ELF file. The agent's build script looks for it here too.
pub fn bpf_object() -> PathBuf {
    target().join("bpf/bpfel-unknown-none/bpf/enforcer-ebpf")
}

/// Downloads that outlive a clone: `$XDG_CACHE_HOME/enforcer`, else `~/.cache/enforcer`.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(dir) if Path::new(&dir).is_absolute() => PathBuf::from(dir),
        _ => env::home_dir()
            .context("no home directory: set XDG_CACHE_HOME")?
            .join(".cache"),
    };
    Ok(base.join("enforcer"))
}

/// The first file of that name in `PATH` and in cargo's own folder of programs.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin())
        // An ordinary user's PATH lacks these, and `ip` and `nft` live there.
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Where `cargo install` puts programs.
pub fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(env::home_dir()?.join(".cargo")));
    Some(home?.join("bin"))
}

/// Removes a folder with all in it; one that is absent is fine.
pub fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
