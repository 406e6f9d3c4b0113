//! Real archives, damaged in every way, through the reader of what is to be restored: what `ci/fuzz` runs for a minute, here for a
//! few seconds.

use std::io::Read as _;

use cri_proto::criu::{
    Kind, decode_entries, decode_single, encode,
    message::{FileEntry, MmEntry},
};
use fake_cri::checkpoint::restorable;
use proptest::prelude::*;

#[path = "../../fuzz/input/corpus.rs"]
mod corpus;
#[path = "../../fuzz/input/headers.rs"]
mod headers;
#[path = "../../fuzz/holds/restore_reader.rs"]
mod holds;
#[path = "../../fuzz/input/memory.rs"]
mod memory;
#[path = "../../fuzz/input/mutation.rs"]
mod mutation;

/// An archive of one process that can be restored. The others are of a test program, which holds what cannot be.
fn program() -> Vec<u8> {
    corpus::of("fuzz/corpus/archive").swap_remove(2)
}

/// All of them, and as often the one that is looked at to its end.
fn archives() -> Vec<Vec<u8>> {
    let others = corpus::of("fuzz/corpus/archive");
    let mut archives = vec![program(); others.len()];
    archives.extend(others);
    archives
}

#[test]
fn the_corpus_holds() {
    memory::bound();
    for archive in archives() {
        holds::of(&archive);
    }
    // Else nothing would be broken in it that is not broken already.
    assert_eq!(holds::of(&program()), cfg!(target_arch = "x86_64"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn damaged_archives_hold(archive in mutation::mutated(archives()), summed: bool) {
        memory::bound();
        holds::of(&if summed { headers::summed(&archive) } else { archive });
    }
}

/// A file that a mapping names by a number of more than 32 bits was looked for as the last one there can be, and taken by what is
/// left of the number in a word.
#[test]
fn a_mapping_of_an_impossible_file_is_refused() {
    const UNKNOWN: u64 = 4711;
    let archive = program();
    let mut changed = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(&*archive).entries().expect("a tar") {
        let mut entry = entry.expect("a member");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("its bytes");
        if name.starts_with("checkpoint/mm-") {
            let mut mm: MmEntry = decode_single(&name, Kind::Mm, &content).expect("an address space");
            let of_file = mm.vmas.iter_mut().find(|vma| vma.status & 64 != 0);
            of_file.expect("the program itself").shmid = (1 << 32) + UNKNOWN;
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
        changed.append(&header, &*content).expect("a vector takes all");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("archive.tar");
    std::fs::write(&path, changed.into_inner().expect("a tar")).expect("written");
    let refused = restorable(&path, folder.path()).expect_err("there is no such file");
    assert!(refused.to_string().contains("is impossible"), "{refused}");
}
