//! The tar as a whole.

use super::preconditions::{ArchiveCase, require_complete};
use crate::{
    archive::{InputKind, InspectedArchive, Layout, MemberKind, TarEnd, TrailingData},
    engine::{Authority, CaseResult, Level, NonPass, case, check, fail, pass},
    suites::authority,
};

pub(super) const CASES: &[ArchiveCase] = &[
    case("archive/tar/well-formed", Level::Documented)
        .requirement(
            "The archive must be a tar file in which every header has a valid checksum and every member is \
            complete.",
        )
        .authority(authority::API_OPERATIONS)
        .expected("a tar that can be read to its end")
        .may_depend_on(&["archive/tar/bounded-headers"])
        .check(well_formed),
    case("archive/tar/end-marker", Level::Documented)
        .requirement("The archive must end with two zero blocks, which show that a tar file is complete.")
        .authority(authority::API_OPERATIONS)
        .expected("two zero blocks")
        .depends_on(&["archive/tar/well-formed"])
        .check(|archive| {
            require_complete(archive)?;
            check(
                archive.end == TarEnd::Marker,
                if archive.end == TarEnd::Marker {
                    "two zero blocks"
                } else {
                    "no end marker"
                },
            )
        }),
    case("archive/tar/not-empty", Level::Documented)
        .requirement("The archive must have members, at least one of them with content.")
        .authority(authority::API_INTRODUCTION)
        .expected("members with content")
        .depends_on(&["archive/tar/well-formed"])
        .check(|archive| {
            require_complete(archive)?;
            let files = archive.members.iter().filter(|member| member.kind == MemberKind::File);
            let bytes = files.fold(0_u64, |bytes, file| bytes.saturating_add(file.size));
            check(
                bytes > 0,
                format!("{} members with {bytes} bytes", archive.members.len()),
            )
        }),
    case("archive/tar/uncompressed", Level::Reference)
        .requirement(
            "The archive must not be compressed, because the e2e test of Kubernetes reads it as a plain tar; \
            Podman compresses what it exports.",
        )
        .authority(authority::KUBERNETES_E2E)
        .expected("no compression")
        .check(|archive| match archive.compression {
            Some(compression) if archive.input == InputKind::Archive(Layout::Podman) => {
                pass(format!("{compression}, as Podman writes it"))
            }
            Some(compression) => fail(compression.to_string()),
            None => pass("no compression"),
        }),
    case("archive/tar/no-trailing-data", Level::Robust)
        .requirement("No data must follow the end of the tar, such as stale bytes of an earlier, larger archive.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("zeros up to the blocking factor, or no data")
        .depends_on(&["archive/tar/well-formed"])
        .may_depend_on(&["archive/tar/end-marker"])
        .check(no_trailing_data),
    case("archive/tar/bounded-headers", Level::Robust)
        .requirement(
            "The names, extension headers and sparse maps of the archive must have a usual size, so that a \
            reader needs little memory.",
        )
        .authority(Authority::PROJECT)
        .motivation("CVE-2025-58183")
        .expected("headers within this reader's limits")
        .check(|archive| match &archive.end {
            TarEnd::LimitReached { offset, limit } => fail(format!("at byte {offset}: {limit}")),
            _ => pass(format!("{} members", archive.members.len())),
        }),
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
