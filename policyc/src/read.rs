//! Bytes to a [`Cluster`]: files, folders and standard input, as `kubectl apply -f` takes them.
//!
//! [`load`] is the one way in. It reports as many problems as it can find; one error among them
//! means that nothing may be compiled from the result.

mod sources;

use std::path::{Path, PathBuf};

pub use sources::Sources;

use crate::{cluster::Cluster, diagnostic::Diagnostic};

/// Where manifests come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A file, or a folder that is searched for `*.yaml`, `*.yml` and `*.json`.
    Path(PathBuf),
    Stdin,
}

impl Input {
    /// What `-f` was given: `-` is standard input.
    pub fn from_arg(arg: &str) -> Self {
        match arg {
            "-" => Self::Stdin,
            path => Self::Path(path.into()),
        }
    }
}

/// What was read, and the text that it was read from.
#[derive(Debug, Default)]
pub struct Loaded {
    pub cluster: Cluster,
    pub sources: Sources,
}

/// Reads all inputs and the MeshConfig. An error diagnostic means that nothing may be compiled.
pub fn load(_inputs: &[Input], _mesh: Option<&Path>) -> (Loaded, Vec<Diagnostic>) {
    (Loaded::default(), Vec::new())
}

/// As [`load`], from text: `name` is the file name that diagnostics show.
pub fn load_str(_name: &str, _text: &str, _mesh: Option<&str>) -> (Loaded, Vec<Diagnostic>) {
    (Loaded::default(), Vec::new())
}
