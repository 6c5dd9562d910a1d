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
#[derive(Clone, Debug)]
pub struct Text {
    pub name: String,
    pub content: Result<String, Unreadable>,
    /// The name ends in `.json`.
    pub json: bool,
}

#[derive(Clone, Debug)]
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
    for found in find(inputs) {
        each(match found {
            Found::Stdin(None) => stdin("<stdin>".into(), false),
            Found::Stdin(Some(path)) => stdin(path.display().to_string(), is_json(&path)),
            Found::Bytes { name, bytes } => bytes_text(&name, &bytes),
            Found::File(path) => file_text(&path),
            Found::Unreadable(path, reason) => unreadable(&path, reason),
        });
    }
}

/// What the inputs come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Under the name of a file, where it stands for one.
    Stdin(Option<PathBuf>),
    /// What was read elsewhere.
    Bytes {
        name: String,
        bytes: Vec<u8>,
    },
    File(PathBuf),
    Unreadable(PathBuf, String),
}

/// All files, in the order in which they are read. A file that standard input stands for is not
/// among them.
pub fn find(inputs: &[Input]) -> Vec<Found> {
    let mut seen = BTreeSet::new();
    for input in inputs {
        if let Input::StdinAs(path) = input {
            seen.extend(fs::canonicalize(path));
        }
    }
    let mut found = Vec::new();
    for input in inputs {
        match input {
            Input::Stdin => found.push(Found::Stdin(None)),
            Input::StdinAs(path) => found.push(Found::Stdin(Some(path.clone()))),
            Input::Bytes { name, bytes } => found.push(Found::Bytes {
                name: name.clone(),
                bytes: bytes.clone(),
            }),
            Input::Path(path) => {
                let mut files = Vec::new();
                match collect(path, 0, &mut files) {
                    Ok(()) if files.is_empty() => found.push(Found::Unreadable(
                        path.clone(),
                        "the folder holds no *.yaml, *.yml or *.json".into(),
                    )),
                    Ok(()) => {}
                    Err((path, reason)) => found.push(Found::Unreadable(path, reason)),
                }
                let mut folders = Folders::default();
                for (file, link) in files {
                    if seen.insert(folders.identity(&file, link)) {
                        found.push(Found::File(file));
                    }
                }
            }
        }
    }
    found
}

/// Finds what a file really is. Files of one folder share all of the way but the last step.
#[derive(Default)]
struct Folders {
    last: Option<(PathBuf, PathBuf)>,
}

impl Folders {
    fn identity(&mut self, file: &Path, link: bool) -> PathBuf {
        let parts = file.parent().zip(file.file_name()).filter(|_| !link);
        let Some((folder, name)) = parts else {
            return fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
        };
        if self.last.as_ref().is_none_or(|(known, _)| known != folder) {
            let real = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
            self.last = Some((folder.to_path_buf(), real));
        }
        self.last
            .as_ref()
            .map_or_else(|| file.to_path_buf(), |(_, real)| real.join(name))
    }
}

fn stdin(name: String, json: bool) -> Text {
    Text {
        name,
        content: read_all(io::stdin().lock()),
        json,
    }
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "json")
}

/// What was read elsewhere.
pub fn bytes_text(name: &str, bytes: &[u8]) -> Text {
    Text {
        name: name.into(),
        content: read_all(bytes),
        json: is_json(Path::new(name)),
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
        json: is_json(path),
    }
}

pub(super) fn unreadable(path: &Path, reason: String) -> Text {
    Text {
        name: path.display().to_string(),
        content: Err(Unreadable::Io(reason)),
        json: false,
    }
}

/// Files with whether they are links.
fn collect(
    path: &Path,
    depth: usize,
    files: &mut Vec<(PathBuf, bool)>,
) -> Result<(), (PathBuf, String)> {
    let failed = |error: io::Error| (path.to_path_buf(), error.to_string());
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        // What was named itself may be anything.
        files.push((path.to_path_buf(), true));
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
            files.push((path, kind.is_symlink()));
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
