//! Of the input as a whole: that it is a checkpoint archive.

use super::given::{ArchiveCase, case, source};
use crate::{
    archive::{End, Input, Inspected},
    case::{Judgement, Stop, fail, pass},
};

pub(super) const CASES: &[ArchiveCase] = &[case!(
    "kind",
    Documented,
    source::POSIX,
    "The input must be a checkpoint archive: a tar of CRIU's images and the documents of the engine that made it.",
    "a checkpoint archive of containerd, cri-o or podman",
    kind
)];

fn kind(archive: &Inspected) -> Judgement {
    match &archive.input {
        Input::Archive(layout) => pass(format!("a checkpoint archive of {}", layout.as_str())),
        Input::Foreign(foreign) => fail(foreign.to_string()),
        Input::Unread => Err(Stop::Blocked(match &archive.end {
            End::Bound { .. } => "archive/tar/bounded",
            End::Marker | End::NoMarker => "archive/tar/not-empty",
            End::Empty | End::Broken(_) => "archive/tar/well-formed",
        })),
    }
}
