//! Manifests that are kept in memory, file by file, so that after a change only what changed is read
//! again. What [`Watched::load`] gives is what [`load`](super::load) would give at that moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    Input, Loaded,
    input::{self, Found, Text},
    loader::Loader,
    part::Part,
};
use crate::diagnostic::Diagnostic;

/// A file whose last change is so near to when it was read may have changed after it without a sign:
/// clocks of file systems tick this seldom at most.
const TICK: Duration = Duration::from_secs(2);

/// Inputs that are read again as they change.
#[derive(Debug)]
pub struct Watched {
    inputs: Vec<Input>,
    mesh: Option<PathBuf>,
    /// Where relative paths begin.
    here: PathBuf,
    /// Every file that was read, as it was then, by its path from the root.
    files: BTreeMap<PathBuf, File>,
    /// What is read now, in order.
    order: Vec<Found>,
    mesh_text: Option<(Text, Sign)>,
}

#[derive(Debug)]
struct File {
    /// As the inputs lead to it.
    given: PathBuf,
    sign: Sign,
    part: Part,
}

/// What tells that a file has changed without reading it. `None`: it was not there.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Sign {
    metadata: Option<Metadata>,
    /// It may change once more without a sign.
    fresh: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Metadata {
    bytes: u64,
    modified: Option<SystemTime>,
    /// Inode, and when anything about it changed; 0 where there is no such thing.
    inode: (u64, i64, i64),
}

impl Watched {
    /// Nothing is read yet. Standard input has only one state, and is refused.
    pub fn new(inputs: Vec<Input>, mesh: Option<PathBuf>) -> Option<Self> {
        let paths = inputs.iter().all(|input| matches!(input, Input::Path(_)));
        paths.then(|| Self {
            inputs,
            mesh,
            here: env::current_dir().unwrap_or_default(),
            files: BTreeMap::new(),
            order: Vec::new(),
            mesh_text: None,
        })
    }

    /// Files and folders to be told about changes of.
    pub fn roots(&self) -> Vec<&Path> {
        let inputs = self.inputs.iter().filter_map(|input| match input {
            Input::Path(path) => Some(path.as_path()),
            Input::Stdin | Input::StdinAs(_) | Input::Bytes { .. } => None,
        });
        inputs.chain(self.mesh.as_deref()).collect()
    }

    /// Reads what has changed since the last time, and says whether anything did. `told`: the paths
    /// that something was heard of, and no others need be looked at; empty: everything is.
    pub fn refresh(&mut self, told: &BTreeSet<PathBuf>) -> bool {
        let told: BTreeSet<PathBuf> = told.iter().map(|path| absolute(&self.here, path)).collect();
        let mesh = self.refresh_mesh(&told);
        if told.is_empty() || !told.iter().all(|path| self.is_content(path)) {
            return self.refresh_all(&told) | mesh;
        }
        let mut changed = false;
        for path in told {
            if let Some(file) = self.files.get_mut(&path) {
                changed |= file.read();
            }
        }
        changed | mesh
    }

    /// Whether a change of this path leaves it as it is which files are read.
    fn is_content(&self, path: &Path) -> bool {
        let found = fs::symlink_metadata(path);
        if self.files.contains_key(path) {
            return found.is_ok_and(|found| found.is_file());
        }
        let mesh = self
            .mesh
            .as_ref()
            .is_some_and(|mesh| absolute(&self.here, mesh) == path);
        // What is gone may have been a folder, or the way to one.
        let mut behind = self.files.range(path.to_path_buf()..);
        let inside = behind
            .next()
            .is_some_and(|(file, _)| file.starts_with(path));
        let root = self
            .roots()
            .iter()
            .any(|root| absolute(&self.here, root) == path);
        let plain = match found {
            Ok(found) => found.is_file(),
            Err(_) => !inside,
        };
        mesh || plain && !inside && !root && !input::has_manifest_name(path)
    }

    fn refresh_all(&mut self, told: &BTreeSet<PathBuf>) -> bool {
        let order = input::find(&self.inputs);
        let mut changed = order != self.order;
        self.order = order;
        let mut files = BTreeMap::new();
        for given in self.order.iter().filter_map(|found| match found {
            Found::File(path) => Some(path),
            Found::Stdin(_) | Found::Bytes { .. } | Found::Unreadable(..) => None,
        }) {
            let path = absolute(&self.here, given);
            let file = match self.files.remove(&path) {
                Some(mut file) => {
                    if told.contains(&path) || !file.sign.still(&Sign::of(given)) {
                        changed |= file.read();
                    }
                    // It may be reached by another way than before.
                    file.given.clone_from(given);
                    file
                }
                None => {
                    changed = true;
                    File::new(given.clone())
                }
            };
            files.insert(path, file);
        }
        self.files = files;
        changed
    }

    fn refresh_mesh(&mut self, told: &BTreeSet<PathBuf>) -> bool {
        let Some(path) = &self.mesh else {
            return false;
        };
        let sign = Sign::of(path);
        let told = told.contains(&absolute(&self.here, path));
        let same = |(_, known): &(Text, Sign)| known.still(&sign) && !told;
        if self.mesh_text.as_ref().is_some_and(same) {
            return false;
        }
        let text = input::file_text(path);
        let before = self
            .mesh_text
            .as_ref()
            .map(|(text, _)| format!("{:?}", text.content));
        let changed = before.is_none_or(|before| before != format!("{:?}", text.content));
        self.mesh_text = Some((text, sign));
        changed
    }

    /// The cluster as it was last read, and everything that was wrong.
    pub fn load(&self) -> (Loaded, Vec<Diagnostic>) {
        let mut loader = Loader::default();
        for found in &self.order {
            match found {
                Found::File(path) => {
                    if let Some(file) = self.files.get(&absolute(&self.here, path)) {
                        loader.part(&file.part);
                    }
                }
                Found::Unreadable(path, reason) => {
                    loader.part(&Part::read(input::unreadable(path, reason.clone())));
                }
                Found::Bytes { name, bytes } => {
                    loader.part(&Part::read(input::bytes_text(name, bytes)));
                }
                Found::Stdin(_) => {}
            }
        }
        if let Some((text, _)) = &self.mesh_text {
            loader.mesh(text.clone());
        }
        loader.finish()
    }
}

impl File {
    fn new(given: PathBuf) -> Self {
        // The sign first: what changes after it is seen the next time.
        let sign = Sign::of(&given);
        let part = Part::read(input::file_text(&given));
        Self { given, sign, part }
    }

    /// Reads it again, and says whether it holds something else than before.
    fn read(&mut self) -> bool {
        let now = Self::new(self.given.clone());
        let changed = !now.part.same_text(&self.part);
        *self = now;
        changed
    }
}

/// A path from the root, without a `.` on the way.
fn absolute(here: &Path, path: &Path) -> PathBuf {
    here.join(path).components().collect()
}

impl Sign {
    fn of(path: &Path) -> Self {
        let metadata = fs::metadata(path).ok().map(|found| Metadata {
            bytes: found.len(),
            modified: found.modified().ok(),
            inode: inode(&found),
        });
        let fresh = metadata.as_ref().is_none_or(Metadata::is_fresh);
        Self { metadata, fresh }
    }

    /// Whether what was read under this sign is still what is there.
    fn still(&self, now: &Self) -> bool {
        !self.fresh && self.metadata == now.metadata
    }
}

impl Metadata {
    fn is_fresh(&self) -> bool {
        let seconds = u64::try_from(self.inode.1).ok().map(Duration::from_secs);
        let changed = seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(seconds));
        let now = SystemTime::now();
        // What lies in the future is not known to be over.
        let over = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age > TICK);
        !(self.modified.is_some_and(over) && changed.is_some_and(over))
    }
}

#[cfg(unix)]
fn inode(metadata: &fs::Metadata) -> (u64, i64, i64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn inode(_: &fs::Metadata) -> (u64, i64, i64) {
    (0, 0, 0)
}
