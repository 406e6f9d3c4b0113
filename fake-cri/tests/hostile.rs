//! Real archives, damaged in every way, through the reader of what is to be restored: what `ci/fuzz` runs for a minute, here for a
//! few seconds.

use std::io::Read as _;

use cri_proto::criu::{
    Kind, decode_entries, decode_single, encode,
    message::{FileEntry, MmEntry},
};
use fake_cri::checkpoint::check_restorable;
use proptest::prelude::*;

#[path = "../../fuzz/input/corpus.rs"]
mod corpus;
#[path = "../../fuzz/input/headers.rs"]
mod headers;
#[path = "../../fuzz/input/memory.rs"]
mod memory;
#[path = "../../fuzz/input/mutation.rs"]
mod mutation;
#[path = "../../fuzz/holds/restore_reader.rs"]
mod restore_reader;

/// An archive of one process that can be restored. The others are of a test restorable_archive, which holds what cannot be.
fn restorable_archive() -> Vec<u8> {
    corpus::of("fuzz/corpus/archive").swap_remove(2)
}

/// All of them, and as often the one that is looked at to its end.
fn archives() -> Vec<Vec<u8>> {
    let others = corpus::of("fuzz/corpus/archive");
    let mut archives = vec![restorable_archive(); others.len()];
    archives.extend(others);
    archives
}

#[test]
fn corpus_archives_are_handled() {
    memory::bound();
    for archive in archives() {
        restore_reader::of(&archive);
    }
    // Else nothing would be broken in it that is not broken already.
    assert_eq!(restore_reader::of(&restorable_archive()), cfg!(target_arch = "x86_64"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn damaged_archives_are_handled(archive in mutation::mutated(archives()), summed: bool) {
        memory::bound();
        restore_reader::of(&if summed { headers::summed(&archive) } else { archive });
    }
}

/// A file that a mapping names by a number of more than 32 bits was looked for as the last one there can be, and taken by what is
/// left of the number in a word.
#[test]
fn mapping_of_an_impossible_file_is_refused() {
    const UNKNOWN_FILE_ID: u64 = 4711;
    let archive = restorable_archive();
    let mut builder = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(&*archive).entries().expect("a tar") {
        let mut entry = entry.expect("a member");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("its bytes");
        if name.starts_with("checkpoint/mm-") {
            let mut mm: MmEntry = decode_single(&name, Kind::Mm, &content).expect("an address space");
            let file_mapping = mm.vmas.iter_mut().find(|vma| vma.status & 64 != 0);
            file_mapping.expect("the program itself").shmid = (1 << 32) + UNKNOWN_FILE_ID;
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
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("archive.tar");
    std::fs::write(&path, builder.into_inner().expect("a tar")).expect("written");
    let error = check_restorable(&path, dir.path()).expect_err("there is no such file");
    assert!(error.to_string().contains("invalid file id"), "{error}");
}
