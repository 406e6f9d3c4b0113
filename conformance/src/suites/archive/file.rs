//! The file itself: owner and permissions.

use super::preconditions::ArchiveCase;
use crate::{
    archive::{FileMetadata, InspectedArchive},
    engine::{Capability, CaseResult, Level, NonPass, case, check},
    suites::authority,
};

pub(super) const CASES: &[ArchiveCase] = &[
    case("archive/file/owner-only", Level::Documented)
        .requirement(
            "The archive must be accessible by its owner only, because it contains all memory of all \
            processes.",
        )
        .authority(authority::API_INTRODUCTION)
        .expected("no permissions for group and others")
        .requires(&[Capability::ArchiveFile])
        .check(|archive| {
            let file = require_file_metadata(archive)?;
            check(file.mode & 0o077 == 0, format!("mode {:04o}", file.mode))
        }),
    case("archive/file/owner", Level::Documented)
        .requirement(
            "The owner of the archive must be root, or the runtime's user if the runtime does not run as \
            root.",
        )
        .authority(authority::API_INTRODUCTION)
        .expected("owner 0")
        .requires(&[Capability::ArchiveFile])
        .check(owner),
    case("archive/file/mode-0600", Level::Reference)
        .requirement("The archive must have mode 0600, because it is not executable.")
        .authority(authority::COMMON_RUNTIMES)
        .expected("mode 0600")
        .requires(&[Capability::ArchiveFile])
        .check(|archive| {
            let file = require_file_metadata(archive)?;
            check(file.mode == 0o600, format!("mode {:04o}", file.mode))
        }),
    case("archive/file/regular-single-link", Level::Robust)
        .requirement("The archive must be a regular file with a single link, reached without a symbolic link.")
        .authority(authority::CWE_LINK_FOLLOWING)
        .expected("a regular file, link count 1")
        .requires(&[Capability::ArchiveFile])
        .check(|archive| {
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
        }),
];

fn require_file_metadata(archive: &InspectedArchive) -> Result<&FileMetadata, NonPass> {
    archive.file.as_ref().ok_or(NonPass::Missing(Capability::ArchiveFile))
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
