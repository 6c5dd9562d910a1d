//! What one agent leaves to the next beyond what the kernel holds: the bundles that were active,
//! hits of tables that are gone, names of the records of those that are not, reasons of pauses.
//!
//! A folder of small files, each replaced as a whole. By default it lies beside the control socket,
//! in a file system that ends with the node's uptime, as the kernel's maps do. No order fails
//! because something cannot be kept: enforcement goes on, and `status` says so.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use enforcer_ebpf::words::SLOTS;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::report::counters::{HitCount, HitName};

/// Bundles that are kept to go back to, the active one included.
pub const HISTORY_MAX: usize = 6;

const AGENT: &str = "agent.json";
const BUNDLES: &str = "bundles";

/// The folder, and what was wrong with it last.
#[derive(Debug)]
pub struct Keeper {
    folder: PathBuf,
    trouble: Option<String>,
    /// Everything was taken away, and is to stay so.
    ended: bool,
}

/// What is kept.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// Highest generation of a bundle that was ever active.
    pub newest: u64,
    /// Bundles that were active, the active one last.
    pub history: Vec<Past>,
    pub pauses: Vec<PauseNote>,
    /// Of tables that are gone.
    pub hits: Vec<HitCount>,
    /// Activation of the table in each slot whose hits are not among `hits`.
    pub slots: [Option<u32>; SLOTS as usize],
}

/// A bundle that was active.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Past {
    pub generation: u64,
    /// SHA-256 of the payload.
    pub hash: String,
    /// Where it came from.
    pub bundle: PathBuf,
    /// RFC 3339, UTC: when it became active.
    pub since: String,
}

/// Why something was paused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PauseNote {
    /// `namespace/name`; `None` for every pod.
    pub pod: Option<String>,
    pub reason: Option<String>,
    /// RFC 3339, UTC.
    pub since: String,
}

/// What the records of a table stand for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Names {
    /// Activation of the table.
    pub epoch: u32,
    /// By record: the deciding rule first, then those that audit or are tried.
    pub records: Vec<Vec<HitName>>,
}

/// The folder for the agent of a control socket, where none is named.
pub fn beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".state");
    path.into()
}

impl Keeper {
    /// Opens the folder, and reads what an earlier agent has kept. What cannot be read is given up.
    pub fn open(folder: &Path) -> (Self, Kept) {
        let mut keeper = Self {
            folder: folder.into(),
            trouble: None,
            ended: false,
        };
        let made = keeper.make();
        keeper.note(made);
        let read = keeper.read::<Kept>(AGENT);
        let kept = keeper.note(read).flatten().unwrap_or_default();
        (keeper, kept)
    }

    fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.folder.join(BUNDLES))
    }

    /// Why something could not be kept or read, as long as that is so.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Replaces what is kept.
    pub fn keep(&mut self, kept: &Kept) {
        let written = match self.ended {
            true => Ok(()),
            false => self.make().and_then(|()| self.write(AGENT, kept)),
        };
        if self.note(written).is_some() {
            self.trouble = None;
        }
    }

    /// Replaces what the records of the table in a slot stand for.
    pub fn keep_names(&mut self, slot: u32, names: &Names) {
        let written = self.write(&names_file(slot), names);
        self.note(written);
    }

    /// What the records of the table in a slot stand for.
    pub fn names(&mut self, slot: u32) -> Option<Names> {
        let read = self.read(&names_file(slot));
        self.note(read).flatten()
    }

    /// Keeps a bundle to go back to.
    pub fn keep_bundle(&mut self, hash: &str, bytes: &[u8]) {
        let written = self.replace(&self.bundle(hash), bytes);
        self.note(written);
    }

    /// Where a bundle is kept.
    pub fn bundle(&self, hash: &str) -> PathBuf {
        self.folder.join(BUNDLES).join(format!("{hash}.bin"))
    }

    /// Forgets every bundle but these.
    pub fn forget_bundles_but(&mut self, hashes: &BTreeSet<&str>) {
        let forgotten = (|| {
            for entry in fs::read_dir(self.folder.join(BUNDLES))? {
                let path = entry?.path();
                let hash = path.file_stem().map(|stem| stem.to_string_lossy());
                if hash.is_none_or(|hash| !hashes.contains(&*hash)) {
                    fs::remove_file(path)?;
                }
            }
            Ok(())
        })();
        self.note(forgotten);
    }

    /// Takes everything away, for good.
    pub fn forget(&mut self) {
        self.ended = true;
        let removed = Self::remove(&self.folder);
        self.note(removed);
    }

    /// Takes everything away that agents have kept in a folder.
    pub fn remove(folder: &Path) -> io::Result<()> {
        let there = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        there(fs::remove_dir_all(folder.join(BUNDLES)))?;
        there(fs::remove_file(folder.join(AGENT)))?;
        for slot in 0..SLOTS {
            there(fs::remove_file(folder.join(names_file(slot))))?;
        }
        there(fs::remove_dir(folder))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let bytes = match fs::read(self.folder.join(name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(serde_json::from_slice(&bytes)?))
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        self.replace(&self.folder.join(name), &serde_json::to_vec(value)?)
    }

    /// Whoever is killed in between leaves the old file or the new one.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        let new = path.with_extension("new");
        let written = (|| {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            io::Write::write_all(&mut file, bytes)
        })();
        match written {
            Ok(()) => fs::rename(&new, path),
            Err(error) => {
                // It may not even be there.
                let _gone = fs::remove_file(&new);
                Err(error)
            }
        }
    }

    fn note<T>(&mut self, result: io::Result<T>) -> Option<T> {
        result
            .map_err(|error| {
                let folder = self.folder.display();
                let trouble = format!("cannot keep the agent's state in `{folder}`: {error}");
                // What comes after it is often a consequence.
                if self.trouble.is_none() {
                    tracing::warn!("{trouble}");
                    self.trouble = Some(trouble);
                }
            })
            .ok()
    }
}

fn names_file(slot: u32) -> String {
    format!("records-{slot}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(what: &str) -> PathBuf {
        std::env::temp_dir().join(format!("enforcer-state-{what}-{}", std::process::id()))
    }

    #[test]
    fn what_is_kept_is_found_again_and_can_be_taken_away() {
        let folder = folder("kept");
        let (mut keeper, nothing) = Keeper::open(&folder);
        assert_eq!(nothing, Kept::default());
        let kept = Kept {
            newest: 7,
            slots: [None, Some(3), None],
            ..Kept::default()
        };
        keeper.keep(&kept);
        keeper.keep_bundle("aa", b"bytes");
        keeper.keep_bundle("bb", b"bytes");
        keeper.forget_bundles_but(&["bb"].into());
        let names = Names {
            epoch: 3,
            records: vec![Vec::new()],
        };
        keeper.keep_names(1, &names);
        let (mut again, found) = Keeper::open(&folder);
        assert_eq!(found, kept);
        assert_eq!((again.names(1), again.names(0)), (Some(names), None));
        assert!(again.bundle("bb").exists() && !again.bundle("aa").exists());
        assert_eq!(again.trouble(), None);
        Keeper::remove(&folder).expect("all of it is ours");
        assert!(!folder.exists());
        Keeper::remove(&folder).expect("twice is fine");
    }

    #[test]
    fn a_damaged_file_is_given_up_and_that_is_said() {
        let folder = folder("damaged");
        drop(Keeper::open(&folder));
        fs::write(folder.join(AGENT), b"{\"newest\":").expect("a file of its own");
        let (mut keeper, kept) = Keeper::open(&folder);
        assert_eq!(kept, Kept::default());
        assert!(keeper.trouble().is_some_and(|said| said.contains("EOF")));
        keeper.keep(&kept);
        assert_eq!(keeper.trouble(), None, "it is whole again");
        Keeper::remove(&folder).expect("all of it is ours");
    }
}
