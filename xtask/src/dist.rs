//! `cargo xtask dist`: what is given away. Static programs, an image of them without a shell, the chart,
//! licences, a list of what is inside, checksums. No container engine: an image is files, and the same
//! programs give the same bytes.

mod archive;
mod check;
mod contents;
mod layout;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{build, paths, setup, step};
use archive::Entry;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const PROGRAMS: [&str; 2] = ["enforcer", "policyc"];

/// Builds all of it below `target/dist`, and checks it: others must read the image, and it must run.
///
/// # Errors
/// What does not build, or what a check has found.
pub fn run() -> Result<()> {
    let toolchain = setup::ready_for_dist()?;
    build::bpf(&toolchain)?;
    let mut cargo = build::static_cargo("build");
    cargo.args(["--release", "--package", "policyc", "--package", "enforcer"]);
    cargo.env("ENFORCER_BPF_OBJECT", paths::bpf_object());
    step::must("build the static programs", &mut cargo, build::LIMIT)?;
    let work = paths::target().join("dist");
    if work.exists() {
        fs::remove_dir_all(&work).context("cannot clear target/dist")?;
    }
    fs::create_dir_all(&work)?;
    let programs = programs(&work)?;
    let inside = contents::Inside::read()?;
    let named = |name: &str, bytes: Vec<u8>| -> Result<(String, Vec<u8>)> {
        fs::write(work.join(name), &bytes).with_context(|| format!("cannot write {name}"))?;
        Ok((name.to_owned(), bytes))
    };
    let licences = named("LICENSES-THIRD-PARTY.txt", inside.licences()?.into_bytes())?;
    let list = named("enforcer.cdx.json", inside.list(&programs)?.into_bytes())?;
    let own = fs::read(paths::root().join("LICENSE")).context("the project's licence")?;
    let (texts, files) = layers(&programs, &own, &licences.1, &list.1)?;
    let image = work.join("image");
    layout::write(&image, &[texts, files])?;
    named(&format!("enforcer-{VERSION}.tgz"), chart()?)?;
    checksums(&work)?;
    check::all(&work, &image, inside.count())?;
    println!("{}: built and checked", shown(&work));
    println!(
        "aarch64: not built; the programs are tested on x86_64 only, and a static build for another \
         machine takes its C compiler (aws-lc, mimalloc) beside `rustup target add`"
    );
    Ok(())
}

/// The programs without their debugging information, which a node has no use for.
fn programs(work: &Path) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let built = paths::target()
        .join("static")
        .join(paths::STATIC_TARGET)
        .join("release");
    PROGRAMS
        .into_iter()
        .map(|name| {
            let path = work.join(name);
            let mut strip = Command::new("strip");
            strip.arg("-o").arg(&path).arg(built.join(name));
            step::must(&format!("strip {name}"), &mut strip, build::LIMIT)?;
            let bytes = fs::read(&path)?;
            ensure!(
                !asks_for_an_interpreter(&bytes),
                "{name} is not static: it asks for a dynamic linker"
            );
            Ok((name, bytes))
        })
        .collect()
}

/// Whether an ELF file has a program header of type PT_INTERP. What is no ELF file has none.
fn asks_for_an_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, length: usize| {
        let bytes = elf.get(at..at + length)?;
        let value = bytes
            .iter()
            .rev()
            .fold(0u64, |all, byte| all << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    };
    let (Some(start), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2))
    else {
        return false;
    };
    (0..count).any(|i| number(start + i * size, 4) == Some(3))
}

/// What changes seldom, and what changes with each version.
fn layers(
    programs: &[(&'static str, Vec<u8>)],
    own: &[u8],
    licences: &[u8],
    list: &[u8],
) -> Result<(Vec<u8>, Vec<u8>)> {
    let file = |path: &str, bytes: &[u8]| Entry::file(path, bytes.to_vec());
    let texts = [
        file("etc/passwd", b"root:x:0:0:root:/:/sbin/nologin\n"),
        file("etc/group", b"root:x:0:\n"),
        // Names of authorizers and key sets are asked of the files first, then of the cluster's DNS.
        file("etc/nsswitch.conf", b"hosts: files dns\n"),
        file(
            "etc/ssl/certs/ca-certificates.crt",
            contents::authorities().as_bytes(),
        ),
        // Where a cluster mounts its own things.
        Entry::folder("etc/enforcer"),
        Entry::folder("proc"),
        Entry::folder("run/enforcer"),
        Entry::folder("run/netns"),
        Entry::folder("sys"),
        Entry::folder("var/lib/enforcer"),
    ];
    let mut files = vec![
        file("usr/share/doc/enforcer/LICENSE", own),
        file("usr/share/doc/enforcer/LICENSES-THIRD-PARTY.txt", licences),
        file("usr/share/doc/enforcer/enforcer.cdx.json", list),
    ];
    for (name, bytes) in programs {
        files.push(Entry::program(&format!("usr/bin/{name}"), bytes.clone()));
    }
    Ok((archive::tar(&texts)?, archive::tar(&files)?))
}

/// The chart as `helm install` takes it.
fn chart() -> Result<Vec<u8>> {
    let folder = paths::root().join("enforcer/deploy/chart");
    let mut files = Vec::new();
    find(&folder, &mut files)?;
    files.sort();
    let entries: Vec<Entry> = files
        .iter()
        .map(|path| {
            let inside = path.strip_prefix(&folder)?;
            let name = format!("enforcer/{}", inside.display());
            Ok(Entry::file(&name, fs::read(path)?))
        })
        .collect::<Result<_>>()?;
    archive::gzip(&archive::tar(&entries)?)
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// `sha256sum --check SHA256SUMS` reads it.
fn checksums(work: &Path) -> Result<()> {
    let mut files = Vec::new();
    find(work, &mut files)?;
    files.sort();
    let mut text = String::new();
    for path in files {
        let digest = layout::sha256(&fs::read(&path)?);
        text += &format!("{digest}  {}\n", path.strip_prefix(work)?.display());
    }
    fs::write(work.join("SHA256SUMS"), text).context("cannot write the checksums")
}

fn shown(path: &Path) -> String {
    let inside = path.strip_prefix(paths::root()).unwrap_or(path);
    inside.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_programs_give_the_same_image() {
        let programs = vec![("enforcer", b"one".to_vec()), ("policyc", b"two".to_vec())];
        let images = [(); 2].map(|()| {
            let (texts, files) = layers(&programs, b"own", b"others", b"list").expect("layers");
            let number = std::process::id();
            let folder = std::env::temp_dir().join(format!("enforcer-image-{number}"));
            layout::write(&folder, &[texts, files]).expect("a folder of its own");
            let mut files = Vec::new();
            find(&folder, &mut files).expect("it was just written");
            files.sort();
            let read = |path: &PathBuf| (path.clone(), fs::read(path).expect("it is there"));
            let contents: Vec<_> = files.iter().map(read).collect();
            fs::remove_dir_all(&folder).expect("it is ours");
            contents
        });
        assert!(
            images[0].len() >= 6,
            "index, layout, manifest, config, two layers"
        );
        assert_eq!(images[0], images[1]);
    }

    #[test]
    fn a_program_that_needs_a_dynamic_linker_is_seen() {
        let own = std::env::current_exe()
            .and_then(fs::read)
            .expect("this program");
        assert!(
            asks_for_an_interpreter(&own),
            "tests are linked dynamically"
        );
        assert!(!asks_for_an_interpreter(b"#!/bin/sh\n"));
    }
}
