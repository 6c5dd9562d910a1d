//! The socket's file: made for root alone, in the place of one that an earlier agent left, and taken
//! away again.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// The socket's file, which goes away with its owner, and so does its folder, if that was made for
/// it.
#[derive(Debug, Default)]
pub struct Bound {
    file: Option<PathBuf>,
    folder: Option<PathBuf>,
}

/// What can go wrong with the socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("another agent listens on `{path}`: a node has one agent, stop that one first")]
    Busy { path: PathBuf },
    #[error("`{path}` is there and is not a socket: name another place with --socket")]
    NotASocket { path: PathBuf },
    #[error("cannot {operation} the control socket `{path}`")]
    Socket {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Binds the socket. One that an earlier agent left is replaced.
pub fn bind(path: &Path) -> Result<(UnixListener, Bound), ControlError> {
    let failed = |operation| {
        move |source| ControlError::Socket {
            operation,
            path: path.into(),
            source,
        }
    };
    let mut bound = Bound::default();
    if let Some(folder) = path.parent()
        && !folder.exists()
    {
        fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
        bound.folder = Some(folder.into());
    }
    make_room(path)?;
    // Between binding and changing the mode others could connect: the mask closes that gap.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listening = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = listening.map_err(failed("bind"))?;
    bound.file = Some(path.into());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed("protect"))?;
    Ok((listener, bound))
}

/// Removes what an earlier agent left, and nothing else.
fn make_room(path: &Path) -> Result<(), ControlError> {
    let failed = |source| ControlError::Socket {
        operation: "replace",
        path: path.into(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ControlError::NotASocket { path: path.into() });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ControlError::Busy { path: path.into() });
    }
    fs::remove_file(path).map_err(failed)
}

impl Drop for Bound {
    fn drop(&mut self) {
        match self.file.as_ref().map(fs::remove_file) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the control socket is left behind");
            }
            _ => {}
        }
        if let Some(folder) = &self.folder {
            // Somebody else may have put something there.
            let _left = fs::remove_dir(folder);
        }
    }
}
