//! The input as a whole: whether it is a checkpoint archive.

use super::preconditions::ArchiveCase;
use crate::{
    archive::{InputKind, InspectedArchive, TarEnd},
    engine::{CaseResult, Level, NonPass, case, fail, pass},
    suites::authority,
};

pub(super) const CASES: &[ArchiveCase] = &[case("archive/format/checkpoint-archive", Level::Documented)
    .requirement(
        "The input must be a checkpoint archive: a tar of CRIU images and the documents of the engine \
            that made it.",
    )
    .authority(authority::API_OPERATIONS)
    .expected("a checkpoint archive of containerd, cri-o or podman")
    .may_depend_on(&["archive/tar/bounded-headers", "archive/tar/not-empty"])
    .check(kind)];

fn kind(archive: &InspectedArchive) -> CaseResult {
    match &archive.input {
        InputKind::Archive(layout) => pass(format!("a checkpoint archive of {}", layout.as_str())),
        InputKind::Foreign(foreign) => fail(foreign.to_string()),
        InputKind::Unread => Err(NonPass::Blocked(match &archive.end {
            TarEnd::LimitReached { .. } => "archive/tar/bounded-headers",
            TarEnd::Marker | TarEnd::NoMarker => "archive/tar/not-empty",
            TarEnd::Empty | TarEnd::Corrupt(_) => "archive/tar/well-formed",
        })),
    }
}
