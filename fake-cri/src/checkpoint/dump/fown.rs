//! Who is sent a signal when a file becomes ready (`F_SETOWN`, `F_SETSIG`), asked of a copy of the descriptor.

use std::os::fd::BorrowedFd;

use cri_proto::criu::message::{FileEntry, FownEntry};

use crate::{
    checkpoint::dump_log::DumpLog,
    process::descriptor::{Fown, read_fown},
};

/// Nobody.
pub(super) fn no_fown() -> FownEntry {
    FownEntry::default()
}

/// Writes who is told of a file into its entry, whatever its kind.
pub(super) fn set_fown(entry: &mut FileEntry, pid: i32, fd: i32, dup_fd: BorrowedFd<'_>, log: &mut DumpLog) {
    // A descriptor that is no more than a place (`O_PATH`) has none.
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
        log.unsupported(format_args!(
            "pid {pid}: the owner of the pipe of descriptor {fd}, in whose place is who is told of it (F_SETOWN)"
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
        None => log.unsupported(format_args!("pid {pid}: who is told of descriptor {fd} (F_SETOWN)")),
    }
}
