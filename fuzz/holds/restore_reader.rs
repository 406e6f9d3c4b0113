//! What holds of the reader of archives that are to be restored, whatever the bytes are: it says whether they can be, leaves nothing
//! in its folder, and the archive as it was.

use std::fs;

use fake_cri::checkpoint::check_restorable;

/// Asks whether the bytes could be restored; answers whether they could.
pub(crate) fn of(bytes: &[u8]) -> bool {
    let place = tempfile::tempdir().expect("a folder");
    let (archive, folder) = (place.path().join("archive.tar"), place.path().join("folder"));
    fs::create_dir(&folder).expect("a folder");
    fs::write(&archive, bytes).expect("written");
    let answer = check_restorable(&archive, &folder);
    if let Err(error) = &answer {
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 0, "{answer:?}");
    assert_eq!(fs::metadata(&archive).expect("a file").len(), bytes.len() as u64);
    answer.is_ok()
}
