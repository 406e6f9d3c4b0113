//! Every input gets a verdict in bounded memory and time.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::symlink,
    sync::LazyLock,
};

use checkpoint_conformance::{
    archive::{
        Expectations, InspectError, InspectedArchive, Limits, NameIssue, TarEnd, find_in_pages, inspect_file,
        inspect_stream, sample,
    },
    engine::{CaseRecord, Outcome},
    suites::archive::{cases, check_all},
};
use proptest::prelude::*;
use rstest::rstest;

use crate::helpers::{failed_ids, failure_texts, inspect_bytes};

const BLOCK_BYTES: usize = 512;

static SAMPLE_TAR: LazyLock<Vec<u8>> =
    LazyLock::new(|| sample::tar_of(&sample::Sample::default().members()).expect("build the tar"));

fn outcome<'a>(records: &'a [CaseRecord], id: &str) -> &'a Outcome {
    let record = records.iter().find(|record| record.info.id == id);
    &record.expect("the catalogue has this case").outcome
}

fn test_bytes(bytes: &[u8]) -> Vec<CaseRecord> {
    let records = check_all(&inspect_bytes(bytes));
    assert_eq!(records.len(), cases().len());
    records
}

/// The end of the padding of the last member. An archive that is cut after it lacks only its end marker.
fn members_end() -> usize {
    SAMPLE_TAR.len() - 2 * BLOCK_BYTES
}

#[test]
fn truncated_archives_never_pass() {
    let odd_lengths = [
        1, 2, 4, 100, 148, 156, 257, 263, 345, 500, 511, 513, 1023, 1025, 4095, 4097, 65_537,
    ];
    let cuts = (0..SAMPLE_TAR.len())
        .step_by(BLOCK_BYTES)
        .chain(odd_lengths)
        .chain((0..SAMPLE_TAR.len()).step_by(997));
    for cut in cuts {
        let records = test_bytes(&SAMPLE_TAR[..cut]);
        let failed = failed_ids(&records);
        let expected = if cut >= members_end() && cut % BLOCK_BYTES == 0 {
            "archive/tar/end-marker"
        } else {
            "archive/tar/well-formed"
        };
        // A cut between two members looks like a tar without end marker; the later members are missing then.
        let ends_between_members = failed.contains("archive/tar/end-marker");
        assert!(
            failed.contains(expected) || ends_between_members,
            "cut at {cut}: {}",
            failure_texts(&records)
        );
        assert!(
            !matches!(outcome(&records, "archive/tar/end-marker"), Outcome::Pass { .. }),
            "cut at {cut}"
        );
        if !ends_between_members {
            // Cases on unread content are skipped: only the tar case fails.
            let mut other_failures = failed.clone();
            // Before the end of the first header the input is not recognizable as a tar.
            other_failures
                .retain(|id| *id != expected && !(*id == "archive/format/checkpoint-archive" && cut < BLOCK_BYTES));
            assert!(other_failures.is_empty(), "cut at {cut}: {}", failure_texts(&records));
        }
    }
}

#[test]
fn truncation_inside_an_image_is_a_tar_error() {
    let reached_end = inspect_bytes(&SAMPLE_TAR);
    let mm = reached_end
        .member("checkpoint/mm-1.img")
        .expect("the sample has this member");
    let cut = mm.offset as usize + BLOCK_BYTES + 20;
    let inspected = inspect_bytes(&SAMPLE_TAR[..cut]);
    assert!(
        matches!(&inspected.end, TarEnd::Corrupt(broken) if broken.reason.contains("mm-1.img")),
        "{:?}",
        inspected.end
    );
    assert_eq!(inspected.images.undecodable.count, 0);
}

/// An endless tar: a header, then a repeated block.
struct Endless {
    head: io::Cursor<Vec<u8>>,
    repeated: Vec<u8>,
    offset: usize,
    bytes_read: u64,
}

impl Endless {
    fn new(head: Vec<u8>, forever: Vec<u8>) -> Self {
        Self {
            head: io::Cursor::new(head),
            repeated: forever,
            offset: 0,
            bytes_read: 0,
        }
    }
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = self.head.read(buffer)?;
        if read == 0 {
            read = buffer.len().min(self.repeated.len() - self.offset);
            buffer[..read].copy_from_slice(&self.repeated[self.offset..][..read]);
            self.offset = (self.offset + read) % self.repeated.len();
        }
        self.bytes_read += read as u64;
        Ok(read)
    }
}

fn header(kind: u8, size: u64, name: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_path(name).expect("set a short name");
    header.set_size(size);
    header.set_mode(0o600);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// An old GNU sparse member whose map continues in extension blocks.
fn sparse_header() -> Vec<u8> {
    let mut block = header(b'S', 0, "holes");
    block[482] = 1;
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, b)| if (148..156).contains(&at) { 32 } else { u64::from(*b) })
        .sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[rstest]
#[case::a_member_without_end(header(b'0', i64::MAX as u64, "checkpoint/pages-1.img"), vec![7; 4096], 64 << 20)]
#[case::a_log_without_end(header(b'0', i64::MAX as u64, "container.log"), b"line without an end ".to_vec(), 16 << 20)]
#[case::an_image_without_end(
    [header(b'0', i64::MAX as u64, "checkpoint/pstree.img"), vec![0x19, 0x43, 0x56, 0x54, 0x30, 0x30, 0x27, 0x50]].concat(),
    // An endless process tree.
    [&[8, 0, 0, 0, 0x08, 1, 0x10, 0, 0x18, 1, 0x20, 1][..]; 512].concat(),
    4 << 20
)]
#[case::a_page_map_without_end(
    [header(b'0', i64::MAX as u64, "checkpoint/pagemap-1.img"), vec![0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56, 2, 0, 0, 0, 0x08, 1]].concat(),
    [&[4, 0, 0, 0, 0x08, 1, 0x10, 1][..]; 512].concat(),
    4 << 20
)]
#[case::members_without_end(Vec::new(), header(b'0', 0, "a"), 64 << 20)]
#[case::a_name_without_end(header(b'L', i64::MAX as u64, "././@LongLink"), vec![b'a'; 4096], 64 << 20)]
#[case::records_without_end(header(b'x', 1 << 40, "pax"), vec![b'a'; 4096], 64 << 20)]
#[case::global_headers_without_end(Vec::new(), header(b'g', 0, "pax"), 64 << 20)]
#[case::long_names_without_end(Vec::new(), header(b'L', 0, "././@LongLink"), 64 << 20)]
#[case::a_sparse_map_without_end(sparse_header(), vec![1; 512], 64 << 20)]
#[case::zeros_without_end(Vec::new(), vec![0; 4096], 64 << 20)]
fn endless_streams_are_bounded(#[case] head: Vec<u8>, #[case] forever: Vec<u8>, #[case] bytes: u64) {
    let mut endless = Endless::new(head, forever);
    let limits = Limits {
        bytes,
        ..Limits::default()
    };
    let inspected = inspect_stream(&mut endless, &Expectations::default(), limits).expect("inspect an endless input");
    // The reader may read ahead a little.
    assert!(
        endless.bytes_read <= bytes + (1 << 20),
        "{} bytes read",
        endless.bytes_read
    );
    let records = check_all(&inspected);
    assert!(!failed_ids(&records).is_empty(), "{:?}", inspected.end);
    assert!(
        !matches!(outcome(&records, "archive/tar/well-formed"), Outcome::Pass { .. })
            || inspected.end == TarEnd::Marker
    );
}

#[test]
fn sparse_members_are_not_expanded() {
    // Eight exbibytes of holes in one map block, as in CVE-2025-58183.
    let mut sparse_bomb = sparse_header();
    sparse_bomb[482] = 0;
    sparse_bomb[483..495].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    sparse_bomb[148..156].fill(b' ');
    let sum: u64 = sparse_bomb.iter().map(|byte| u64::from(*byte)).sum();
    sparse_bomb[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = SAMPLE_TAR[..members_end()].to_vec();
    bytes.extend(sparse_bomb);
    bytes.extend([0; 2 * BLOCK_BYTES]);
    assert_eq!(failed_ids(&test_bytes(&bytes)), ["archive/members/no-sparse"].into());
    // The newer format stores the sparse map in a PAX record.
    let record = b"22 GNU.sparse.major=1\n";
    let mut pax = header(b'x', record.len() as u64, "pax");
    pax.extend(record);
    pax.resize(2 * BLOCK_BYTES, 0);
    let mut bytes = SAMPLE_TAR[..members_end()].to_vec();
    bytes.extend(pax);
    bytes.extend(header(b'0', 0, "holes"));
    bytes.extend([0; 2 * BLOCK_BYTES]);
    assert_eq!(failed_ids(&test_bytes(&bytes)), ["archive/members/no-sparse"].into());
}

#[test]
fn holes_are_skipped() {
    let directory = tempfile::tempdir().expect("create a temporary directory");
    let path = directory.path().join("hole.tar");
    fs::write(&path, header(b'0', 1 << 40, "checkpoint/pages-1.img")).expect("write the archive");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("open the archive");
    file.set_len((1 << 40) + 3 * BLOCK_BYTES as u64)
        .expect("set the length to one tebibyte");
    let inspected = inspect_file(&path, &Expectations::default(), Limits::default()).expect("read the archive");
    assert_eq!(inspected.end, TarEnd::Marker);
    assert_eq!(inspected.images.pages_file_bytes.get(&1), Some(&(1 << 40)));
}

#[test]
fn reads_long_names_and_pax_records() {
    let long = format!("checkpoint/{}", "n".repeat(200));
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o600);
    builder
        .append_data(&mut header, &long, &b"x"[..])
        .expect("append a member with a long name");
    let record = format!("{} path=spec.dump\n", 18);
    let mut pax = tar::Header::new_ustar();
    pax.set_entry_type(tar::EntryType::XHeader);
    pax.set_size(record.len() as u64);
    pax.set_cksum();
    builder.append(&pax, record.as_bytes()).expect("append a member");
    header.set_path("other").expect("set a short name");
    header.set_cksum();
    builder.append(&header, &b"{"[..]).expect("append a member");
    let inspected = inspect_bytes(&builder.into_inner().expect("build the tar"));
    assert_eq!(inspected.end, TarEnd::Marker);
    assert!(
        inspected.member("spec.dump").is_some_and(|member| member.size == 1),
        "{:?}",
        inspected.members
    );
    assert!(inspected.members[0].name.starts_with("checkpoint/nnn") && inspected.members[0].name_issues.is_empty());
}

#[test]
fn reports_the_member_limit() {
    let limits = Limits {
        members: 10,
        ..Limits::default()
    };
    let inspected = inspect_stream(&SAMPLE_TAR[..], &Expectations::default(), limits).expect("read the archive");
    assert_eq!(
        failed_ids(&check_all(&inspected)),
        ["archive/tar/bounded-headers"].into()
    );
    assert_eq!(inspected.members.len(), 10);
}

#[test]
fn non_files_are_harness_errors() {
    let directory = tempfile::tempdir().expect("create a temporary directory");
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).expect("create a FIFO");
    for path in [directory.path(), &fifo, "/dev/null".as_ref()] {
        let error = inspect_file(path, &Expectations::default(), Limits::default()).expect_err("no file");
        assert!(matches!(error, InspectError::NotAFile { .. }), "{error}");
    }
    let error = inspect_file(
        &directory.path().join("none"),
        &Expectations::default(),
        Limits::default(),
    );
    assert!(matches!(error, Err(InspectError::Open { .. })));
}

#[test]
fn finds_the_canary_in_the_pages() {
    let directory = tempfile::tempdir().expect("create a temporary directory");
    let path = directory.path().join("checkpoint.tar");
    fs::write(&path, &*SAMPLE_TAR).expect("write the archive");
    let found = find_in_pages(&path, sample::CANARY)
        .expect("read the archive")
        .expect("find the canary");
    assert_eq!(
        (found.member.as_str(), found.offset),
        ("checkpoint/pages-1.img", 2 * 4096 - 5)
    );
    assert_eq!(
        find_in_pages(&path, b"nowhere in the memory").expect("read the archive"),
        None
    );
    // Text that is only in a document is not found in the pages.
    assert_eq!(
        find_in_pages(&path, b"io.containerd.runc.v2").expect("read the archive"),
        None
    );
    let link = directory.path().join("link.tar");
    symlink(&path, &link).expect("create a symbolic link");
    assert!(
        find_in_pages(&link, sample::CANARY)
            .expect("read the archive")
            .is_some()
    );
}

#[test]
fn other_formats_fail_once() {
    let parts = [
        sample::SampleMember::file("state.json", *b"{}"),
        sample::SampleMember::file("memory", *b"x"),
    ];
    let records = test_bytes(&sample::tar_of(&parts).expect("build the tar"));
    // The expected canary is missing too.
    assert_eq!(
        failed_ids(&records),
        ["archive/format/checkpoint-archive", "archive/memory/expected-bytes"].into(),
        "{}",
        failure_texts(&records)
    );
    let skipped = outcome(&records, "archive/layout/required-members");
    assert!(
        matches!(skipped, Outcome::Skip { reason, .. } if reason == "blocked by archive/format/checkpoint-archive"),
        "{skipped:?}"
    );
}

fn assert_consistent(inspected: &InspectedArchive) {
    let records = check_all(inspected);
    assert_eq!(records.len(), cases().len());
    assert!(
        !records
            .iter()
            .any(|record| matches!(record.outcome, Outcome::Error { .. }))
    );
    let is_complete = matches!(inspected.end, TarEnd::Marker | TarEnd::NoMarker);
    assert_eq!(
        matches!(outcome(&records, "archive/tar/well-formed"), Outcome::Pass { .. }),
        is_complete
    );
    for member in &inspected.members {
        assert!(!member.name.chars().any(char::is_control), "{:?}", member.name);
        assert_eq!(
            member.name_issues.contains(&NameIssue::Absolute),
            member.name.starts_with('/')
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        assert_consistent(&inspect_bytes(&bytes));
    }

    /// Changes random bytes of the sample and updates the header checksums, so that the parser accepts them.
    #[test]
    fn changed_bytes_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        sum in any::<bool>(),
    ) {
        let mut bytes = SAMPLE_TAR.clone();
        for (at, byte) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        if sum {
            fix_checksums(&mut bytes);
        }
        assert_consistent(&inspect_bytes(&bytes));
    }

    /// Members of the sample with random content.
    #[test]
    fn random_members_never_panic(
        which in any::<prop::sample::Index>(),
        keep in 0..64_usize,
        content in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut parts = sample::Sample::default().members();
        let files: Vec<_> = (0..parts.len()).filter(|at| parts[*at].kind == tar::EntryType::Regular).collect();
        let part = &mut parts[*which.get(&files)];
        part.content.truncate(keep);
        part.content.extend(content);
        assert_consistent(&inspect_bytes(&sample::tar_of(&parts).expect("build the tar")));
    }
}

/// Recomputes the checksum of every header of the sample.
fn fix_checksums(bytes: &mut [u8]) {
    for member in inspect_bytes(&SAMPLE_TAR).members {
        let block = &mut bytes[member.offset as usize..][..BLOCK_BYTES];
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
