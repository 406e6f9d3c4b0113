//! The temporary folder of a run, which can be told from those of runs that were killed.
//!
//! ```text
//!  /tmp/checkpoint-conformance-XXXXXX/
//!    lock       held with flock(2) as long as the run lives: the kernel lets go of it, however the run ends
//!    ...
//! ```
//!
//! [`remove_dead`] removes the folders whose lock nobody holds; those without a lock are not ours and stay.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

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

/// Removes the folders in `parent` of runs that are no more; returns those that were removed, and those that could not be
/// with the reason. `before` is told each folder before it goes, while its lock is held.
pub(super) fn remove_dead(parent: &Path, before: impl Fn(&Path)) -> (Vec<PathBuf>, Vec<(PathBuf, std::io::Error)>) {
    let (mut removed, mut left) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // Not through a symlink: what it points at is not in this folder.
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let Ok(lock) = File::open(path.join(LOCK)) else {
            continue;
        };
        match lock.try_lock() {
            Ok(()) => {
                before(&path);
                match fs::remove_dir_all(&path) {
                    Ok(()) => removed.push(path),
                    Err(error) => left.push((path, error)),
                }
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => left.push((path, error)),
        }
    }
    (removed, left)
}

/// Removes the folders of dead runs where temporary folders are; returns their names.
///
/// # Errors
/// One cannot be removed; it is named, and the others are removed all the same.
pub(super) fn clean() -> Result<Vec<String>, TargetError> {
    let (removed, mut left) = remove_dead(&std::env::temp_dir(), |_| {});
    match left.pop() {
        Some((path, source)) => Err(TargetError::File { path, source }),
        None => Ok(removed.iter().map(|path| path.display().to_string()).collect()),
    }
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

        let (removed, left) = remove_dead(parent.path(), |_| {});
        assert_eq!((removed, left.len()), (vec![dead], 0));
        assert!(alive.path().is_dir() && foreign.is_dir() && other.is_dir());
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
