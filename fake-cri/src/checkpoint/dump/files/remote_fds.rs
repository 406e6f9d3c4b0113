//! Duplicates of a process's fds, for queries that need an open fd.

use std::os::fd::OwnedFd;

use crate::{
    checkpoint::dump_log::DumpLog,
    process::{ProcessId, pidfd::PidFd},
};

/// Duplicates fds of one process, if the kernel allows it.
pub(super) struct RemoteFds {
    pid: i32,
    pidfd: Option<PidFd>,
}

impl RemoteFds {
    pub(super) fn open(pid: i32, log: &mut DumpLog) -> Self {
        let process = ProcessId::from_pid(pid).and_then(PidFd::open);
        let process = process.inspect_err(|error| {
            log.unsupported(format_args!(
                "pid {pid}: the file owners (F_SETOWN), and the options and queues of its sockets: {error}"
            ));
        });
        Self {
            pid,
            pidfd: process.ok(),
        }
    }

    /// The duplicate of one fd. A failure is reported in the log.
    pub(super) fn dup(&self, fd: i32, log: &mut DumpLog) -> Option<OwnedFd> {
        let dup_fd = self.pidfd.as_ref()?.getfd(fd);
        let dup_fd = dup_fd.inspect_err(|error| {
            let pid = self.pid;
            log.unsupported(format_args!(
                "pid {pid}: the owner (F_SETOWN) of descriptor {fd}, and the options and the queue of a socket: {error}"
            ));
        });
        dup_fd.ok()
    }
}
