//! The input as a whole: whether it is a checkpoint archive.

use super::preconditions::{ArchiveCase, case, source};
use crate::{
    archive::{InputKind, InspectedArchive, TarEnd},
    engine::{CaseResult, NonPass, fail, pass},
};

pub(super) const CASES: &[ArchiveCase] = &[case!(
    "archive/format/checkpoint-archive",
    Documented,
    source::TAR_FORMAT,
    "The input must be a checkpoint archive: a tar of CRIU images and the documents of the engine that made it.",
    "a checkpoint archive of containerd, cri-o or podman",
    kind
)];

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
