//! Copies of a process's descriptors, to ask what only a holder may.

use std::os::fd::OwnedFd;

use crate::{
    checkpoint::log::DumpLog,
    process::{descriptor, pidfd::PidFd, proc},
};

/// Copies of the descriptors of one process, where they can be had.
pub(super) struct Copies {
    pid: i32,
    process: Option<PidFd>,
}

impl Copies {
    /// Of this process.
    pub(super) fn of(pid: i32, log: &mut DumpLog) -> Self {
        let process = proc::identity(pid).and_then(PidFd::open);
        let process = process.inspect_err(|error| {
            log.lost(format_args!(
                "pid {pid}: who is told of its files, and the options and queues of its sockets: {error}"
            ));
        });
        Self {
            pid,
            process: process.ok(),
        }
    }

    /// That of one descriptor; why there is none is in the log.
    pub(super) fn get(&self, fd: i32, log: &mut DumpLog) -> Option<OwnedFd> {
        let copy = descriptor::copy(self.process.as_ref()?, fd);
        let copy = copy.inspect_err(|error| {
            let pid = self.pid;
            log.lost(format_args!(
                "pid {pid}: who is told of descriptor {fd}, and the options and the queue of a socket: {error}"
            ));
        });
        copy.ok()
    }
}
