//! The temporary folder of a run, which can be told from those of runs that were killed.
//!
//! ```text
//!  /tmp/checkpoint-conformance-XXXXXX/
//!    lock       held with flock(2) as long as the run lives: the kernel lets go of it, however the run ends
//!    ...
//! ```
//!
//! [`dead`] finds the folders whose lock nobody holds; those without a lock, or of another user,
//! are not ours and stay.

use std::{
    fs::{self, File},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use tempfile::TempDir;

use super::TargetError;

/// How the name of every such folder begins.
const PREFIX: &str = "checkpoint-conformance-";
const LOCK: &str = "lock";

/// A temporary folder, 0700; dropped, it is removed with all that is in it.
#[derive(Debug)]
pub(super) struct Folder {
    folder: TempDir,
    // Held until the folder is gone.
    _lock: File,
}

impl Folder {
    /// Makes one in `parent`, or where temporary folders are.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn make(parent: Option<&Path>) -> Result<Folder, TargetError> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&parent)
            .map_err(TargetError::file(&parent))?;
        let path = folder.path().join(LOCK);
        let lock = File::create(&path).map_err(TargetError::file(&path))?;
        lock.lock().map_err(TargetError::file(&path))?;
        Ok(Folder { folder, _lock: lock })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where something in it is, or is to be.
    pub(super) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file in it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&self, name: &str, content: &str) -> Result<(), TargetError> {
        let path = self.at(name);
        fs::write(&path, content).map_err(TargetError::file(path))
    }

    /// Removes it with all that is in it, before it is dropped: to know that it has gone.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub(super) fn remove(&self) -> Result<(), TargetError> {
        fs::remove_dir_all(self.path()).map_err(TargetError::file(self.path()))
    }

    /// Makes a folder in it, 0700.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn below(&self, name: &str) -> Result<PathBuf, TargetError> {
        let path = self.path().join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(TargetError::file(&path))?;
        Ok(path)
    }
}

/// The folder of a run that is no more. Its lock is held meanwhile, so that nobody else clears it away.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) path: PathBuf,
    _lock: File,
}

impl Dead {
    /// Removes it; returns where it was.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(super) fn remove(self) -> Result<PathBuf, TargetError> {
        fs::remove_dir_all(&self.path).map_err(TargetError::file(&self.path))?;
        Ok(self.path)
    }
}

/// The folders in `parent` of runs that are no more, and were of this user: what another user laid there is not to be
/// believed, least of all by root.
pub(super) fn dead(parent: &Path) -> Vec<Dead> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // `DirEntry::metadata` does not follow a symlink: what it points at is not in this folder.
        let of_this_user = |found: fs::Metadata| found.is_dir() && found.uid() == geteuid().as_raw();
        if !ours || !entry.metadata().is_ok_and(of_this_user) {
            continue;
        }
        if let Ok(lock) = File::open(path.join(LOCK))
            && lock.try_lock().is_ok()
        {
            found.push(Dead { path, _lock: lock });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_folders_of_dead_runs_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let alive = Folder::make(Some(parent.path())).unwrap();
        let dead = parent.path().join("checkpoint-conformance-dead");
        let foreign = parent.path().join("checkpoint-conformance-without-lock");
        let other = parent.path().join("other");
        for folder in [&dead, &foreign, &other] {
            fs::create_dir_all(folder.join("archives")).unwrap();
        }
        fs::write(dead.join(LOCK), "").unwrap();
        fs::write(other.join(LOCK), "").unwrap();

        let removed: Vec<_> = super::dead(parent.path())
            .into_iter()
            .map(|dead| dead.remove().unwrap())
            .collect();
        assert_eq!(removed, [dead]);
        assert!(alive.path().is_dir() && foreign.is_dir() && other.is_dir());
    }

    #[test]
    fn what_another_user_laid_there_stays() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can give a folder away");
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let planted = parent.path().join("checkpoint-conformance-planted");
        fs::create_dir(&planted).unwrap();
        fs::write(planted.join(LOCK), "").unwrap();
        assert_eq!(super::dead(parent.path()).len(), 1);
        std::os::unix::fs::chown(&planted, Some(65534), None).unwrap();
        assert!(super::dead(parent.path()).is_empty());
    }

    #[test]
    fn it_goes_when_it_is_dropped() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::make(Some(parent.path())).unwrap();
        folder.below("archives").unwrap();
        drop(folder);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
