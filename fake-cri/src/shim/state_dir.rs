//! The folder that a shim and fake-cri share: what lies in it and how it is written.
//!
//! | file | written by | what |
//! |---|---|---|
//! | `sock` | shim | the socket of its messages |
//! | `shim.json` | shim | its own process, before it listens |
//! | `exit.json` | shim | how the container ended, once its log is complete |
//! | `shim.log` | shim | what it has to complain about; normally empty |
//! | `test-workload`, `test-workload.json` | shim | the name the test workload is started by, and its options |

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

/// Makes the folder, for its owner alone, unless it is there.
pub(super) fn create(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes a record that is there whole or not at all.
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

/// Reads a record; `None` when it is not there.
pub(super) fn read_json<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    match fs::read(dir.join(name)) {
        Ok(text) => Ok(Some(
            serde_json::from_slice(&text).map_err(|error| crate::parse_errors::json_error(&error))?,
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The folder's descriptor, by which a process of another user may look at the folder and read these files of it. By their path it
/// may not: the folders above stay closed to it.
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

/// The socket by a path that is short whatever the folder's is: a socket's name has room for 107 bytes (unix(7)). The path is
/// good as long as the descriptor is open.
pub(super) fn socket_path(dir: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let dir_fd = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_FILE}", dir_fd.as_raw_fd()));
    Ok((dir_fd.into(), path))
}
