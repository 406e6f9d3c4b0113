//! The file itself: owner and permissions.

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
        "The archive must be accessible by its owner only, because it contains all memory of all processes.",
        "no permissions for group and others",
        |archive| {
            let file = require_file_metadata(archive)?;
            check(file.mode & 0o077 == 0, format!("mode {:04o}", file.mode))
        }
    ),
    case!(
        "archive/file/owner",
        Documented,
        source::PAGE,
        "The owner of the archive must be root, or the runtime's user if the runtime does not run as root.",
        "owner 0",
        owner
    ),
    case!(
        "archive/file/mode-0600",
        Reference,
        "containerd and CRI-O",
        "The archive must have mode 0600, because it is not executable.",
        "mode 0600",
        |archive| {
            let file = require_file_metadata(archive)?;
            check(file.mode == 0o600, format!("mode {:04o}", file.mode))
        }
    ),
    case!(
        "archive/file/regular-single-link",
        Robust,
        "CWE-59: common runtimes follow a symbolic link at the location",
        "The archive must be a regular file with a single link, reached without a symbolic link.",
        "a regular file, link count 1",
        |archive| {
            let file = require_file_metadata(archive)?;
            let link = if file.symlink {
                "a symbolic link to a file"
            } else {
                "a regular file"
            };
            check(
                !file.symlink && file.link_count == 1,
                format!("{link}, link count {}", file.link_count),
            )
        }
    ),
];

fn require_file_metadata(archive: &InspectedArchive) -> Result<&FileMetadata, NonPass> {
    let stream = || NonPass::Skip("requires a file: a stream has no owner and no mode".to_owned());
    archive.file.as_ref().ok_or_else(stream)
}

fn owner(archive: &InspectedArchive) -> CaseResult {
    let file = require_file_metadata(archive)?;
    let me = nix::unistd::geteuid().as_raw();
    match file.uid {
        0 => Ok("owner 0".to_owned()),
        uid if uid == me => Ok(format!("owner {uid}, the non-root user of this run")),
        uid => Err(NonPass::Fail(format!("owner {uid}"))),
    }
}
