//! The tar as a whole.

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
        "The archive must be a tar file in which every header has a valid checksum and every member is complete.",
        "a tar that can be read to its end",
        well_formed
    ),
    case!(
        "archive/tar/end-marker",
        Documented,
        source::TAR_FORMAT,
        "The archive must end with two zero blocks, which show that a tar file is complete.",
        "two zero blocks",
        |archive| {
            require_complete(archive)?;
            check(
                archive.end == TarEnd::Marker,
                if archive.end == TarEnd::Marker {
                    "two zero blocks"
                } else {
                    "no end marker"
                },
            )
        }
    ),
    case!(
        "archive/tar/not-empty",
        Documented,
        source::PAGE,
        "The archive must have members, at least one of them with content.",
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
        "The archive must not be compressed, because the e2e test of Kubernetes reads it as a plain tar; Podman \
            compresses what it exports.",
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
        "No data must follow the end of the tar, such as stale bytes of an earlier, larger archive.",
        "zeros up to the blocking factor, or no data",
        no_trailing_data
    ),
    case!(
        "archive/tar/bounded-headers",
        Robust,
        source::SPARSE_CVE,
        "The names, extension headers and sparse maps of the archive must have a usual size, so that a reader needs \
            little memory.",
        "headers within this reader's limits",
        |archive| match &archive.end {
            TarEnd::LimitReached { offset, limit } => fail(format!("at byte {offset}: {limit}")),
            _ => pass(format!("{} members", archive.members.len())),
        }
    ),
];

fn well_formed(archive: &InspectedArchive) -> CaseResult {
    match &archive.end {
        TarEnd::Marker | TarEnd::NoMarker => pass(format!("{} members", archive.members.len())),
        TarEnd::Empty => fail("an empty file"),
        TarEnd::Corrupt(corruption) => fail(corruption.to_string()),
        TarEnd::LimitReached { .. } => Err(NonPass::Blocked("archive/tar/bounded-headers")),
    }
}

fn no_trailing_data(archive: &InspectedArchive) -> CaseResult {
    require_complete(archive)?;
    match archive.trailing_data {
        Some(TrailingData::Zeros(zeros)) => pass(format!("{zeros} bytes of zeros")),
        Some(TrailingData::NonZero(offset)) => fail(format!("data at byte {offset}, after the end of the tar")),
        Some(TrailingData::TooManyZeros) => fail("more than 1 MiB of zeros"),
        None => Err(NonPass::Blocked("archive/tar/end-marker")),
    }
}
