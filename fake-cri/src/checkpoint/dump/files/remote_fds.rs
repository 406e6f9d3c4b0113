//! Duplicates of a process's fds, for queries that need an open fd.

use std::os::fd::OwnedFd;

use super::super::context::TaskCtx;
use crate::process::{ProcessId, RemoteFd, pidfd::PidFd};

/// Duplicates fds of one process, if the kernel allows it.
pub(super) struct RemoteFds {
    pidfd: Option<PidFd>,
}

impl RemoteFds {
    pub(super) fn open(task: &mut TaskCtx<'_>) -> Self {
        let process = ProcessId::from_pid(task.pid).and_then(PidFd::open);
        let process = process.inspect_err(|error| {
            task.unsupported(format_args!(
                "the file owners (F_SETOWN), and the options and queues of its sockets: {error}"
            ));
        });
        Self { pidfd: process.ok() }
    }

    /// The duplicate of one fd. A failure is reported in the log.
    pub(super) fn dup(&self, task: &mut TaskCtx<'_>, fd: RemoteFd) -> Option<OwnedFd> {
        let dup_fd = self.pidfd.as_ref()?.getfd(fd);
        let dup_fd = dup_fd.inspect_err(|error| {
            task.unsupported(format_args!(
                "the owner (F_SETOWN) of descriptor {fd}, and the options and the queue of a socket: {error}"
            ));
        });
        dup_fd.ok()
    }
}
