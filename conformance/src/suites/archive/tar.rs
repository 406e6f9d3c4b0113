//! Of the tar as a whole.

use super::preconditions::{ArchiveCase, case, require_complete, source};
use crate::{
    archive::{InputKind, InspectedArchive, Layout, MemberKind, TarEnd, TrailingData},
    engine::{CaseResult, NonPass, check, fail, pass},
};

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "archive/tar/well-formed",
        Documented,
        source::TAR_FORMAT,
        "The archive is a tar: every header has its checksum, every member its whole content.",
        "a tar that can be read to its end",
        well_formed
    ),
    case!(
        "archive/tar/end-marker",
        Documented,
        source::TAR_FORMAT,
        "The archive ends as a tar does, with two blocks of zeros: without them nobody knows that it is whole.",
        "two zero blocks",
        |archive| {
            require_complete(archive)?;
            check(
                archive.end == TarEnd::Marker,
                if archive.end == TarEnd::Marker {
                    "two zero blocks"
                } else {
                    "no end of a tar"
                },
            )
        }
    ),
    case!(
        "archive/tar/not-empty",
        Documented,
        source::PAGE,
        "The archive holds a stateful copy: it has members, and one of them has content.",
        "members with content",
        |archive| {
            require_complete(archive)?;
            let files = archive.members.iter().filter(|member| member.kind == MemberKind::File);
            let bytes = files.fold(0_u64, |bytes, file| bytes.saturating_add(file.size));
            check(
                bytes > 0,
                format!("{} members with {bytes} bytes", archive.members.len()),
            )
        }
    ),
    case!(
        "archive/tar/uncompressed",
        Reference,
        source::E2E,
        "The archive must not be compressed, as Kubernetes' own test reads it as a plain tar; Podman compresses what it exports.",
        "no compression",
        |archive| match archive.compression {
            Some(compression) if archive.input == InputKind::Archive(Layout::Podman) => {
                pass(format!("{compression}, as Podman writes it"))
            }
            Some(compression) => fail(compression.to_string()),
            None => pass("no compression"),
        }
    ),
    case!(
        "archive/tar/no-trailing-data",
        Robust,
        "containerd and CRI-O open the location without truncating it",
        "Nothing stands behind the end of the tar: no stale bytes of an earlier, larger archive.",
        "zeros up to the blocking factor, or nothing",
        no_trailing_data
    ),
    case!(
        "archive/tar/bounded-headers",
        Robust,
        source::SPARSE_CVE,
        "A reader needs little memory to read the archive: names, extension headers and sparse maps are of usual size.",
        "no bound of this reader is met",
        |archive| match &archive.end {
            TarEnd::LimitReached { offset, limit } => fail(format!("at byte {offset}: {limit}")),
            _ => pass(format!("{} members", archive.members.len())),
        }
    ),
];

fn well_formed(archive: &InspectedArchive) -> CaseResult {
    match &archive.end {
        TarEnd::Marker | TarEnd::NoMarker => pass(format!("{} members", archive.members.len())),
        TarEnd::Empty => fail("a file of no bytes"),
        TarEnd::Corrupt(corruption) => fail(corruption.to_string()),
        TarEnd::LimitReached { .. } => Err(NonPass::Blocked("archive/tar/bounded-headers")),
    }
}

fn no_trailing_data(archive: &InspectedArchive) -> CaseResult {
    require_complete(archive)?;
    match archive.trailing_data {
        Some(TrailingData::Zeros(zeros)) => pass(format!("{zeros} bytes of zeros")),
        Some(TrailingData::NonZero(offset)) => fail(format!("bytes at {offset}, behind the end of the tar")),
        Some(TrailingData::TooManyZeros) => fail("more than 1 MiB of zeros"),
        None => Err(NonPass::Blocked("archive/tar/end-marker")),
    }
}
