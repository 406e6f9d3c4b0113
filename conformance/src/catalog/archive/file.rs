//! Of the file itself: who may read it.

use super::given::{ArchiveCase, case, source};
use crate::{
    archive::{FileFacts, Inspected},
    case::{Judgement, Stop, judge},
};

pub(super) const CASES: &[ArchiveCase] = &[
    case!(
        "file/private",
        Documented,
        source::PAGE,
        "Nobody but its owner can read the archive: it holds all memory of all processes.",
        "no permission for group and others",
        |archive| {
            let file = facts(archive)?;
            judge(file.mode & 0o077 == 0, format!("mode {:04o}", file.mode))
        }
    ),
    case!(
        "file/owner",
        Documented,
        source::PAGE,
        "The archive belongs to root; where the runtime does not run as root, to the runtime's user.",
        "owner 0",
        owner
    ),
    case!(
        "file/mode",
        Reference,
        "containerd and CRI-O",
        "The archive's mode is 0600: nothing executes it.",
        "mode 0600",
        |archive| {
            let file = facts(archive)?;
            judge(file.mode == 0o600, format!("mode {:04o}", file.mode))
        }
    ),
    case!(
        "file/plain",
        Robust,
        "CWE-59: a symbolic link at the location is followed by real runtimes",
        "The archive is a file of its own: no symbolic link leads to it, no second name.",
        "a regular file with one name",
        |archive| {
            let file = facts(archive)?;
            let link = if file.symlink {
                "behind a symbolic link"
            } else {
                "a regular file"
            };
            judge(
                !file.symlink && file.names == 1,
                format!("{link} with {} names", file.names),
            )
        }
    ),
];

fn facts(archive: &Inspected) -> Result<&FileFacts, Stop> {
    let stream = || Stop::Skip("the archive came as a stream, which has no owner and no mode".to_owned());
    archive.file.as_ref().ok_or_else(stream)
}

fn owner(archive: &Inspected) -> Judgement {
    let file = facts(archive)?;
    let me = nix::unistd::geteuid().as_raw();
    match file.uid {
        0 => Ok("owner 0".to_owned()),
        uid if uid == me => Ok(format!("owner {uid}, the user of this run, which is not root's")),
        uid => Err(Stop::Fail(format!("owner {uid}"))),
    }
}
