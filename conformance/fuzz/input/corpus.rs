//! The valid inputs from which hostile inputs are derived.

use std::{fs, path::Path};

/// Reads all files of a directory of this repository.
pub(crate) fn read(dir: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(dir);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a directory entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    paths
        .iter()
        .map(|path| fs::read(path).expect("a readable file"))
        .collect()
}
