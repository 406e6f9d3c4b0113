//! The state folder: one small JSON file an object, each written beside its place and renamed in.
//!
//! ```text
//! STATE/lock                      held while a fake-cri uses the folder
//! STATE/pods/ID.json
//! STATE/images/ID.json
//! STATE/containers/ID16/container.json
//!                      /checkpoint.json   while a checkpoint is being written: what to remove after a kill
//!                      /...               the shim's own files
//! ```
//!
//! A container's folder carries the first 16 digits of its id, because the shim's socket lies in it and the path of a
//! socket may have 107 bytes. Ways to fail: the folder is another fake-cri's (the lock is held), a file is of a version
//! that this program does not know (an error, nothing is thrown away), the disk is full (the old file stays).

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{parse_errors, runtime::error::RuntimeError};

/// The version of every file. A file of another version is refused.
const STORE_VERSION: u32 = 1;

/// A kind of object that has a file.
pub(crate) trait StoredObject: Serialize + DeserializeOwned {
    /// Its folder below the state folder.
    const DIR_NAME: &'static str;

    /// Its id.
    fn id(&self) -> &str;
}

#[derive(serde::Serialize)]
struct VersionedRecord<'a, T> {
    version: u32,
    #[serde(flatten)]
    object: &'a T,
}

/// The state folder, locked for this process.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens and locks a state folder, making it (0700) where it is missing.
    ///
    /// # Errors
    ///
    /// `Precondition` when another fake-cri holds it; `Store` when it cannot be made or written.
    pub fn open(root: &Path) -> Result<Store, RuntimeError> {
        for dir_name in ["", "pods", "images", "containers"] {
            let path = root.join(dir_name);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(store_error("create folder", &path))?;
        }
        // Canonical, because it stands in answers (ImageFsInfo) and on the command line of shims.
        let root = root.canonicalize().map_err(store_error("resolve folder", root))?;
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
                    "state folder {root:?} is in use by another fake-cri"
                )));
            }
            Err(TryLockError::Error(source)) => return Err(store_error("lock", &path)(source)),
        }
        Ok(Store { root, _lock: lock })
    }

    /// The state folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A container's own folder.
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

    /// Writes an object's file.
    pub(crate) fn save<T: StoredObject>(&self, object: &T) -> Result<(), RuntimeError> {
        let path = self.path::<T>(object.id());
        if T::DIR_NAME == "containers" {
            let dir = self.container_dir(object.id());
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(store_error("create folder", &dir))?;
        }
        write_json(
            &path,
            &VersionedRecord {
                version: STORE_VERSION,
                object,
            },
        )
    }

    /// Removes an object's file; for a container its whole folder. What is not there is removed already.
    pub(crate) fn remove<T: StoredObject>(&self, id: &str) -> Result<(), RuntimeError> {
        let path = self.path::<T>(id);
        let result = if T::DIR_NAME == "containers" {
            fs::remove_dir_all(self.container_dir(id))
        } else {
            fs::remove_file(&path)
        };
        ignore_not_found(result).map_err(store_error("remove", &path))
    }

    /// Reads all objects of a kind.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is of another version: it is named, and nothing is removed.
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
                // What a kill left beside its place.
                ignore_not_found(fs::remove_file(&entry)).map_err(store_error("remove", &entry))?;
                continue;
            };
            match read_json(&path)? {
                Some(object) => objects.push(object),
                // A container's folder without its file: the container was never made whole, or is half removed.
                None => ignore_not_found(fs::remove_dir_all(&entry)).map_err(store_error("remove", &entry))?,
            }
        }
        Ok(objects)
    }
}

/// Writes a file beside its place and renames it in.
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

/// Reads a file of [`STORE_VERSION`]; `None` when there is none.
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
                    format!("its version is {version:?}, this program knows {STORE_VERSION}"),
                ));
            }
        }
        serde_json::from_value(value).map_err(|error| parse_errors::json_error(&error))
    };
    parse().map(Some).map_err(store_error("read", path))
}

/// Takes "not there" for success: removal is idempotent.
pub(crate) fn ignore_not_found(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Names the file that an error of the operating system is about.
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
