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

use crate::{runtime::error::Error, unquoted};

/// The version of every file. A file of another version is refused.
const VERSION: u32 = 1;

/// A kind of object that has a file.
pub(crate) trait Object: Serialize + DeserializeOwned {
    /// Its folder below the state folder.
    const FOLDER: &'static str;

    /// Its id.
    fn id(&self) -> &str;
}

#[derive(serde::Serialize)]
struct Written<'a, T> {
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
    pub fn open(root: &Path) -> Result<Store, Error> {
        for folder in ["", "pods", "images", "containers"] {
            let path = root.join(folder);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(failed("create folder", &path))?;
        }
        // Canonical, because it stands in answers (ImageFsInfo) and on the command line of shims.
        let root = root.canonicalize().map_err(failed("resolve folder", root))?;
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Precondition(format!(
                    "state folder {root:?} is in use by another fake-cri"
                )));
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
        Ok(Store { root, _lock: lock })
    }

    /// The state folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A container's own folder.
    pub fn container(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(&id[..id.len().min(16)])
    }

    fn path<T: Object>(&self, id: &str) -> PathBuf {
        if T::FOLDER == "containers" {
            self.container(id).join("container.json")
        } else {
            self.root.join(T::FOLDER).join(id).with_extension("json")
        }
    }

    /// Writes an object's file.
    pub(crate) fn save<T: Object>(&self, object: &T) -> Result<(), Error> {
        let path = self.path::<T>(object.id());
        if T::FOLDER == "containers" {
            let folder = self.container(object.id());
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(failed("create folder", &folder))?;
        }
        write_json(
            &path,
            &Written {
                version: VERSION,
                object,
            },
        )
    }

    /// Removes an object's file; for a container its whole folder. What is not there is removed already.
    pub(crate) fn remove<T: Object>(&self, id: &str) -> Result<(), Error> {
        let path = self.path::<T>(id);
        let removed = if T::FOLDER == "containers" {
            fs::remove_dir_all(self.container(id))
        } else {
            fs::remove_file(&path)
        };
        absent_is_fine(removed).map_err(failed("remove", &path))
    }

    /// Reads all objects of a kind.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is of another version: it is named, and nothing is removed.
    pub(crate) fn load<T: Object>(&self) -> Result<Vec<T>, Error> {
        let folder = self.root.join(T::FOLDER);
        let mut objects = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))? {
            let entry = entry.map_err(failed("list", &folder))?.path();
            let path = if T::FOLDER == "containers" {
                entry.join("container.json")
            } else if entry.extension().is_some_and(|extension| extension == "json") {
                entry.clone()
            } else {
                // What a kill left beside its place.
                absent_is_fine(fs::remove_file(&entry)).map_err(failed("remove", &entry))?;
                continue;
            };
            match read_json(&path)? {
                Some(object) => objects.push(object),
                // A container's folder without its file: the container was never made whole, or is half removed.
                None => absent_is_fine(fs::remove_dir_all(&entry)).map_err(failed("remove", &entry))?,
            }
        }
        Ok(objects)
    }
}

/// Writes a file beside its place and renames it in.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let beside = path.with_extension("json.new");
    let write = || {
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        fs::rename(&beside, path)
    };
    write().map_err(failed("write", path))
}

/// Reads a file of [`VERSION`]; `None` when there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let parse = || -> Result<T, io::Error> {
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| unquoted::json(&error))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {}
            version => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("its version is {version:?}, this program knows {VERSION}"),
                ));
            }
        }
        serde_json::from_value(value).map_err(|error| unquoted::json(&error))
    };
    parse().map(Some).map_err(failed("read", path))
}

/// Takes "not there" for success: removal is idempotent.
pub(crate) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Names the file that an error of the operating system is about.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Store { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Thing {
        id: String,
        value: u32,
    }

    impl Object for Thing {
        const FOLDER: &'static str = "pods";

        fn id(&self) -> &str {
            &self.id
        }
    }

    fn thing() -> Thing {
        Thing {
            id: "a".repeat(64),
            value: 7,
        }
    }

    #[test]
    fn what_was_saved_is_loaded_and_leftovers_go() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.save(&thing()).unwrap();
        fs::write(folder.path().join("pods/b.json.new"), "{").unwrap();
        assert_eq!(store.load::<Thing>().unwrap(), [thing()]);
        assert_eq!(fs::read_dir(folder.path().join("pods")).unwrap().count(), 1);
        store.remove::<Thing>(&thing().id).unwrap();
        store.remove::<Thing>(&thing().id).unwrap();
        assert_eq!(store.load::<Thing>().unwrap(), []);
    }

    #[test]
    fn a_second_user_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _store = Store::open(folder.path()).unwrap();
        let error = Store::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("in use by another fake-cri"), "{error}");
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let path = folder.path().join("pods").join("a.json");
        fs::write(&path, r#"{"version": 2, "id": "a", "value": 1}"#).unwrap();
        let error = store.load::<Thing>().unwrap_err().to_string();
        assert!(error.contains("a.json") && error.contains("version"), "{error}");
        assert!(path.exists());
    }
}
