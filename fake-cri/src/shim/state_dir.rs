//! The directory that a shim and fake-cri share.
//!
//! | file | written by | content |
//! |---|---|---|
//! | `sock` | shim | the socket for messages |
//! | `shim.json` | shim | the shim's process, before it listens |
//! | `exit.json` | shim | the container's exit, after its log is complete |
//! | `shim.log` | shim | the shim's stderr; normally empty |
//! | `test-workload`, `test-workload.json` | shim | the path that starts the test workload, and its options |

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

pub(super) const SOCKET_FILE: &str = "sock";
pub(super) const SHIM_FILE: &str = "shim.json";
pub(super) const EXIT_FILE: &str = "exit.json";
pub(super) const LOG_FILE: &str = "shim.log";

pub(super) fn create(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes a record atomically.
pub(super) fn write_json(dir: &Path, name: &str, record: &impl Serialize) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}"));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    serde_json::to_writer(&file, record)?;
    fs::rename(&temporary, dir.join(name))
}

/// Reads a record; `None` if the file does not exist.
pub(super) fn read_json<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    match fs::read(dir.join(name)) {
        Ok(text) => Ok(Some(
            serde_json::from_slice(&text).map_err(|error| crate::parse_errors::json_error(&error))?,
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the directory so that a process of another user can search it and read these files by the descriptor. The path
/// stays closed to that user, because the parent directories are.
pub(super) fn open_to_users(dir: &Path, files: &[&str]) -> io::Result<OwnedFd> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
    for name in files {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o644))?;
    }
    let dir_fd = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(dir)?;
    Ok(dir_fd.into())
}

/// Returns a short path of the socket for a directory of any length: a socket path has at most 107 bytes (unix(7)). The
/// path is valid while the descriptor is open.
pub(super) fn socket_path(dir: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let dir_fd = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_FILE}", dir_fd.as_raw_fd()));
    Ok((dir_fd.into(), path))
}
