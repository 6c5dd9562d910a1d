//! The file that remembers the highest accepted generation over restarts and reboots.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Most bytes that are read of the file.
const BYTES_MAX: u64 = 4096;

/// A bundle that was accepted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    pub generation: u64,
    /// SHA-256 of its payload, in lower-case hexadecimal.
    pub hash: String,
}

/// What can go wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("cannot {operation} `{path}`, which remembers the highest accepted generation")]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "`{path}` does not say which generation was accepted last: find out why, and remove it only to accept any signed generation once"
    )]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
}

impl Memory {
    pub fn at(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// `None` where nothing was accepted yet.
    pub fn read(&self) -> Result<Option<Accepted>, MemoryError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed("read", source)),
        };
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, BYTES_MAX), &mut text)
            .map_err(|source| self.failed("read", source))?;
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|source| MemoryError::Damaged {
                path: self.path.clone(),
                source,
            })
    }

    /// Puts a whole new file in the place of the old one, on the disk before this returns.
    pub fn write(&self, accepted: &Accepted) -> Result<(), MemoryError> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| self.failed("make the folder of", source))?;
        let mut beside = self.path.as_os_str().to_owned();
        beside.push(format!(".{}.tmp", std::process::id()));
        let beside = PathBuf::from(beside);
        let written = self.replace(&beside, folder, accepted);
        if written.is_err() {
            // The first error is the one to report; half a file must not stay.
            let _ = fs::remove_file(&beside);
        }
        written.map_err(|source| self.failed("write", source))
    }

    fn replace(&self, beside: &Path, folder: &Path, accepted: &Accepted) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(beside)?;
        serde_json::to_writer(&mut file, accepted)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(beside, &self.path)?;
        File::open(folder)?.sync_all()
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> MemoryError {
        MemoryError::File {
            operation,
            path: self.path.clone(),
            source,
        }
    }
}
