//! A bundle in a file. The file is looked at each second, by name: whether another one is renamed to
//! that name, the folder that a link leads to is exchanged (which is how kubelet changes the volume of
//! a ConfigMap) or the file is written in place, it is another file, or has other times.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::{BYTES_MAX, DeliveryError, Fetched, News};

pub(super) const EVERY: Duration = Duration::from_secs(1);

pub(super) struct FileWatch {
    path: PathBuf,
    /// What was read last.
    known: Option<Seen>,
    /// Another one that was seen at the last look, and may still be written.
    settling: Option<Seen>,
    digest: Option<[u8; 32]>,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Seen {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl FileWatch {
    pub fn of(path: &Path) -> Self {
        Self {
            path: path.into(),
            known: None,
            settling: None,
            digest: None,
        }
    }

    pub async fn look(&mut self) -> Result<News, DeliveryError> {
        let path = self.path.clone();
        let (known, settling) = (self.known, self.settling);
        let looked = tokio::task::spawn_blocking(move || look(&path, known, settling)).await;
        let looked = looked.map_err(io::Error::other).and_then(|looked| looked);
        let looked = looked.map_err(|source| DeliveryError::File {
            path: self.path.clone(),
            source,
        })?;
        match looked {
            Looked::Same => {
                self.settling = None;
                Ok(News::Same)
            }
            Looked::Settling(seen) => {
                self.settling = Some(seen);
                Ok(News::Same)
            }
            Looked::Read(seen, bytes) => {
                (self.known, self.settling) = (Some(seen), None);
                let digest: [u8; 32] = Sha256::digest(&bytes).into();
                if self.digest.replace(digest) == Some(digest) {
                    return Ok(News::Same);
                }
                let name = self.path.clone();
                Ok(News::New(Fetched { bytes, name }))
            }
        }
    }
}

enum Looked {
    Same,
    Settling(Seen),
    Read(Seen, Vec<u8>),
}

fn look(path: &Path, known: Option<Seen>, settling: Option<Seen>) -> io::Result<Looked> {
    let meta = fs::metadata(path)?;
    let seen = Seen::of(&meta);
    if known == Some(seen) {
        return Ok(Looked::Same);
    }
    // What is still being written is left alone until it has been the same for a while.
    if known.is_some() && settling != Some(seen) {
        return Ok(Looked::Settling(seen));
    }
    if !meta.is_file() || meta.len() > BYTES_MAX {
        return Err(io::Error::other("it is not a file of at most one gigabyte"));
    }
    let bytes = fs::read(path)?;
    Ok(Looked::Read(seen, bytes))
}
