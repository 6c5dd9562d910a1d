//! Writing files so that nobody sees half of one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Writes beside the target and renames. What is there and no ordinary file, such as `/dev/stdout`,
/// is written to as it is.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|target| !target.is_file()) {
        return fs::write(path, bytes);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The first error is the one to report; what is left of the copy must not stay.
        let _ = fs::remove_file(&beside);
    }
    written
}
