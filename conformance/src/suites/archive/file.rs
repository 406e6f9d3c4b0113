//! Of the file itself: who may read it.

use super::preconditions::{ArchiveCase, case, source};
use crate::{
    archive::{FileMetadata, InspectedArchive},
    engine::{CaseResult, NonPass, check},
};

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "archive/file/owner-only",
        Documented,
        source::PAGE,
        "Nobody but its owner can read the archive: it holds all memory of all processes.",
        "no permission for group and others",
        |archive| {
            let file = require_file_metadata(archive)?;
            check(file.mode & 0o077 == 0, format!("mode {:04o}", file.mode))
        }
    ),
    case!(
        "archive/file/owner",
        Documented,
        source::PAGE,
        "The archive belongs to root; where the runtime does not run as root, to the runtime's user.",
        "owner 0",
        owner
    ),
    case!(
        "archive/file/mode-0600",
        Reference,
        "containerd and CRI-O",
        "The archive's mode is 0600: nothing executes it.",
        "mode 0600",
        |archive| {
            let file = require_file_metadata(archive)?;
            check(file.mode == 0o600, format!("mode {:04o}", file.mode))
        }
    ),
    case!(
        "archive/file/regular-single-link",
        Robust,
        "CWE-59: a symbolic link at the location is followed by real runtimes",
        "The archive is a file of its own: no symbolic link leads to it, no second name.",
        "a regular file with one name",
        |archive| {
            let file = require_file_metadata(archive)?;
            let link = if file.symlink {
                "behind a symbolic link"
            } else {
                "a regular file"
            };
            check(
                !file.symlink && file.link_count == 1,
                format!("{link} with {} names", file.link_count),
            )
        }
    ),
];

fn require_file_metadata(archive: &InspectedArchive) -> Result<&FileMetadata, NonPass> {
    let stream = || NonPass::Skip("the archive came as a stream, which has no owner and no mode".to_owned());
    archive.file.as_ref().ok_or_else(stream)
}

fn owner(archive: &InspectedArchive) -> CaseResult {
    let file = require_file_metadata(archive)?;
    let me = nix::unistd::geteuid().as_raw();
    match file.uid {
        0 => Ok("owner 0".to_owned()),
        uid if uid == me => Ok(format!("owner {uid}, the user of this run, which is not root's")),
        uid => Err(NonPass::Fail(format!("owner {uid}"))),
    }
}
