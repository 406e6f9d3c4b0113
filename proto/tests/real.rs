//! Decodes images that CRIU wrote.

use std::{fs, path::Path};

use cri_proto::criu::{
    Decoder, Encoder, Entries, ImageFile, Kind, decode_single,
    message::{
        CoreEntry, FdinfoEntry, FileEntry, FsEntry, InventoryEntry, MmEntry, PagemapEntry, PagemapHead, PstreeEntry,
        SeccompEntry, StatsEntry, TaskKobjIdsEntry, TimensEntry,
    },
    walk,
};
use prost::Message;
use rstest::rstest;

fn image(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Decodes and re-encodes all entries.
fn reencode<M: Message + Default>(name: &str, kind: Kind) -> Vec<u8> {
    let image = image(name);
    let mut decoder = Decoder::open_as(name, kind, &*image).expect("valid magics");
    let mut encoder = Encoder::new(kind);
    while let Some(entry) = decoder.message::<M>().expect("a valid entry") {
        encoder.entry(&entry);
    }
    encoder.finish()
}

#[rstest]
#[case("core-8317.img", reencode::<CoreEntry>)]
#[case("fdinfo-2.img", reencode::<FdinfoEntry>)]
#[case("files.img", reencode::<FileEntry>)]
#[case("fs-8317.img", reencode::<FsEntry>)]
#[case("ids-8317.img", reencode::<TaskKobjIdsEntry>)]
#[case("inventory.img", reencode::<InventoryEntry>)]
#[case("mm-8317.img", reencode::<MmEntry>)]
#[case("pstree.img", reencode::<PstreeEntry>)]
#[case("seccomp.img", reencode::<SeccompEntry>)]
#[case("stats-dump", reencode::<StatsEntry>)]
#[case("timens-0.img", reencode::<TimensEntry>)]
fn round_trips_byte_for_byte(#[case] name: &str, #[case] reencode: fn(&str, Kind) -> Vec<u8>) {
    let Some(ImageFile::Image(kind, _)) = ImageFile::from_name(name) else {
        panic!("{name} is an image")
    };
    assert_eq!(reencode(name, kind), image(name));
}

#[test]
fn pagemaps_begin_with_a_head() {
    let bytes = image("pagemap-8317.img");
    let mut decoder = Decoder::open_as("pagemap-8317.img", Kind::Pagemap, &*bytes).expect("a valid magic");
    assert_eq!(
        decoder.message::<PagemapHead>().expect("an entry"),
        Some(PagemapHead { pages_id: 1 })
    );
    let mut pages = 0;
    while let Some(range) = decoder.message::<PagemapEntry>().expect("an entry") {
        pages += range.nr_pages.unwrap_or(range.compat_nr_pages.into());
    }
    assert_eq!(pages * 4096, 110_592, "the size of pages-1.img");
}

#[test]
fn real_images_have_no_issues() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images");
    let mut images = 0;
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        let Some(ImageFile::Image(kind, _)) = ImageFile::from_name(&name) else {
            continue;
        };
        let bytes = image(&name);
        let decoder = Decoder::open_as(&name, kind, &*bytes).expect("a valid magic");
        let walked = walk(decoder, |index, finding| panic!("{name}, entry {index}: {finding}")).expect("a valid image");
        assert_eq!(walked.bytes, bytes.len() as u64);
        assert!(kind.entries() == Entries::Many || walked.entries == 1);
        images += 1;
    }
    assert_eq!(images, 12);
}

#[test]
fn real_images_decode() {
    let core: CoreEntry =
        decode_single("core-8317.img", Kind::Core, &image("core-8317.img")).expect("a valid core image");
    let task = core.tc.expect("the state of the leader");
    assert_eq!(task.comm, "sleep");
    assert_eq!(task.sigactions.len(), 62, "signals 1 to 64 without SIGKILL and SIGSTOP");
    assert_eq!(task.rlimits.expect("resource limits").rlimits.len(), 16);
}
