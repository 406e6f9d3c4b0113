//! Invariants of the restore reader for any input: it returns a result, leaves no files in its directory, and does not
//! change the archive.

use std::fs;

use fake_cri::checkpoint::check_restorable;

/// Returns whether the bytes are a restorable archive.
pub(crate) fn check(bytes: &[u8]) -> bool {
    let place = tempfile::tempdir().expect("a temporary directory");
    let (archive, dir) = (place.path().join("archive.tar"), place.path().join("dir"));
    fs::create_dir(&dir).expect("a new directory");
    fs::write(&archive, bytes).expect("the archive is writable");
    let result = check_restorable(&archive, &dir);
    if let Err(error) = &result {
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(
        fs::read_dir(&dir).expect("the directory is readable").count(),
        0,
        "{result:?}"
    );
    assert_eq!(
        fs::metadata(&archive).expect("the archive exists").len(),
        bytes.len() as u64
    );
    result.is_ok()
}
