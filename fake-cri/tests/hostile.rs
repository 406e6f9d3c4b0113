//! Reads damaged archives with the restore reader: a short run of the `ci/fuzz` targets.

use std::io::Read as _;

use cri_proto::criu::{
    Kind, decode_entries, decode_single, encode,
    message::{FileEntry, MmEntry},
};
use fake_cri::checkpoint::check_restorable;
use proptest::prelude::*;

#[path = "../../conformance/fuzz/input/corpus.rs"]
mod corpus;
#[path = "../../conformance/fuzz/input/headers.rs"]
mod headers;
#[path = "../../conformance/fuzz/input/memory.rs"]
mod memory;
#[path = "../../conformance/fuzz/input/mutation.rs"]
mod mutation;
#[path = "../../conformance/fuzz/invariants/restore_reader.rs"]
mod restore_reader;

/// A restorable archive of one process. The other archives of the corpus have unsupported state.
fn restorable_archive() -> Vec<u8> {
    corpus::read("conformance/fuzz/corpus/archive").swap_remove(2)
}

/// All archives. Half of the list is the restorable archive, whose images are all read.
fn archives() -> Vec<Vec<u8>> {
    let others = corpus::read("conformance/fuzz/corpus/archive");
    let mut archives = vec![restorable_archive(); others.len()];
    archives.extend(others);
    archives
}

#[test]
fn corpus_archives_are_handled() {
    memory::bound();
    for archive in archives() {
        restore_reader::check(&archive);
    }
    // If the archive were not restorable, mutations would not reach most checks.
    assert_eq!(
        restore_reader::check(&restorable_archive()),
        cfg!(target_arch = "x86_64")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn damaged_archives_are_handled(archive in mutation::mutated(archives()), summed: bool) {
        memory::bound();
        restore_reader::check(&if summed { headers::with_checksums(&archive) } else { archive });
    }
}

/// Regression: a file id above 32 bits was truncated, and the mapping then got another file.
#[test]
fn mapping_of_an_impossible_file_is_refused() {
    const UNKNOWN_FILE_ID: u64 = 4711;
    let archive = restorable_archive();
    let mut builder = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(&*archive).entries().expect("a tar") {
        let mut entry = entry.expect("a member");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("a readable member");
        if name.starts_with("checkpoint/mm-") {
            let mut mm: MmEntry = decode_single(&name, Kind::Mm, &content).expect("an address space");
            let file_mapping = mm.vmas.iter_mut().find(|vma| vma.status & 64 != 0);
            file_mapping.expect("the fake-cri executable").shmid = (1 << 32) + UNKNOWN_FILE_ID;
            content = encode(Kind::Mm, [&mm]);
        }
        if name == "checkpoint/files.img" {
            let mut files: Vec<FileEntry> = decode_entries(&name, Kind::Files, &content).expect("open files");
            let last = FileEntry {
                id: u32::MAX,
                ..files[0].clone()
            };
            files.push(last);
            content = encode(Kind::Files, &files);
        }
        let mut header = entry.header().clone();
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, &*content).expect("a vector takes all");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("archive.tar");
    std::fs::write(&path, builder.into_inner().expect("a tar")).expect("the file is writable");
    let error = check_restorable(&path, dir.path()).expect_err("a missing file");
    assert!(error.to_string().contains("invalid file id"), "{error}");
}
