//! Invariants of the restore reader for any input: it returns a result, leaves no files in its directory, and does not
//! change the archive.

use std::fs;

use fake_cri::checkpoint::check_restorable;

/// Returns whether the bytes are a restorable archive.
pub(crate) fn check(bytes: &[u8]) -> bool {
    let place = tempfile::tempdir().expect("a temporary directory");
    let (archive, folder) = (place.path().join("archive.tar"), place.path().join("folder"));
    fs::create_dir(&folder).expect("a new directory");
    fs::write(&archive, bytes).expect("the archive is writable");
    let answer = check_restorable(&archive, &folder);
    if let Err(error) = &answer {
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(
        fs::read_dir(&folder).expect("the directory is readable").count(),
        0,
        "{answer:?}"
    );
    assert_eq!(
        fs::metadata(&archive).expect("the archive exists").len(),
        bytes.len() as u64
    );
    answer.is_ok()
}
