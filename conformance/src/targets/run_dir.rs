//! The temporary directory of a run, locked so that a later run can recognise the directories of killed runs.
//!
//! ```text
//!  /tmp/checkpoint-conformance-XXXXXX/
//!    lock       locked with flock(2) for the life of the run; the kernel releases the lock however the run ends
//!    ...
//! ```
//!
//! [`stale_run_dirs`] returns the directories whose lock is free. A directory without a lock file, or of another user,
//! is not from a run of this user and stays.

use std::{
    fs::{self, File},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use tempfile::TempDir;

use super::TargetError;

const RUN_DIR_PREFIX: &str = "checkpoint-conformance-";
const LOCK_FILE: &str = "lock";

/// A temporary directory of mode 0700. The drop removes it with its content.
#[derive(Debug)]
pub(super) struct RunDir {
    dir: TempDir,
    // Locked until the directory is removed.
    _lock: File,
}

impl RunDir {
    /// Creates a directory in `parent`, or in the system's temporary directory.
    pub(super) fn create(parent: Option<&Path>) -> Result<RunDir, TargetError> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let dir = tempfile::Builder::new()
            .prefix(RUN_DIR_PREFIX)
            .tempdir_in(&parent)
            .map_err(TargetError::file(&parent))?;
        let path = dir.path().join(LOCK_FILE);
        let lock = File::create(&path).map_err(TargetError::file(&path))?;
        lock.lock().map_err(TargetError::file(&path))?;
        Ok(RunDir { dir, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn path_of(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    pub(super) fn write(&self, name: &str, content: &str) -> Result<(), TargetError> {
        let path = self.path_of(name);
        fs::write(&path, content).map_err(TargetError::file(path))
    }

    /// Removes the directory before the drop does, which ignores errors.
    pub(super) fn remove(&self) -> Result<(), TargetError> {
        fs::remove_dir_all(self.path()).map_err(TargetError::file(self.path()))
    }

    /// Creates a subdirectory of mode 0700.
    pub(super) fn create_subdir(&self, name: &str) -> Result<PathBuf, TargetError> {
        let path = self.path().join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(TargetError::file(&path))?;
        Ok(path)
    }
}

/// The directory of a killed run. Its lock is held so that no other process removes the directory at the same time.
#[derive(Debug)]
pub(super) struct StaleRunDir {
    pub(super) path: PathBuf,
    _lock: File,
}

impl StaleRunDir {
    pub(super) fn remove(self) -> Result<PathBuf, TargetError> {
        fs::remove_dir_all(&self.path).map_err(TargetError::file(&self.path))?;
        Ok(self.path)
    }
}

/// The directories of killed runs in `parent` that belong to this user. Another user could have prepared such a
/// directory, and a cleanup as root would act on its files.
pub(super) fn stale_run_dirs(parent: &Path) -> Vec<StaleRunDir> {
    let mut stale = Vec::new();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let has_prefix = entry.file_name().to_string_lossy().starts_with(RUN_DIR_PREFIX);
        // `DirEntry::metadata` does not follow symlinks. The target of a symlink is not in this directory.
        let is_own_dir = |metadata: fs::Metadata| metadata.is_dir() && metadata.uid() == geteuid().as_raw();
        if !has_prefix || !entry.metadata().is_ok_and(is_own_dir) {
            continue;
        }
        if let Ok(lock) = File::open(path.join(LOCK_FILE))
            && lock.try_lock().is_ok()
        {
            stale.push(StaleRunDir { path, _lock: lock });
        }
    }
    stale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_only_stale_run_dirs() {
        let parent = tempfile::tempdir().unwrap();
        let live = RunDir::create(Some(parent.path())).unwrap();
        let dead = parent.path().join("checkpoint-conformance-dead");
        let without_lock = parent.path().join("checkpoint-conformance-without-lock");
        let other = parent.path().join("other");
        for dir in [&dead, &without_lock, &other] {
            fs::create_dir_all(dir.join("archives")).unwrap();
        }
        fs::write(dead.join(LOCK_FILE), "").unwrap();
        fs::write(other.join(LOCK_FILE), "").unwrap();

        let removed: Vec<_> = super::stale_run_dirs(parent.path())
            .into_iter()
            .map(|dead| dead.remove().unwrap())
            .collect();
        assert_eq!(removed, [dead]);
        assert!(live.path().is_dir() && without_lock.is_dir() && other.is_dir());
    }

    #[test]
    fn keeps_directories_of_other_users() {
        if !geteuid().is_root() {
            eprintln!("skipped: changing the owner of a directory needs root");
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let foreign = parent.path().join("checkpoint-conformance-planted");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join(LOCK_FILE), "").unwrap();
        assert_eq!(super::stale_run_dirs(parent.path()).len(), 1);
        std::os::unix::fs::chown(&foreign, Some(65534), None).unwrap();
        assert!(super::stale_run_dirs(parent.path()).is_empty());
    }

    #[test]
    fn is_removed_on_drop() {
        let parent = tempfile::tempdir().unwrap();
        let dir = RunDir::create(Some(parent.path())).unwrap();
        dir.create_subdir("archives").unwrap();
        drop(dir);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
