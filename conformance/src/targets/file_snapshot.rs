//! The archive as a file: who may read it, how long it is, whether it is still the same one. Its content is the archive
//! room's.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// One file on disk that is said to be an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSnapshot {
    /// Where it is.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its length in bytes.
    pub length: u64,
    /// Which file it is: device and inode tell whether a name stands for the same file as before, and the time of its last
    /// change whether that was written again.
    pub identity: (u64, u64, i64, i64),
}

impl FileSnapshot {
    /// Looks at a path. A symlink is not followed: what it points at is not what was made here.
    ///
    /// # Errors
    /// There is no file, it is not a regular one, or it cannot be looked at.
    pub fn read(path: &Path) -> io::Result<FileSnapshot> {
        let metadata = fs::symlink_metadata(path)?;
        if !metadata.is_file() {
            let kind = match metadata.file_type() {
                kind if kind.is_symlink() => "a symlink",
                kind if kind.is_dir() => "a folder",
                kind if kind.is_socket() || kind.is_fifo() => "a pipe or socket",
                _ => "a device",
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is {kind}")));
        }
        Ok(FileSnapshot {
            path: path.to_owned(),
            mode: metadata.permissions().mode() & 0o7777,
            uid: metadata.uid(),
            length: metadata.len(),
            identity: (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mode_owner_and_length() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let snapshot = FileSnapshot::read(file.path()).unwrap();
        let owner = nix::unistd::geteuid().as_raw();
        assert_eq!((snapshot.mode, snapshot.uid, snapshot.length), (0o600, owner, 0));
    }

    #[test]
    fn rejects_a_symlink() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(FileSnapshot::read(&path).unwrap_err().to_string().contains("symlink"));
    }
}
