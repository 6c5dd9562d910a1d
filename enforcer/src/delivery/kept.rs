//! The bundle that came last over the network, for an agent that starts while the network is away.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Fetched, Source};

/// Where it lies. It is checked like any other bundle when it is read.
#[derive(Clone, Debug)]
pub struct Kept {
    path: PathBuf,
    source: String,
}

impl Kept {
    /// In the agent's folder.
    pub fn within(folder: &Path, source: &Source) -> Self {
        Self {
            path: folder.join("delivered.bin"),
            source: source.to_string(),
        }
    }

    /// What came last, of whatever source.
    pub fn read(&self) -> Option<Fetched> {
        match fs::read(&self.path) {
            Ok(bytes) => Some(Fetched {
                bytes,
                name: format!("{} (as it came last)", self.source).into(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "what came last cannot be read");
                None
            }
        }
    }

    /// Puts a bundle that is in force in the place of the one before. Nothing that is enforced
    /// depends on it.
    pub fn write(&self, fetched: &Fetched) {
        let beside = self.path.with_extension("tmp");
        let written = fs::create_dir_all(self.path.parent().unwrap_or(Path::new("/")))
            .and_then(|()| fs::write(&beside, &fetched.bytes))
            .and_then(|()| fs::rename(&beside, &self.path));
        if let Err(error) = written {
            tracing::warn!(%error, path = %self.path.display(), "the bundle is not kept");
        }
    }
}
