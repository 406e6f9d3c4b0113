//! The process that is dumped, with the log of the checkpoint.

use std::{fmt, io};

use crate::checkpoint::{dump_log::DumpLog, error::Error};
use crate::process::{Pid, Tid};

/// What nearly every step of a dump needs.
pub(super) struct TaskCtx<'a> {
    pub(super) pid: Pid,
    /// A tid through which `/proc` shows the process: that of a live thread, or of the snapshot.
    pub(super) proc_tid: Tid,
    pub(super) log: &'a mut DumpLog,
}

impl<'a> TaskCtx<'a> {
    pub(super) fn new(pid: Pid, proc_tid: Tid, log: &'a mut DumpLog) -> Self {
        Self { pid, proc_tid, log }
    }

    /// The same process, read through another tid.
    pub(super) fn through(&mut self, proc_tid: Tid) -> TaskCtx<'_> {
        TaskCtx::new(self.pid, proc_tid, self.log)
    }

    /// Logs state of the process that the archive does not hold, or only with a default.
    pub(super) fn unsupported(&mut self, state: fmt::Arguments<'_>) {
        let pid = self.pid;
        self.log.unsupported(format_args!("pid {pid}: {state}"));
    }

    /// Reading this part of the process failed.
    pub(super) fn error<S: Into<String>, E: Into<io::Error>>(&self, subject: S) -> impl FnOnce(E) -> Error + use<S, E> {
        let pid = self.pid;
        move |error| Error::capture(pid, subject, error)
    }
}
