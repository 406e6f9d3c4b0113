//! Who is sent a signal when a file becomes ready (`F_SETOWN`, `F_SETSIG`), asked of a copy of the descriptor.

use std::os::fd::BorrowedFd;

use cri_proto::criu::message::{FileEntry, FownEntry};

use crate::{
    checkpoint::log::DumpLog,
    process::descriptor::{Owner, owner},
};

/// Nobody.
pub(super) fn no_owner() -> FownEntry {
    FownEntry::default()
}

/// Writes who is told of a file into its entry, whatever its kind.
pub(super) fn put(entry: &mut FileEntry, pid: i32, fd: i32, copy: BorrowedFd<'_>, log: &mut DumpLog) {
    // A descriptor that is no more than a place (`O_PATH`) has none.
    let told = owner(copy).unwrap_or_default();
    if told == Owner::default() {
        return;
    }
    let told = FownEntry {
        uid: told.users[0],
        euid: told.users[1],
        signum: told.signal,
        pid_type: told.kind,
        pid: told.pid,
    };
    if entry
        .pipe
        .as_ref()
        .is_some_and(|pipe| (pipe.fown.uid, pipe.fown.euid) != (0, 0))
    {
        log.lost(format_args!(
            "pid {pid}: the owner of the pipe of descriptor {fd}, in whose place is who is told of it (F_SETOWN)"
        ));
    }
    let places = [
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
    match places.into_iter().flatten().next() {
        Some(place) => *place = told,
        None => log.lost(format_args!("pid {pid}: who is told of descriptor {fd} (F_SETOWN)")),
    }
}
