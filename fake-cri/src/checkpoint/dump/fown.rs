//! The process that is signalled when a file becomes ready (`F_SETOWN`, `F_SETSIG`), read through a duplicate of the
//! fd.

use std::os::fd::BorrowedFd;

use cri_proto::criu::message::{FileEntry, FownEntry};

use super::context::TaskCtx;
use crate::process::{
    RemoteFd,
    descriptor::{Fown, read_fown},
};

pub(super) fn no_fown() -> FownEntry {
    FownEntry::default()
}

/// Sets the F_SETOWN owner in an entry of any type.
pub(super) fn set_fown(task: &mut TaskCtx<'_>, entry: &mut FileEntry, fd: RemoteFd, dup_fd: BorrowedFd<'_>) {
    // An `O_PATH` fd has no owner.
    let fown = read_fown(dup_fd).unwrap_or_default();
    if fown == Fown::default() {
        return;
    }
    let fown_entry = FownEntry {
        uid: fown.uids[0],
        euid: fown.uids[1],
        signum: fown.signal,
        pid_type: fown.kind,
        pid: fown.pid,
    };
    if entry
        .pipe
        .as_ref()
        .is_some_and(|pipe| (pipe.fown.uid, pipe.fown.euid) != (0, 0))
    {
        task.unsupported(format_args!(
            "the uid and gid of the pipe of descriptor {fd}, whose fields hold its F_SETOWN owner"
        ));
    }
    let fowns = [
        entry.reg.as_mut().map(|file| &mut file.fown),
        entry.isk.as_mut().map(|file| &mut file.fown),
        entry.usk.as_mut().map(|file| &mut file.fown),
        entry.pipe.as_mut().map(|file| &mut file.fown),
        entry.efd.as_mut().map(|file| &mut file.fown),
        entry.epfd.as_mut().map(|file| &mut file.fown),
        entry.sgfd.as_mut().map(|file| &mut file.fown),
        entry.tfd.as_mut().map(|file| &mut file.fown),
        entry.ify.as_mut().map(|file| &mut file.fown),
        entry.tty.as_mut().map(|file| &mut file.fown),
        entry.pidfd.as_mut().map(|file| &mut file.fown),
        entry.memfd.as_mut().map(|file| &mut file.fown),
    ];
    match fowns.into_iter().flatten().next() {
        Some(fown_field) => *fown_field = fown_entry,
        None => task.unsupported(format_args!("the owner of descriptor {fd} (F_SETOWN)")),
    }
}
