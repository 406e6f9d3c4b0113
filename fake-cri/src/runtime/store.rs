//! The state directory: one small JSON file per object, written to a temporary file and renamed.
//!
//! ```text
//! STATE/lock                      locked while a fake-cri uses the directory
//! STATE/pods/ID.json
//! STATE/images/ID.json
//! STATE/containers/ID16/container.json
//!                      /checkpoint.json   during a checkpoint: the temporary file to remove after a kill
//!                      /...               the files of the shim
//! ```
//!
//! The name of a container's directory is only the first 16 digits of its id, because the directory contains the shim's
//! socket and the path of a socket has at most 107 bytes (unix(7)). Ways to fail: another fake-cri holds the lock; a
//! file has an unknown version (an error, the file stays); the disk is full (the old file stays).

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{parse_errors, runtime::error::RuntimeError};

/// The version in every file. A file with another version is an error.
const STORE_VERSION: u32 = 1;

pub(crate) trait StoredObject: Serialize + DeserializeOwned {
    /// The subdirectory of the state directory.
    const DIR_NAME: &'static str;

    fn id(&self) -> &str;
}

#[derive(serde::Serialize)]
struct VersionedRecord<'a, T> {
    version: u32,
    #[serde(flatten)]
    object: &'a T,
}

/// The state directory, locked by this process.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens and locks a state directory. Creates the directory with mode 0700 if it does not exist.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` if another fake-cri holds the lock; `Store` if the directory cannot be created or locked.
    pub fn open(root: &Path) -> Result<Store, RuntimeError> {
        for dir_name in ["", "pods", "images", "containers"] {
            let path = root.join(dir_name);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(store_error("create directory", &path))?;
        }
        // Canonical, because the path appears in responses (ImageFsInfo) and on the command line of shims.
        let root = root.canonicalize().map_err(store_error("resolve directory", root))?;
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(store_error("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(RuntimeError::FailedPrecondition(format!(
                    "state directory {root:?} is in use by another fake-cri"
                )));
            }
            Err(TryLockError::Error(source)) => return Err(store_error("lock", &path)(source)),
        }
        Ok(Store { root, _lock: lock })
    }

    /// The canonical path of the state directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a container.
    pub fn container_dir(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(&id[..id.len().min(16)])
    }

    fn path<T: StoredObject>(&self, id: &str) -> PathBuf {
        if T::DIR_NAME == "containers" {
            self.container_dir(id).join("container.json")
        } else {
            self.root.join(T::DIR_NAME).join(id).with_extension("json")
        }
    }

    pub(crate) fn save<T: StoredObject>(&self, object: &T) -> Result<(), RuntimeError> {
        let path = self.path::<T>(object.id());
        if T::DIR_NAME == "containers" {
            let dir = self.container_dir(object.id());
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(store_error("create directory", &dir))?;
        }
        write_json(
            &path,
            &VersionedRecord {
                version: STORE_VERSION,
                object,
            },
        )
    }

    /// Removes the file of an object, or the whole directory of a container. Succeeds if it does not exist.
    pub(crate) fn remove<T: StoredObject>(&self, id: &str) -> Result<(), RuntimeError> {
        let path = self.path::<T>(id);
        let result = if T::DIR_NAME == "containers" {
            fs::remove_dir_all(self.container_dir(id))
        } else {
            fs::remove_file(&path)
        };
        ignore_not_found(result).map_err(store_error("remove", &path))
    }

    /// Reads all objects of a type and removes incomplete ones.
    ///
    /// # Errors
    ///
    /// `Store`, which names the file that cannot be read or has another version. That file is not removed.
    pub(crate) fn load<T: StoredObject>(&self) -> Result<Vec<T>, RuntimeError> {
        let dir = self.root.join(T::DIR_NAME);
        let mut objects = Vec::new();
        for entry in fs::read_dir(&dir).map_err(store_error("list", &dir))? {
            let entry = entry.map_err(store_error("list", &dir))?.path();
            let path = if T::DIR_NAME == "containers" {
                entry.join("container.json")
            } else if entry.extension().is_some_and(|extension| extension == "json") {
                entry.clone()
            } else {
                // A temporary file of a write that was interrupted by a kill.
                ignore_not_found(fs::remove_file(&entry)).map_err(store_error("remove", &entry))?;
                continue;
            };
            match read_json(&path)? {
                Some(object) => objects.push(object),
                // A container's directory without its file: the creation or the removal was interrupted.
                None => ignore_not_found(fs::remove_dir_all(&entry)).map_err(store_error("remove", &entry))?,
            }
        }
        Ok(objects)
    }
}

/// Writes a temporary file and renames it, so that the file at `path` is always complete.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), RuntimeError> {
    let temporary = path.with_extension("json.new");
    let write = || {
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        fs::rename(&temporary, path)
    };
    write().map_err(store_error("write", path))
}

/// Reads a file of version [`STORE_VERSION`]. Returns `None` if the file does not exist.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RuntimeError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(store_error("read", path)(error)),
    };
    let parse = || -> Result<T, io::Error> {
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| parse_errors::json_error(&error))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(STORE_VERSION) => {}
            version => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("unsupported version {version:?}: must be {STORE_VERSION}"),
                ));
            }
        }
        serde_json::from_value(value).map_err(|error| parse_errors::json_error(&error))
    };
    parse().map(Some).map_err(store_error("read", path))
}

/// Maps the error NotFound to success, because removal is idempotent.
pub(crate) fn ignore_not_found(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

pub(crate) fn store_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.to_owned();
    move |source| RuntimeError::Store { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct TestObject {
        id: String,
        value: u32,
    }

    impl StoredObject for TestObject {
        const DIR_NAME: &'static str = "pods";

        fn id(&self) -> &str {
            &self.id
        }
    }

    fn test_object() -> TestObject {
        TestObject {
            id: "a".repeat(64),
            value: 7,
        }
    }

    #[test]
    fn loads_saved_objects_and_removes_temporaries() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&test_object()).unwrap();
        fs::write(dir.path().join("pods/b.json.new"), "{").unwrap();
        assert_eq!(store.load::<TestObject>().unwrap(), [test_object()]);
        assert_eq!(fs::read_dir(dir.path().join("pods")).unwrap().count(), 1);
        store.remove::<TestObject>(&test_object().id).unwrap();
        store.remove::<TestObject>(&test_object().id).unwrap();
        assert_eq!(store.load::<TestObject>().unwrap(), []);
    }

    #[test]
    fn a_locked_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _store = Store::open(dir.path()).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("in use by another fake-cri"), "{error}");
    }

    #[test]
    fn an_unknown_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = dir.path().join("pods").join("a.json");
        fs::write(&path, r#"{"version": 2, "id": "a", "value": 1}"#).unwrap();
        let error = store.load::<TestObject>().unwrap_err().to_string();
        assert!(error.contains("a.json") && error.contains("version"), "{error}");
        assert!(path.exists());
    }
}
