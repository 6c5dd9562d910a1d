//! Files, folders and standard input to texts. Bytes must be UTF-8; a byte order mark is dropped.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::Input;

/// Bytes of one file, or of standard input.
pub const FILE_BYTES_MAX: u64 = 512 << 20;
/// Folders within folders.
const FOLDER_DEPTH_MAX: usize = 64;

/// A file as text, or why it is not one.
#[derive(Debug)]
pub struct Text {
    pub name: String,
    pub content: Result<String, Unreadable>,
    /// The name ends in `.json`.
    pub json: bool,
}

#[derive(Debug)]
pub enum Unreadable {
    /// The operating system's reason, or that a folder holds no manifest.
    Io(String),
    TooLarge,
    /// The text before the first byte that is not UTF-8.
    NotUtf8(String),
}

impl Unreadable {
    /// What can be shown of the file.
    pub fn text(&self) -> String {
        match self {
            Self::NotUtf8(good) => good.clone(),
            Self::Io(_) | Self::TooLarge => String::new(),
        }
    }
}

/// Calls `each` with every text, one at a time, in the order of the inputs and sorted within each
/// folder. A file that several inputs name is read once.
pub fn texts(inputs: &[Input], mut each: impl FnMut(Text)) {
    let mut seen = BTreeSet::new();
    for input in inputs {
        match input {
            Input::Stdin => each(Text {
                name: "<stdin>".into(),
                content: read_all(io::stdin().lock()),
                json: false,
            }),
            Input::Bytes { name, bytes } => each(Text {
                name: name.clone(),
                content: read_all(bytes.as_slice()),
                json: Path::new(name).extension().is_some_and(|e| e == "json"),
            }),
            Input::Path(path) => {
                let mut files = Vec::new();
                match collect(path, 0, &mut files) {
                    Ok(()) if files.is_empty() => each(unreadable(
                        path,
                        "the folder holds no *.yaml, *.yml or *.json".into(),
                    )),
                    Ok(()) => {}
                    Err((path, reason)) => each(unreadable(&path, reason)),
                }
                for file in files {
                    let identity = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
                    if seen.insert(identity) {
                        each(file_text(&file));
                    }
                }
            }
        }
    }
}

/// Reads one file.
pub fn file_text(path: &Path) -> Text {
    let content = match fs::File::open(path) {
        Ok(file) => read_all(file),
        Err(error) => Err(Unreadable::Io(error.to_string())),
    };
    Text {
        name: path.display().to_string(),
        content,
        json: path.extension().is_some_and(|e| e == "json"),
    }
}

fn unreadable(path: &Path, reason: String) -> Text {
    Text {
        name: path.display().to_string(),
        content: Err(Unreadable::Io(reason)),
        json: false,
    }
}

fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), (PathBuf, String)> {
    let failed = |error: io::Error| (path.to_path_buf(), error.to_string());
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    if depth > FOLDER_DEPTH_MAX {
        return Err((path.to_path_buf(), "folders are nested too deeply".into()));
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        entries.push(entry.map_err(failed)?);
    }
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        // A mounted ConfigMap keeps its real files in hidden folders `..data` and `..2026_01_01`
        // and links to them beside those: reading both would find each object twice.
        if entry.file_name().as_encoded_bytes().starts_with(b"..") {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            collect(&path, depth + 1, files)?;
        } else if has_manifest_name(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether a file of that name is read where a folder is named.
pub fn has_manifest_name(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

fn read_all(reader: impl Read) -> Result<String, Unreadable> {
    let mut bytes = Vec::new();
    reader
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Unreadable::Io(error.to_string()))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > FILE_BYTES_MAX) {
        return Err(Unreadable::TooLarge);
    }
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        Unreadable::NotUtf8(String::from_utf8_lossy(good).into_owned())
    })
}
