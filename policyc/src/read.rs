//! Bytes to a [`Cluster`]: files, folders and standard input, as `kubectl apply -f` takes them.
//!
//! [`load`] is the one way in. It reports as many problems as it can find; one error among them
//! means that nothing may be compiled from the result. Nothing is interpreted in here: `input` gives
//! texts, `split` and `documents` documents, `yaml` and `json` values, `node` typed access with
//! diagnostics; what the values mean is for [`crate::ast`] and [`crate::cluster`].

mod documents;
mod duration;
mod input;
mod json;
mod list;
pub mod live;
mod loader;
pub(crate) mod node;
mod objects;
mod parallel;
mod part;
mod position;
mod sources;
mod split;
pub(crate) mod value;
mod watched;
mod yaml;

use std::path::{Path, PathBuf};

pub(crate) use duration::duration;
pub use input::has_manifest_name;
pub use loader::Watch;
pub use sources::{Place, Sources};
pub use watched::Watched;

use self::{input::Text, loader::Loader};
use crate::{cluster::Cluster, diagnostic::Diagnostic};

/// Where manifests come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A file, or a folder that is searched for `*.yaml`, `*.yml` and `*.json`.
    Path(PathBuf),
    Stdin,
    /// What was read elsewhere, under the name that diagnostics show.
    Bytes {
        name: String,
        bytes: Vec<u8>,
    },
    /// Standard input in place of this file, whose name diagnostics show: an editor's text that is
    /// not saved yet.
    StdinAs(PathBuf),
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
pub fn load(inputs: &[Input], mesh: Option<&Path>) -> (Loaded, Vec<Diagnostic>) {
    load_watched(inputs, mesh, None)
}

/// As [`load`], telling `watch` how far it is.
pub fn load_watched(
    inputs: &[Input],
    mesh: Option<&Path>,
    watch: Option<Watch<'_>>,
) -> (Loaded, Vec<Diagnostic>) {
    let mesh = mesh.map(|path| Input::Path(path.to_path_buf()));
    load_with_mesh(inputs, mesh.as_ref(), watch)
}

/// As [`load_watched`], with a MeshConfig from anywhere.
pub fn load_with_mesh(
    inputs: &[Input],
    mesh: Option<&Input>,
    watch: Option<Watch<'_>>,
) -> (Loaded, Vec<Diagnostic>) {
    let mut loader = Loader {
        watch,
        ..Loader::default()
    };
    input::texts(inputs, |text| loader.manifests(text));
    match mesh {
        Some(Input::Path(path)) => loader.mesh(input::file_text(path)),
        Some(mesh) => input::texts(std::slice::from_ref(mesh), |text| loader.mesh(text)),
        None => {}
    }
    loader.finish()
}

/// As [`load`], from text: `name` is the file name that diagnostics show, and one that ends in
/// `.json` is read as JSON alone.
pub fn load_str(name: &str, text: &str, mesh: Option<&str>) -> (Loaded, Vec<Diagnostic>) {
    let in_memory = |name: &str, text: &str| Text {
        name: name.into(),
        content: Ok(text.strip_prefix('\u{feff}').unwrap_or(text).into()),
        json: name.ends_with(".json"),
    };
    let mut loader = Loader::default();
    loader.manifests(in_memory(name, text));
    if let Some(text) = mesh {
        loader.mesh(in_memory("mesh.yaml", text));
    }
    loader.finish()
}
