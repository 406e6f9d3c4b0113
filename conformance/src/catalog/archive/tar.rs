//! Of the tar as a whole.

use super::given::{ArchiveCase, case, source, whole};
use crate::{
    archive::{End, Input, Inspected, Kind, Layout, Tail},
    case::{Judgement, Stop, fail, judge, pass},
};

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "tar/well-formed",
        Documented,
        source::POSIX,
        "The archive is a tar: every header has its checksum, every member its whole content.",
        "a tar that can be read to its end",
        well_formed
    ),
    case!(
        "tar/end-marker",
        Documented,
        source::POSIX,
        "The archive ends as a tar does, with two blocks of zeros: without them nobody knows that it is whole.",
        "two zero blocks",
        |archive| {
            whole(archive)?;
            judge(
                archive.end == End::Marker,
                if archive.end == End::Marker {
                    "two zero blocks"
                } else {
                    "no end of a tar"
                },
            )
        }
    ),
    case!(
        "tar/not-empty",
        Documented,
        source::PAGE,
        "The archive holds a stateful copy: it has members, and one of them has content.",
        "members with content",
        |archive| {
            whole(archive)?;
            let files = archive.members.iter().filter(|member| member.kind == Kind::File);
            let bytes = files.fold(0_u64, |bytes, file| bytes.saturating_add(file.size));
            judge(
                bytes > 0,
                format!("{} members with {bytes} bytes", archive.members.len()),
            )
        }
    ),
    case!(
        "tar/uncompressed",
        Reference,
        source::E2E,
        "The archive must not be compressed, as Kubernetes' own test reads it as a plain tar; Podman compresses what it exports.",
        "no compression",
        |archive| match archive.compression {
            Some(compression) if archive.input == Input::Archive(Layout::Podman) => {
                pass(format!("{compression}, as Podman writes it"))
            }
            Some(compression) => fail(compression.to_string()),
            None => pass("no compression"),
        }
    ),
    case!(
        "tar/nothing-behind",
        Robust,
        "containerd and CRI-O open the location without truncating it",
        "Nothing stands behind the end of the tar: no stale bytes of an earlier, larger archive.",
        "zeros up to the blocking factor, or nothing",
        nothing_behind
    ),
    case!(
        "tar/bounded",
        Robust,
        source::SPARSE,
        "A reader needs little memory to read the archive: names, extension headers and sparse maps are of usual size.",
        "no bound of this reader is met",
        |archive| match &archive.end {
            End::Bound { offset, bound } => fail(format!("at byte {offset}: {bound}")),
            _ => pass(format!("{} members", archive.members.len())),
        }
    ),
];

fn well_formed(archive: &Inspected) -> Judgement {
    match &archive.end {
        End::Marker | End::NoMarker => pass(format!("{} members", archive.members.len())),
        End::Empty => fail("a file of no bytes"),
        End::Broken(broken) => fail(broken.to_string()),
        End::Bound { .. } => Err(Stop::Blocked("archive/tar/bounded")),
    }
}

fn nothing_behind(archive: &Inspected) -> Judgement {
    whole(archive)?;
    match archive.tail {
        Some(Tail::Zeros(zeros)) => pass(format!("{zeros} bytes of zeros")),
        Some(Tail::Bytes(offset)) => fail(format!("bytes at {offset}, behind the end of the tar")),
        Some(Tail::TooManyZeros) => fail("more than 1 MiB of zeros"),
        None => Err(Stop::Blocked("archive/tar/end-marker")),
    }
}
