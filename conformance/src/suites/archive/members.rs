//! Of any member: nothing that leads a reader out of the folder it unpacks to, or makes it hold what it cannot.

use cri_proto::document::zero_time;

use super::preconditions::{ArchiveCase, case, pass_unless, require_complete, require_config_dump, source};
use crate::{
    archive::{InspectedArchive, Member, MemberKind, NameIssue},
    engine::{CaseResult, NonPass},
};

const TRAVERSAL_SOURCE: &str = "CWE-22; archives are unpacked by runtimes as root";

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "archive/members/relative-names",
        Robust,
        TRAVERSAL_SOURCE,
        "No member has an absolute name.",
        "relative names",
        |archive| no_member(archive, |member| member.name_issues.contains(&NameIssue::Absolute))
    ),
    case!(
        "archive/members/no-path-traversal",
        Robust,
        TRAVERSAL_SOURCE,
        "No member's name climbs out of its folder.",
        "no `..` in a name",
        |archive| no_member(archive, |member| member
            .name_issues
            .contains(&NameIssue::ParentComponent))
    ),
    case!(
        "archive/members/no-symlink",
        Robust,
        source::SYMLINK_CVE,
        "No member is a symbolic link: a link called container.log made a runtime read files of the host.",
        "no symbolic link",
        |archive| no_member(archive, |member| member.kind == MemberKind::Symlink)
    ),
    case!(
        "archive/members/no-hard-link",
        Robust,
        source::SYMLINK_CVE,
        "No member is a hard link.",
        "no hard link",
        |archive| no_member(archive, |member| member.kind == MemberKind::HardLink)
    ),
    case!(
        "archive/members/no-device",
        Robust,
        TRAVERSAL_SOURCE,
        "No member is a device or a FIFO.",
        "no device, no FIFO",
        |archive| no_member(archive, |member| matches!(
            member.kind,
            MemberKind::Device | MemberKind::Fifo
        ))
    ),
    case!(
        "archive/members/no-sparse",
        Robust,
        source::SPARSE_CVE,
        "No member is stored with holes: a reader that follows a map of holes can be made to take memory without bound.",
        "no sparse member",
        |archive| no_member(archive, |member| member.kind == MemberKind::Sparse)
    ),
    case!(
        "archive/members/posix-type",
        Robust,
        source::TAR_FORMAT,
        "Every member is of a kind that POSIX knows.",
        "files and directories",
        |archive| no_member(archive, |member| matches!(member.kind, MemberKind::Other(_)))
    ),
    case!(
        "archive/members/unique-names",
        Robust,
        "cri-o#7355, cri-o#9692: images of an earlier attempt in the archive",
        "No name occurs twice: readers disagree on which one counts.",
        "every name once",
        |archive| no_member(archive, |member| member.name_issues.contains(&NameIssue::Duplicate))
    ),
    case!(
        "archive/members/valid-names",
        Robust,
        TRAVERSAL_SOURCE,
        "Names are what they seem: UTF-8 without control characters, empty or `.` components, and no longer than a path.",
        "plain names",
        |archive| no_member(archive, |member| member.name_issues.contains(&NameIssue::Malformed))
    ),
    case!(
        "archive/members/no-setuid-setgid",
        Robust,
        TRAVERSAL_SOURCE,
        "No member is setuid or setgid: unpacked by root it would be a way to root.",
        "no setuid, no setgid",
        |archive| no_member(archive, |member| member.kind != MemberKind::Directory
            && member.mode & 0o6000 != 0)
    ),
    case!(
        "archive/members/directories-accessible",
        Robust,
        "unpacked by a user other than root, a directory without these permissions hides what is in it",
        "Every directory must have the permissions to read and to search it for its owner.",
        "r-x for the owner",
        |archive| no_member(archive, |member| member.kind == MemberKind::Directory
            && member.mode & 0o500 != 0o500)
    ),
    case!(
        "archive/members/newer-than-container",
        Robust,
        "cri-o#7355, cri-o#9692: images of an earlier attempt in the archive",
        "No image is older than the container: it would be of an earlier one, or of an earlier attempt.",
        "every image changed after createdTime",
        images_newer_than_container
    ),
];

fn images_newer_than_container(archive: &InspectedArchive) -> CaseResult {
    let config = require_config_dump(archive)?;
    let created = config.created_at;
    if config.checkpointed_at != zero_time() && created > config.checkpointed_at {
        return Err(NonPass::Blocked("archive/metadata/times-ordered"));
    }
    let images = archive
        .members
        .iter()
        .filter(|member| member.kind == MemberKind::File && member.name.starts_with("checkpoint/"));
    // A tar has whole seconds, and a writer without a clock writes 0.
    let stale = images.filter(|image| image.mtime != 0 && image.mtime < created.as_second());
    pass_unless(
        stale.map(|image| format!("{} of second {}", image.name, image.mtime)),
        format!("created at {created}, and nothing is older"),
    )
}

/// No member is like this; and where the tar cannot be read to its end, none of those seen before it.
fn no_member(archive: &InspectedArchive, is_forbidden: fn(&Member) -> bool) -> CaseResult {
    let matching = archive.members.iter().filter(|member| is_forbidden(member));
    let matching = matching.map(|member| format!("{} (byte {}, {:?})", member.name, member.offset, member.kind));
    let actual = pass_unless(matching, format!("{} members", archive.members.len()))?;
    require_complete(archive)?;
    if archive.members.is_empty() {
        return Err(NonPass::Blocked("archive/tar/not-empty"));
    }
    Ok(actual)
}
