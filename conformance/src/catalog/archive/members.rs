//! Of any member: nothing that leads a reader out of the folder it unpacks to, or makes it hold what it cannot.

use cri_proto::document::never;

use super::given::{ArchiveCase, case, config, none, source, whole};
use crate::{
    archive::{Inspected, Kind, Member, Oddity},
    case::{Judgement, Stop},
};

const TRAVERSAL: &str = "CWE-22; archives are unpacked by runtimes as root";

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "members/relative",
        Robust,
        TRAVERSAL,
        "No member has an absolute name.",
        "relative names",
        |archive| without(archive, |member| member.oddities.contains(&Oddity::Absolute))
    ),
    case!(
        "members/no-parent",
        Robust,
        TRAVERSAL,
        "No member's name climbs out of its folder.",
        "no `..` in a name",
        |archive| without(archive, |member| member.oddities.contains(&Oddity::Parent))
    ),
    case!(
        "members/no-symlink",
        Robust,
        source::LINK,
        "No member is a symbolic link: a link called container.log made a runtime read files of the host.",
        "no symbolic link",
        |archive| without(archive, |member| member.kind == Kind::Symlink)
    ),
    case!(
        "members/no-hard-link",
        Robust,
        source::LINK,
        "No member is a hard link.",
        "no hard link",
        |archive| without(archive, |member| member.kind == Kind::HardLink)
    ),
    case!(
        "members/no-device",
        Robust,
        TRAVERSAL,
        "No member is a device or a FIFO.",
        "no device, no FIFO",
        |archive| without(archive, |member| matches!(member.kind, Kind::Device | Kind::Fifo))
    ),
    case!(
        "members/no-sparse",
        Robust,
        source::SPARSE,
        "No member is stored with holes: a reader that follows a map of holes can be made to take memory without bound.",
        "no sparse member",
        |archive| without(archive, |member| member.kind == Kind::Sparse)
    ),
    case!(
        "members/known-kind",
        Robust,
        source::POSIX,
        "Every member is of a kind that POSIX knows.",
        "files and directories",
        |archive| without(archive, |member| matches!(member.kind, Kind::Other(_)))
    ),
    case!(
        "members/unique",
        Robust,
        "cri-o#7355, cri-o#9692: images of an earlier attempt in the archive",
        "No name occurs twice: readers disagree on which one counts.",
        "every name once",
        |archive| without(archive, |member| member.oddities.contains(&Oddity::Duplicate))
    ),
    case!(
        "members/clean-names",
        Robust,
        TRAVERSAL,
        "Names are what they seem: UTF-8 without control characters, empty or `.` components, and no longer than a path.",
        "plain names",
        |archive| without(archive, |member| member.oddities.contains(&Oddity::Unclean))
    ),
    case!(
        "members/no-set-id",
        Robust,
        TRAVERSAL,
        "No member is setuid or setgid: unpacked by root it would be a way to root.",
        "no setuid, no setgid",
        |archive| without(archive, |member| member.kind != Kind::Directory
            && member.mode & 0o6000 != 0)
    ),
    case!(
        "members/directory-modes",
        Robust,
        "unpacked by a user other than root, a directory without these permissions hides what is in it",
        "Every directory must have the permissions to read and to search it for its owner.",
        "r-x for the owner",
        |archive| without(archive, |member| member.kind == Kind::Directory
            && member.mode & 0o500 != 0o500)
    ),
    case!(
        "members/fresh",
        Robust,
        "cri-o#7355, cri-o#9692: images of an earlier attempt in the archive",
        "No image is older than the container: it would be of an earlier one, or of an earlier attempt.",
        "every image changed after createdTime",
        fresh
    ),
];

fn fresh(archive: &Inspected) -> Judgement {
    let config = config(archive)?;
    let created = config.created;
    if config.checkpointed != never() && created > config.checkpointed {
        return Err(Stop::Blocked("archive/documents/times"));
    }
    let images = archive
        .members
        .iter()
        .filter(|member| member.kind == Kind::File && member.name.starts_with("checkpoint/"));
    // A tar has whole seconds, and a writer without a clock writes 0.
    let old = images.filter(|image| image.mtime != 0 && image.mtime < created.as_second());
    none(
        old.map(|image| format!("{} of second {}", image.name, image.mtime)),
        format!("created at {created}, and nothing is older"),
    )
}

/// No member is like this; and where the tar cannot be read to its end, none of those seen before it.
fn without(archive: &Inspected, bad: fn(&Member) -> bool) -> Judgement {
    let found = archive.members.iter().filter(|member| bad(member));
    let found = found.map(|member| format!("{} (byte {}, {:?})", member.name, member.offset, member.kind));
    let seen = none(found, format!("{} members", archive.members.len()))?;
    whole(archive)?;
    if archive.members.is_empty() {
        return Err(Stop::Blocked("archive/tar/not-empty"));
    }
    Ok(seen)
}
