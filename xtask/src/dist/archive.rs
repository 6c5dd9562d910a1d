//! Archives whose bytes follow from what is in them: no times, no owners but root, one order.

use std::{collections::BTreeSet, io::Write, path::Path};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// A file or a folder of an archive.
pub struct Entry {
    path: String,
    mode: u32,
    /// `None`: a folder.
    bytes: Option<Vec<u8>>,
}

impl Entry {
    pub fn file(path: &str, bytes: Vec<u8>) -> Self {
        Self {
            path: path.into(),
            mode: 0o644,
            bytes: Some(bytes),
        }
    }

    pub fn program(path: &str, bytes: Vec<u8>) -> Self {
        Self {
            mode: 0o755,
            ..Self::file(path, bytes)
        }
    }

    pub fn folder(path: &str) -> Self {
        Self {
            path: path.into(),
            mode: 0o755,
            bytes: None,
        }
    }
}

/// An archive of entries and the folders that they lie in.
///
/// # Errors
/// Where a path cannot be written.
pub fn tar(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let mut folders = BTreeSet::new();
    for entry in entries {
        let parents = Path::new(&entry.path).ancestors().skip(1);
        let mut parents: Vec<&Path> = parents.filter(|p| *p != Path::new("")).collect();
        parents.reverse();
        for parent in parents {
            if folders.insert(parent.to_owned()) {
                let path = parent.display().to_string();
                append(&mut tar, &Entry::folder(&path))?;
            }
        }
        if entry.bytes.is_some() || folders.insert(Path::new(&entry.path).to_owned()) {
            append(&mut tar, entry)?;
        }
    }
    tar.into_inner().context("an archive in memory")
}

fn append(tar: &mut Builder<Vec<u8>>, entry: &Entry) -> Result<()> {
    let bytes = entry.bytes.as_deref().unwrap_or_default();
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(u64::try_from(bytes.len())?);
    let path = match entry.bytes {
        Some(_) => entry.path.clone(),
        None => {
            header.set_entry_type(EntryType::Directory);
            format!("{}/", entry.path)
        }
    };
    tar.append_data(&mut header, &path, bytes)
        .with_context(|| format!("cannot archive {path}"))
}

/// Compressed, without a name or a time.
///
/// # Errors
/// None in memory.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::new(6));
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}
