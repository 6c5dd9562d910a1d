//! Network namespaces: named, entered, removed. Knows nothing of what lives in them.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};

/// Where namespaces have their names, as iproute2 keeps them.
const NAMES: &str = "/run/netns";

/// A network namespace that is held open. It stays the same one if its name is given to another.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
}

/// What can go wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("cannot open network namespace `{path}`")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make network namespace `{name}`")]
    Create {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot remove network namespace `{name}`")]
    Remove {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot enter network namespace `{path}`")]
    Enter {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Netns {
    /// The namespace behind a file: `/run/netns/NAME`, `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let file = File::open(path).map_err(|source| NetnsError::Open {
            path: path.into(),
            source,
        })?;
        Ok(Self {
            path: path.into(),
            file,
        })
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace of that name, or `None`.
    pub fn named(name: &str) -> Result<Option<Self>, NetnsError> {
        let path = path_of(name);
        // A name whose mount is gone (a reboot, another mount namespace) is an ordinary empty file.
        match fs::metadata(&path) {
            Ok(meta) if is_namespace(&meta) => Self::open(&path).map(Some),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(NetnsError::Open { path, source }),
        }
    }

    /// Makes a new namespace and gives it a name. It lives until [`remove`].
    pub fn create(name: &str) -> Result<Self, NetnsError> {
        let failed = |source: io::Error| NetnsError::Create {
            name: name.into(),
            source,
        };
        let path = path_of(name);
        fs::create_dir_all(NAMES).map_err(failed)?;
        File::create(&path).map_err(failed)?;
        let made = on_a_thread(|| {
            unshare_network()?;
            mount_bind("/proc/thread-self/ns/net", &path).map_err(io::Error::from)
        });
        if let Err(source) = made {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(%error, "an empty {} is left", path.display());
            }
            return Err(failed(source));
        }
        Self::open(&path)
    }

    /// Runs `work` in a new, empty namespace without a name, which ends with it.
    pub fn throwaway<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        on_a_thread(|| {
            unshare_network()?;
            Ok(work())
        })
        .map_err(|source| NetnsError::Create {
            name: "(for a trial)".into(),
            source,
        })
    }

    /// Runs `work` on a thread of its own that has moved into the namespace, and waits for it.
    /// Sockets made there stay in the namespace, and so does what is written below `/proc/sys/net`.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        on_a_thread(|| {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(io::Error::from)?;
            Ok(work())
        })
        .map_err(|source| NetnsError::Enter {
            path: self.path.clone(),
            source,
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn move_here(&self) -> Result<(), NetnsError> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
            |error| NetnsError::Enter {
                path: self.path.clone(),
                source: error.into(),
            },
        )
    }

    /// Whether both are the same namespace.
    pub fn is(&self, other: &Self) -> bool {
        match (self.file.metadata(), other.file.metadata()) {
            (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
            _ => false,
        }
    }

    /// The file that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Takes the name away; the namespace ends with its last user. Whether there was one.
pub fn remove(name: &str) -> Result<bool, NetnsError> {
    let failed = |source: io::Error| NetnsError::Remove {
        name: name.into(),
        source,
    };
    let path = path_of(name);
    match unmount(&path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        Err(error) => return Err(failed(error.into())),
    }
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        // Somebody else has just done the same.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Where the namespace of that name is found.
pub fn path_of(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// Whether this kernel speaks IPv6 at all: started with `ipv6.disable=1`, it knows no such address,
/// route, rule or socket.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Files of nsfs have the device number of no disk; what matters is that they differ from their
/// folder's.
fn is_namespace(meta: &fs::Metadata) -> bool {
    fs::metadata(NAMES).is_ok_and(|folder| folder.dev() != meta.dev())
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[expect(unsafe_code, reason = "unshare is unsafe for threads that share files")]
fn unshare_network() -> io::Result<()> {
    // SAFETY: NEWNET alone leaves the file table shared, which is what makes other flags unsafe; the
    // calling thread is one of our own making and ends soon after.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}
