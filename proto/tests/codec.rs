//! The image codec: decoding returns the encoded entries, and errors name the file and the offset.

use std::io;

use cri_proto::criu::{
    Decoder, Encoder, ImageError, Kind, Problem, decode_entries, decode_single, encode,
    message::{InventoryEntry, PipeDataEntry, PstreeEntry},
    walk,
};
use proptest::prelude::*;
use prost::Message;
use rstest::rstest;

fn process(pid: u32, threads: Vec<u32>) -> PstreeEntry {
    PstreeEntry {
        pid,
        ppid: 0,
        pgid: 1,
        sid: 1,
        threads,
    }
}

fn inventory() -> InventoryEntry {
    InventoryEntry {
        img_version: 2,
        fdinfo_per_id: Some(true),
        ..InventoryEntry::default()
    }
}

proptest! {
    #[test]
    fn entries_round_trip(entries in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u32>(), 0..40)), 0..20)) {
        let entries: Vec<_> = entries.into_iter().map(|(pid, threads)| process(pid, threads)).collect();
        let image = encode(Kind::Pstree, &entries);
        prop_assert_eq!(decode_entries::<PstreeEntry>("pstree.img", Kind::Pstree, &image).expect("a valid image"), entries);
    }

    #[test]
    fn payloads_round_trip(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)) {
        let mut encoder = Encoder::new(Kind::PipesData);
        for (id, chunk) in chunks.iter().enumerate() {
            encoder.entry(&PipeDataEntry { pipe_id: id as u32, bytes: chunk.len() as u32, size: None });
            encoder.payload(chunk);
        }
        let image = encoder.finish();
        let mut decoder = Decoder::open_as("pipes-data.img", Kind::PipesData, &*image).expect("a valid image");
        let mut read = Vec::new();
        while let Some(entry) = decoder.message::<PipeDataEntry>().expect("a valid entry") {
            let mut chunk = Vec::new();
            decoder.copy_payload(entry.bytes.into(), &mut chunk).expect("a valid payload");
            read.push(chunk);
        }
        prop_assert_eq!(read, chunks.clone());
        let decoder = Decoder::open("pipes-data.img", &*image).expect("a valid image");
        let summary = walk(decoder, |_, finding| panic!("{finding}")).expect("a valid image");
        prop_assert_eq!((summary.entries, summary.bytes), (chunks.len() as u64, image.len() as u64));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in prop::sample::select(Kind::ALL), framed: bool) {
        let mut image = if framed { kind.header() } else { Vec::new() };
        image.extend_from_slice(&bytes);
        if let Ok(decoder) = Decoder::open("any.img", &*image) {
            match walk(decoder, |_, _| {}) {
                Ok(summary) => prop_assert_eq!(summary.bytes, image.len() as u64),
                Err(error) => prop_assert!(error.offset <= image.len() as u64, "{}", error),
            }
        }
    }

    #[test]
    fn a_truncated_image_is_rejected(cut in 0_usize..100) {
        let image = encode(Kind::Inventory, [&inventory()]);
        let cut = cut % image.len();
        prop_assert!(decode_single::<InventoryEntry>("inventory.img", Kind::Inventory, &image[..cut]).is_err());
    }
}

/// Each case damages an image of two processes. The first entry is at offset 8 and has 12 bytes with its length word, so
/// the second entry is at offset 20.
#[rstest]
#[case::nothing(|_| Vec::new(), 0, "the magic is truncated: 4 bytes expected, 0 found")]
#[case::half_a_magic(|image: Vec<u8>| image[..6].to_vec(), 4, "the magic is truncated: 4 bytes expected, 2 found")]
#[case::no_image(|_| b"tarball of something".to_vec(), 0, "unknown magic 0x62726174")]
#[case::no_kind(|mut image: Vec<u8>| { image[5] ^= 0xff; image }, 4, "unknown magic 0x5027cf30")]
#[case::service_framing(|mut image: Vec<u8>| { image[..4].copy_from_slice(&0x5510_5940_u32.to_le_bytes()); image }, 0, "magic 0x55105940 instead of PSTREE (0x50273030)")]
#[case::other_kind(|_| Kind::Core.header(), 4, "magic 0x55053847 instead of PSTREE (0x50273030)")]
#[case::inventory(|_| Kind::Inventory.header(), 0, "magic 0x58313116 instead of PSTREE (0x50273030)")]
#[case::half_a_length(|image: Vec<u8>| image[..22].to_vec(), 20, "the length of an entry is truncated: 4 bytes expected, 2 found")]
#[case::short_entry(|image: Vec<u8>| image[..image.len() - 1].to_vec(), 20, "an entry is truncated: 8 bytes expected, 7 found")]
#[case::long_length(|mut image: Vec<u8>| { image[23] = 0x7f; image }, 20, "entry of 2130706440 bytes exceeds the limit of 16777216")]
#[case::no_message(|mut image: Vec<u8>| { image[24] = 0x0d; image }, 20, "entry 1 is not a valid PstreeEntry (failed to decode Protobuf message: PstreeEntry.pid: invalid wire type: ThirtyTwoBit (expected Varint))")]
#[case::trailing(|mut image: Vec<u8>| { image.extend([0, 0]); image }, 32, "the length of an entry is truncated: 4 bytes expected, 2 found")]
fn errors_name_file_and_offset(#[case] damage: fn(Vec<u8>) -> Vec<u8>, #[case] offset: u64, #[case] text: &str) {
    let image = encode(Kind::Pstree, &[process(1, vec![]), process(2, vec![])]);
    assert_eq!(image.len(), 32, "the expected offsets require this size");
    let error = decode_entries::<PstreeEntry>("checkpoint/pstree.img", Kind::Pstree, &damage(image)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("checkpoint/pstree.img: {text} at offset {offset}")
    );
}

#[test]
fn a_second_entry_is_trailing_bytes() {
    let image = encode(Kind::Inventory, [&inventory(), &inventory()]);
    let end = (image.len() - 4) as u64 / 2 + 4;
    let error = decode_single::<InventoryEntry>("inventory.img", Kind::Inventory, &image).unwrap_err();
    assert!(
        matches!(error, ImageError { problem: Problem::TrailingBytes, offset, .. } if offset == end),
        "{error}"
    );
    let error = walk(
        Decoder::open("inventory.img", &*image).expect("valid magics"),
        |_, _| {},
    )
    .unwrap_err();
    assert!(
        matches!(error, ImageError { problem: Problem::TrailingBytes, offset, .. } if offset == end),
        "{error}"
    );
}

#[test]
fn an_image_without_a_required_entry_is_rejected() {
    for kind in [Kind::Inventory, Kind::Core, Kind::Pagemap] {
        let error = walk(
            Decoder::open("x.img", &*kind.header()).expect("valid magics"),
            |_, _| {},
        )
        .unwrap_err();
        assert!(matches!(error.problem, Problem::NoEntry), "{error}");
    }
    assert_eq!(
        walk(
            Decoder::open("pstree.img", &*Kind::Pstree.header()).expect("valid magics"),
            |_, _| {}
        )
        .expect("an image without entries is valid")
        .entries,
        0
    );
}

#[test]
fn a_truncated_payload_is_named() {
    let mut image = encode(
        Kind::PipesData,
        [&PipeDataEntry {
            pipe_id: 1,
            bytes: 10,
            size: None,
        }],
    );
    let start = image.len();
    image.extend_from_slice(b"short");
    let error = walk(
        Decoder::open("pipes-data.img", &*image).expect("valid magics"),
        |_, _| {},
    )
    .unwrap_err();
    let text = "pipes-data.img: the payload of an entry is truncated: 10 bytes expected, 5 found at offset";
    assert_eq!(error.to_string(), format!("{text} {start}"));
}

#[test]
fn ghost_file_content_follows_its_entry() {
    use cri_proto::criu::message::{GhostChunkEntry, GhostFileEntry};
    let ghost = GhostFileEntry {
        mode: 0o100_644,
        ..GhostFileEntry::default()
    };
    let mut encoder = Encoder::new(Kind::GhostFile);
    encoder.entry(&ghost);
    encoder.payload(&[0xff; 5000]);
    let image = encoder.finish();
    let summary = walk(
        Decoder::open("ghost-file-1.img", &*image).expect("valid magics"),
        |_, _| {},
    )
    .expect("a valid image");
    assert_eq!((summary.entries, summary.bytes), (1, image.len() as u64));

    let mut encoder = Encoder::new(Kind::GhostFile);
    encoder.entry(&GhostFileEntry {
        chunks: Some(true),
        size: Some(9000),
        ..ghost
    });
    for off in [0, 8192] {
        encoder.entry(&GhostChunkEntry { len: 700, off });
        encoder.payload(&[0xff; 700]);
    }
    let image = encoder.finish();
    let summary = walk(
        Decoder::open("ghost-file-1.img", &*image).expect("valid magics"),
        |_, _| {},
    )
    .expect("a valid image");
    assert_eq!((summary.entries, summary.bytes), (3, image.len() as u64));
}

/// Returns one byte per read: the decoder must handle short reads.
struct OneByteReader<'a>(&'a [u8]);

impl io::Read for OneByteReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(1);
        self.0.read(&mut buffer[..count])
    }
}

#[test]
fn short_reads_are_completed() {
    let entries = [process(1, vec![1, 2, 3]), process(9, vec![9])];
    let image = encode(Kind::Pstree, &entries);
    let mut decoder = Decoder::open("pstree.img", OneByteReader(&image)).expect("valid magics");
    assert_eq!(
        decoder.message::<PstreeEntry>().expect("a valid entry").as_ref(),
        Some(&entries[0])
    );
    assert_eq!(
        decoder.message::<PstreeEntry>().expect("a valid entry").as_ref(),
        Some(&entries[1])
    );
    assert_eq!(decoder.message::<PstreeEntry>().expect("the end of the image"), None);
}

#[test]
fn the_entry_limit_is_configurable() {
    let entry = process(1, (0..100).collect());
    let image = encode(Kind::Pstree, [&entry]);
    let length = entry.encoded_len() as u32;
    let read = |limit| {
        Decoder::open("pstree.img", &*image)
            .expect("valid magics")
            .with_entry_limit(limit)
            .message::<PstreeEntry>()
    };
    assert_eq!(read(length).expect("an entry of exactly the limit"), Some(entry));
    assert!(matches!(
        read(length - 1).unwrap_err().problem,
        Problem::EntryTooLong { .. }
    ));
}

#[test]
fn read_errors_are_reported() {
    #[derive(Debug)]
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("bad sector"))
        }
    }
    let error = Decoder::open("core-1.img", Broken).unwrap_err();
    assert_eq!(error.to_string(), "core-1.img: cannot be read (bad sector) at offset 0");
}
