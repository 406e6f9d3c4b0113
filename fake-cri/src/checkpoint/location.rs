//! The location of an archive: which files it may replace, and the rename of the archive to it.
//!
//! An archive replaces a regular file or nothing. A device, FIFO, socket, symlink or directory is refused: by the
//! runtime before it sends the job, by the engine before the freeze, and again at the rename, so that a node that
//! appeared meanwhile keeps its name.
//!
//! ```text
//! no file           renameat2(RENAME_NOREPLACE): atomic, never replaces
//! a file            renameat2(RENAME_EXCHANGE), then check the replaced file: a regular file is removed,
//!                   anything else is exchanged back and the checkpoint fails
//! ```
//!
//! Filesystems without these flags (EINVAL) use link(2) for the first and, after another check, rename(2) for the
//! second.

use std::{
    fs::{self, FileType},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
    sys::statvfs::statvfs,
};

/// The maximum length of a path in a system call, without its NUL (`PATH_MAX`, limits.h).
const MAX_PATH_BYTES: usize = libc::PATH_MAX as usize - 1;

/// The length of the name of a temporary, which is in the directory of its archive.
pub(crate) const TEMPORARY_NAME_BYTES: usize = ".0123456789abcdef.partial".len();

/// Why an archive cannot be at a location.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocationError {
    /// The path is occupied by something other than a regular file.
    #[error("checkpoint location {path:?} is {kind}: an archive replaces only a regular file; use another path")]
    Occupied {
        /// The location.
        path: PathBuf,
        /// The file type, with its article.
        kind: &'static str,
    },
    /// The file name is longer than its filesystem allows.
    #[error("checkpoint location {path:?}: the file name is too long, {bytes} bytes of at most {limit}")]
    NameTooLong {
        /// The location.
        path: PathBuf,
        /// Bytes of the file name.
        bytes: usize,
        /// The limit of the filesystem.
        limit: usize,
    },
    /// The path of the archive or of its temporary is longer than the kernel allows.
    #[error("checkpoint location {path:?}: the path is too long, {bytes} bytes of at most {MAX_PATH_BYTES}")]
    PathTooLong {
        /// The location.
        path: PathBuf,
        /// Bytes of the path, or of the temporary's path if that is longer.
        bytes: usize,
    },
    /// The location cannot be read.
    #[error("checkpoint location {path:?}: {source}")]
    Unreadable {
        /// The location.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

/// Checks that an archive can be renamed to this absolute path, whose directory exists.
///
/// # Errors
///
/// [`LocationError`]: the path is not a regular file, or a name is too long.
pub(crate) fn check(location: &Path) -> Result<(), LocationError> {
    let path = || location.to_owned();
    let name_bytes = location.file_name().map_or(0, std::ffi::OsStr::len);
    let parent = location.parent().unwrap_or(Path::new("/"));
    // The temporary must fit as well. One byte is the slash before the name.
    let path_bytes = parent.as_os_str().len() + 1 + name_bytes.max(TEMPORARY_NAME_BYTES);
    if path_bytes > MAX_PATH_BYTES {
        return Err(LocationError::PathTooLong {
            path: path(),
            bytes: path_bytes,
        });
    }
    let limit = statvfs(parent).map_or(255, |info| usize::try_from(info.name_max()).unwrap_or(usize::MAX));
    if name_bytes > limit {
        return Err(LocationError::NameTooLong {
            path: path(),
            bytes: name_bytes,
            limit,
        });
    }
    match fs::symlink_metadata(location) {
        Ok(metadata) => check_regular_file(location, metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(LocationError::Unreadable { path: path(), source }),
    }
}

/// Renames a temporary to its location, which must be a regular file or absent.
pub(crate) fn rename_into_place(temporary: &Path, location: &Path) -> Result<(), LocationError> {
    rename_into_place_with(temporary, location, |flags| {
        renameat2(AT_FDCWD, temporary, AT_FDCWD, location, flags)
    })
}

fn rename_into_place_with(
    temporary: &Path,
    location: &Path,
    rename: impl Fn(RenameFlags) -> nix::Result<()>,
) -> Result<(), LocationError> {
    let unreadable = |source: io::Error| LocationError::Unreadable {
        path: location.to_owned(),
        source,
    };
    // Another round is needed only if the file disappeared between two calls.
    for _ in 0..16 {
        match rename(RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EEXIST) => {}
            Err(Errno::EINVAL | Errno::ENOSYS) => match fs::hard_link(temporary, location) {
                Ok(()) => return fs::remove_file(temporary).map_err(unreadable),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // No hard links either (FAT, some FUSE filesystems).
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS)
                    ) =>
                {
                    check(location)?;
                    return fs::rename(temporary, location).map_err(unreadable);
                }
                Err(error) => return Err(unreadable(error)),
            },
            Err(errno) => return Err(unreadable(errno.into())),
        }
        check(location)?;
        match rename(RenameFlags::RENAME_EXCHANGE) {
            Ok(()) => {
                // The replaced file has the temporary's name now.
                let displaced = fs::symlink_metadata(temporary).map_err(unreadable)?;
                let Err(error) = check_regular_file(location, displaced.file_type()) else {
                    return fs::remove_file(temporary).map_err(unreadable);
                };
                return match rename(RenameFlags::RENAME_EXCHANGE) {
                    Ok(()) => Err(error),
                    Err(errno) => Err(unreadable(errno.into())),
                };
            }
            Err(Errno::ENOENT) => {}
            Err(Errno::EINVAL | Errno::ENOSYS) => return fs::rename(temporary, location).map_err(unreadable),
            Err(errno) => return Err(unreadable(errno.into())),
        }
    }
    Err(unreadable(io::Error::other(
        "other processes keep creating and removing files at the location",
    )))
}

/// Removes a file by its name if the name still refers to the open file. A file that another process put there stays.
pub(crate) fn remove_if_same_file(path: &Path, file: &fs::File) -> io::Result<()> {
    let (opened_metadata, current_metadata) = (file.metadata()?, fs::symlink_metadata(path)?);
    match (opened_metadata.dev(), opened_metadata.ino()) == (current_metadata.dev(), current_metadata.ino()) {
        true => fs::remove_file(path),
        false => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the path refers to another file now",
        )),
    }
}

fn check_regular_file(location: &Path, kind: FileType) -> Result<(), LocationError> {
    let kind = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a symlink",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_block_device() => "a block device",
        _ => "not a regular file",
    };
    Err(LocationError::Occupied {
        path: location.to_owned(),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, os::unix::fs::symlink};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    /// A directory with a temporary that contains `archive`, and the two paths.
    fn test_directory() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let (temporary, location) = (
            directory.path().join(".0123456789abcdef.partial"),
            directory.path().join("a.tar"),
        );
        fs::write(&temporary, "archive").unwrap();
        (directory, temporary, location)
    }

    fn fifo(path: &Path) {
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    }

    fn is_fifo(path: &Path) -> bool {
        fs::symlink_metadata(path).unwrap().file_type().is_fifo()
    }

    #[test]
    fn replaces_nothing_or_a_regular_file() {
        let (directory, temporary, location) = test_directory();
        check(&location).unwrap();
        rename_into_place(&temporary, &location).unwrap();
        fs::write(&temporary, "second").unwrap();
        check(&location).unwrap();
        rename_into_place(&temporary, &location).unwrap();
        assert_eq!(fs::read_to_string(&location).unwrap(), "second");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn refuses_every_other_file_type() {
        let (directory, temporary, location) = test_directory();
        let target = directory.path().join("target");
        fs::write(&target, "kept").unwrap();
        type CreateNode<'a> = Box<dyn Fn() + 'a>;
        let kinds: [(&str, CreateNode<'_>); 4] = [
            ("a FIFO", Box::new(|| fifo(&location))),
            ("a symlink", Box::new(|| symlink(&target, &location).unwrap())),
            (
                "a socket",
                Box::new(|| drop(std::os::unix::net::UnixListener::bind(&location).unwrap())),
            ),
            ("a directory", Box::new(|| fs::create_dir(&location).unwrap())),
        ];
        for (kind, make) in kinds {
            make();
            let before = fs::symlink_metadata(&location).unwrap();
            for refused in [check(&location), rename_into_place(&temporary, &location)] {
                let message = refused.unwrap_err().to_string();
                assert!(message.contains(kind) && message.contains("a.tar"), "{message}");
            }
            let after = fs::symlink_metadata(&location).unwrap();
            assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()), "{kind}");
            match kind {
                "a directory" => fs::remove_dir(&location).unwrap(),
                _ => fs::remove_file(&location).unwrap(),
            }
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        assert_eq!(fs::read_to_string(&temporary).unwrap(), "archive");
    }

    #[test]
    fn a_raced_fifo_is_exchanged_back() {
        let (_directory, temporary, location) = test_directory();
        fs::write(&location, "former").unwrap();
        let swapped = Cell::new(false);
        let error = rename_into_place_with(&temporary, &location, |flags| {
            if flags == RenameFlags::RENAME_EXCHANGE && !swapped.replace(true) {
                fs::remove_file(&location).unwrap();
                fifo(&location);
            }
            renameat2(AT_FDCWD, &temporary, AT_FDCWD, &location, flags)
        })
        .unwrap_err();
        assert!(error.to_string().contains("a FIFO"), "{error}");
        assert!(is_fifo(&location));
        assert_eq!(fs::read_to_string(&temporary).unwrap(), "archive");
    }

    #[test]
    fn works_without_rename_flags() {
        let (directory, temporary, location) = test_directory();
        let no_rename_flags = |_| Err(Errno::EINVAL);
        rename_into_place_with(&temporary, &location, no_rename_flags).unwrap();
        fs::write(&temporary, "second").unwrap();
        rename_into_place_with(&temporary, &location, no_rename_flags).unwrap();
        assert_eq!(fs::read_to_string(&location).unwrap(), "second");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        fs::write(&temporary, "third").unwrap();
        fs::remove_file(&location).unwrap();
        fifo(&location);
        rename_into_place_with(&temporary, &location, no_rename_flags).unwrap_err();
        assert!(is_fifo(&location));
    }

    #[test]
    fn too_long_names_report_both_lengths() {
        let directory = tempfile::tempdir().unwrap();
        check(&directory.path().join("n".repeat(255))).unwrap();
        let message = check(&directory.path().join("n".repeat(256))).unwrap_err().to_string();
        assert!(message.contains("256 bytes of at most 255"), "{message}");
        let mut deep = directory.path().to_owned();
        while deep.as_os_str().len() < MAX_PATH_BYTES - 20 {
            deep.push("d".repeat(200.min(MAX_PATH_BYTES - 11 - deep.as_os_str().len())));
        }
        // The archive's own path fits, the temporary's does not.
        let message = check(&deep.join("a.tar")).unwrap_err().to_string();
        assert!(message.contains("path is too long"), "{message}");
    }

    #[test]
    fn a_replaced_file_is_not_removed() {
        let (_directory, temporary, _) = test_directory();
        let file = fs::File::open(&temporary).unwrap();
        fs::remove_file(&temporary).unwrap();
        fs::write(&temporary, "somebody's").unwrap();
        remove_if_same_file(&temporary, &file).unwrap_err();
        assert_eq!(fs::read_to_string(&temporary).unwrap(), "somebody's");
    }
}
