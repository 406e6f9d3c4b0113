//! The archive as a file: its mode, owner, length and identity. [`crate::archive`] inspects its content.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// The metadata of an archive file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSnapshot {
    /// The path.
    pub path: PathBuf,
    /// The permission bits.
    pub mode: u32,
    /// The owner's uid.
    pub uid: u32,
    /// The number of names (hard links).
    pub links: u64,
    /// The length in bytes.
    pub length: u64,
    /// Device, inode and modification time. Device and inode show whether the path still names the same file, and the
    /// modification time whether the file was written again.
    pub identity: (u64, u64, i64, i64),
}

impl FileSnapshot {
    /// Reads the metadata of a file. Does not follow a symlink: its target is not the created archive.
    ///
    /// # Errors
    /// The file does not exist, is not a regular file, or its metadata cannot be read.
    pub fn read(path: &Path) -> io::Result<FileSnapshot> {
        let metadata = fs::symlink_metadata(path)?;
        if !metadata.is_file() {
            let kind = match metadata.file_type() {
                kind if kind.is_symlink() => "a symlink",
                kind if kind.is_dir() => "a directory",
                kind if kind.is_socket() || kind.is_fifo() => "a pipe or socket",
                _ => "a device",
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is {kind}")));
        }
        Ok(FileSnapshot {
            path: path.to_owned(),
            mode: metadata.permissions().mode() & 0o7777,
            uid: metadata.uid(),
            links: metadata.nlink(),
            length: metadata.len(),
            identity: (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    /// Whether the file is the same as before, except for further names.
    pub fn is_unchanged_since(&self, earlier: &FileSnapshot) -> bool {
        let FileSnapshot {
            path,
            mode,
            uid,
            links: _,
            length,
            identity,
        } = self;
        (path, mode, uid, length, identity)
            == (
                &earlier.path,
                &earlier.mode,
                &earlier.uid,
                &earlier.length,
                &earlier.identity,
            )
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
    fn another_name_does_not_change_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        std::fs::write(&path, "a").unwrap();
        let before = FileSnapshot::read(&path).unwrap();
        std::fs::hard_link(&path, directory.path().join("b.tar")).unwrap();
        let linked = FileSnapshot::read(&path).unwrap();
        assert_ne!(linked, before);
        assert!(linked.is_unchanged_since(&before));
        std::fs::write(&path, "longer").unwrap();
        assert!(!FileSnapshot::read(&path).unwrap().is_unchanged_since(&before));
    }

    #[test]
    fn rejects_a_symlink() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(FileSnapshot::read(&path).unwrap_err().to_string().contains("symlink"));
    }
}
