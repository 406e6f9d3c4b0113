//! The members: no member must lead a reader out of the directory into which the archive is unpacked, or make a reader
//! use resources without bound.

use cri_proto::document::zero_time;

use super::preconditions::{ArchiveCase, pass_unless, require_complete, require_config_dump};
use crate::{
    archive::{InspectedArchive, Member, MemberKind, NameIssue},
    engine::{Authority, CaseResult, Level, NonPass, case},
    suites::authority,
};

pub(super) const CASES: &[ArchiveCase] = &[
    case("archive/members/relative-names", Level::Robust)
        .requirement("No member must have an absolute name.")
        .authority(authority::CWE_PATH_TRAVERSAL)
        .expected("relative names")
        .may_depend_on(&["archive/tar/not-empty"])
        .check(|archive| no_member(archive, |member| member.name_issues.contains(&NameIssue::Absolute))),
    case("archive/members/no-path-traversal", Level::Robust)
        .requirement("No member must have a name with a `..` component.")
        .authority(authority::CWE_PATH_TRAVERSAL)
        .expected("no `..` in a name")
        .may_depend_on(&["archive/tar/not-empty"])
        .check(|archive| {
            no_member(archive, |member| {
                member.name_issues.contains(&NameIssue::ParentComponent)
            })
        }),
    case("archive/members/no-symlink", Level::Robust)
        .requirement(
            "No member must be a symbolic link, because a link named container.log made a runtime read files \
            of the host.",
        )
        .authority(Authority::PROJECT)
        .motivation("CVE-2026-53489")
        .expected("no symbolic link")
        .may_depend_on(&["archive/tar/not-empty"])
        .check(|archive| no_member(archive, |member| member.kind == MemberKind::Symlink)),
    case("archive/members/no-hard-link", Level::Robust)
        .requirement("No member must be a hard link.")
        .authority(Authority::PROJECT)
        .motivation("CVE-2026-53489")
        .expected("no hard link")
        .may_depend_on(&["archive/tar/not-empty"])
        .check(|archive| no_member(archive, |member| member.kind == MemberKind::HardLink)),
    case("archive/members/no-device", Level::Robust)
        .requirement("No member must be a device or a FIFO.")
        .authority(authority::CWE_PATH_TRAVERSAL)
        .expected("no device and no FIFO")
        .may_depend_on(&["archive/tar/not-empty"])
        .check(|archive| {
            no_member(archive, |member| {
                matches!(member.kind, MemberKind::Device | MemberKind::Fifo)
            })
        }),
    case("archive/members/no-sparse", Level::Robust)
        .requirement(
            "No member must be sparse, because a crafted sparse map can make a reader use memory without \
            bound.",
        )
        .authority(Authority::PROJECT)
        .motivation("CVE-2025-58183")
        .expected("no sparse member")
        .may_depend_on(&["archive/tar/not-empty"])
        .check(|archive| no_member(archive, |member| member.kind == MemberKind::Sparse)),
    case("archive/members/posix-type", Level::Robust)
        .requirement("Every member must have a type that POSIX defines.")
        .authority(authority::API_OPERATIONS)
        .expected("POSIX member types")
        .may_depend_on(&["archive/tar/not-empty"])
        .check(|archive| no_member(archive, |member| matches!(member.kind, MemberKind::Other(_)))),
    case("archive/members/unique-names", Level::Robust)
        .requirement("No name must occur twice, because readers disagree on which member is used.")
        .authority(Authority::PROJECT)
        .motivation("cri-o#7355, cri-o#9692: images of an earlier attempt in the archive")
        .expected("unique names")
        .may_depend_on(&["archive/tar/not-empty"])
        .check(|archive| no_member(archive, |member| member.name_issues.contains(&NameIssue::Duplicate))),
    case("archive/members/valid-names", Level::Robust)
        .requirement(
            "Names must be UTF-8 without control characters, without empty or `.` components, and no longer \
            than a path.",
        )
        .authority(authority::CWE_PATH_TRAVERSAL)
        .expected("well-formed names")
        .may_depend_on(&["archive/tar/not-empty"])
        .check(|archive| no_member(archive, |member| member.name_issues.contains(&NameIssue::Malformed))),
    case("archive/members/no-setuid-setgid", Level::Robust)
        .requirement(
            "No member must be setuid or setgid, because unpacking it as root would create a privileged \
            program.",
        )
        .authority(authority::CWE_PATH_TRAVERSAL)
        .expected("no setuid and no setgid bit")
        .may_depend_on(&["archive/tar/not-empty"])
        .check(|archive| {
            no_member(archive, |member| {
                member.kind != MemberKind::Directory && member.mode & 0o6000 != 0
            })
        }),
    case("archive/members/directories-accessible", Level::Robust)
        .requirement("Every directory must have read and search permission for its owner.")
        .authority(Authority::PROJECT)
        .motivation("unpacked by a user other than root, a directory without these permissions hides its content")
        .expected("r-x for the owner")
        .may_depend_on(&["archive/tar/not-empty"])
        .check(|archive| {
            no_member(archive, |member| {
                member.kind == MemberKind::Directory && member.mode & 0o500 != 0o500
            })
        }),
    case("archive/members/newer-than-container", Level::Robust)
        .requirement(
            "No image must be older than the container, because such an image belongs to an earlier container \
            or attempt.",
        )
        .authority(Authority::PROJECT)
        .motivation("cri-o#7355, cri-o#9692: images of an earlier attempt in the archive")
        .expected("every image newer than createdTime")
        .depends_on(&["archive/metadata/config-dump-valid"])
        .may_depend_on(&["archive/metadata/times-ordered"])
        .check(images_newer_than_container),
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
        .filter(|member| member.kind == MemberKind::File && member.name.starts_with(cri_proto::criu::IMAGE_DIR));
    // A tar has a resolution of one second, and a writer without a clock writes 0.
    let stale = images.filter(|image| image.mtime != 0 && image.mtime < created.as_second());
    pass_unless(
        stale.map(|image| format!("{} with mtime {}", image.name, image.mtime)),
        format!("every image newer than createdTime {created}"),
    )
}

/// Fails if a member matches. If the tar cannot be read to its end, the members before that point are checked, and
/// otherwise the case is blocked.
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
