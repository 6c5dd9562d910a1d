//! Where maps and links outlive the agent: one directory on a BPF file system, and the lock that
//! keeps a second agent away from it.
//!
//! The directory's name carries the version of the kernel contract, so that no layout of a map ever
//! meets the pins of another.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use enforcer_ebpf::{maps::program::TO_POD, words::ABI};
use rustix::fs::{FlockOperation, flock, statfs};

/// `f_type` of a BPF file system.
const BPFFS: u64 = 0xcafe_4a11;

/// How the name of a map ends that has not taken the place of a smaller one yet.
const GROWN: &str = "-grown";

/// The directory of this agent's pins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pins {
    /// Given by `--bpffs`, with `enforcer` appended.
    family: PathBuf,
    root: PathBuf,
}

/// As long as it lives, no other agent uses the same pins. The kernel gives it up with the process.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

/// What can go wrong with the pins.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    #[error(
        "`{path}` is not on a BPF file system: run `mount -t bpf bpf /sys/fs/bpf`, or name one with --bpffs"
    )]
    NotBpffs { path: PathBuf },
    #[error("cannot {operation} `{path}`")]
    Directory {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another agent runs with `{path}`: a node has one agent, stop that one first")]
    Busy { path: PathBuf },
}

impl Pins {
    /// The pins below a directory on a BPF file system. Makes nothing yet.
    pub fn below(bpffs: &Path) -> Self {
        let family = bpffs.join("enforcer");
        Self {
            root: family.join(format!("v{ABI}")),
            family,
        }
    }

    /// Makes the directories and locks them.
    pub fn take(&self) -> Result<Lock, PinsError> {
        let base = self.family.parent().unwrap_or(Path::new("/"));
        if !is_bpffs(base) {
            return Err(PinsError::NotBpffs { path: base.into() });
        }
        loop {
            for directory in [self.root.join("maps"), self.links()] {
                fs::create_dir_all(&directory).map_err(|source| PinsError::Directory {
                    operation: "make directory",
                    path: directory.clone(),
                    source,
                })?;
            }
            // Somebody may have detached everything in between: that lock would be on nothing.
            if let Some(lock) = self.take_what_is_there()? {
                return Ok(lock);
            }
        }
    }

    /// Locks the directories, or returns `None` when there are none. Makes nothing.
    pub fn take_what_is_there(&self) -> Result<Option<Lock>, PinsError> {
        let failed = |operation| {
            move |source| PinsError::Directory {
                operation,
                path: self.root.clone(),
                source,
            }
        };
        let directory = match File::open(&self.root) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open directory")(error)),
        };
        match flock(directory.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(PinsError::Busy {
                    path: self.root.clone(),
                });
            }
            Err(error) => return Err(failed("lock directory")(error.into())),
        }
        let locked = directory.metadata().map_err(failed("look at directory"))?;
        match fs::metadata(&self.root) {
            Ok(there) if (there.dev(), there.ino()) == (locked.dev(), locked.ino()) => {
                Ok(Some(Lock {
                    _directory: directory,
                }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("look at directory")(error)),
        }
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    /// Where a map is pinned that takes the place of a smaller one, until it does.
    pub fn grown_map(&self, name: &str) -> PathBuf {
        self.map(&format!("{name}{GROWN}"))
    }

    /// Where links are pinned.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Removes a map's pin. Programs that use the map keep it. Whether there was one.
    pub fn forget_map(&self, name: &str) -> Result<bool, PinsError> {
        remove_file(&self.map(name))
    }

    /// Names of the pinned links, in order.
    pub fn link_names(&self) -> Result<Vec<String>, PinsError> {
        file_names(&self.links())
    }

    /// Removes a link's pin, which detaches its program. Whether there was one.
    pub fn detach(&self, link: &str) -> Result<bool, PinsError> {
        remove_file(&self.links().join(link))
    }

    /// Removes everything, links first, then maps, then the directories; also what agents with
    /// another version of the kernel contract have left. Returns how many links were detached.
    pub fn remove_all(&self) -> Result<usize, PinsError> {
        let mut detached = 0;
        for version in directory_names(&self.family)? {
            detached += Self {
                family: self.family.clone(),
                root: self.family.join(version),
            }
            .remove_version()?;
        }
        remove_dir(&self.family)?;
        Ok(detached)
    }

    /// Removes the pins of maps that have not taken their places: their agent broke off.
    pub fn forget_grown_maps(&self) -> Result<(), PinsError> {
        for name in file_names(&self.root.join("maps"))? {
            if name.ends_with(GROWN) {
                self.forget_map(&name)?;
            }
        }
        Ok(())
    }

    /// Called when this agent's programs are attached, so that there is no gap: maps that have grown
    /// take their places, and what agents with another version of the kernel contract have left is
    /// detached. Returns how many links that were.
    pub fn settle(&self) -> Result<usize, PinsError> {
        for name in file_names(&self.root.join("maps"))? {
            if let Some(place) = name.strip_suffix(GROWN) {
                let path = self.map(place);
                fs::rename(self.map(&name), &path).map_err(|source| PinsError::Directory {
                    operation: "replace",
                    path,
                    source,
                })?;
            }
        }
        let mut detached = 0;
        for version in directory_names(&self.family)? {
            let root = self.family.join(version);
            if root != self.root {
                let family = self.family.clone();
                detached += Self { family, root }.remove_version()?;
            }
        }
        Ok(detached)
    }

    fn remove_version(&self) -> Result<usize, PinsError> {
        let mut links = self.link_names()?;
        // Programs that refuse go before those that remember what must not be refused.
        links.sort_by_key(|name| !name.starts_with(TO_POD));
        let mut detached = 0;
        for link in &links {
            detached += usize::from(self.detach(link)?);
        }
        for map in file_names(&self.root.join("maps"))? {
            self.forget_map(&map)?;
        }
        for directory in [self.links(), self.root.join("maps"), self.root.clone()] {
            remove_dir(&directory)?;
        }
        Ok(detached)
    }
}

/// Whether a path lies on a BPF file system.
pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(BPFFS))
}

fn file_names(directory: &Path) -> Result<Vec<String>, PinsError> {
    names(directory, |kind| !kind.is_dir())
}

fn directory_names(directory: &Path) -> Result<Vec<String>, PinsError> {
    names(directory, fs::FileType::is_dir)
}

fn names(directory: &Path, wanted: fn(&fs::FileType) -> bool) -> Result<Vec<String>, PinsError> {
    let failed = |source| PinsError::Directory {
        operation: "list",
        path: directory.into(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if wanted(&entry.file_type().map_err(failed)?) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn remove_file(path: &Path) -> Result<bool, PinsError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PinsError::Directory {
            operation: "remove",
            path: path.into(),
            source,
        }),
    }
}

fn remove_dir(path: &Path) -> Result<(), PinsError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PinsError::Directory {
            operation: "remove directory",
            path: path.into(),
            source: error,
        }),
        _ => Ok(()),
    }
}
