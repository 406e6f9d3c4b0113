//! Queries state that neither `/proc` nor ptrace shows, by remote syscalls in the stopped tasks
//! ([`crate::process::remote_syscalls`]). The queries themselves are in [`super::task_query`] and
//! [`super::fork_state`].
//!
//! ```text
//!   the frozen process                mmap of a syscall buffer for the results
//!     every POSIX timer
//!     every other thread              alternate signal stack, clear_child_tid, parent-death signal, securebits
//!     first live thread               PR_GET_MDWE, interval timers, subreaper, and the same; clone for a snapshot
//!                                     munmap
//!   the process or its snapshot       mmap, unless the snapshot inherited the buffer
//!                                     actions of caught signals and SIGCHLD, brk, dumpable, membarrier
//!                                     munmap
//! ```
//!
//! The queries of the first live thread run while the tracer reads other state. State that fork preserves is queried in
//! the snapshot, if there is one, because the container already runs then. The buffer is unmapped before the mappings'
//! flags and pages are read, so no archive contains it. A process that cannot be queried (a seccomp filter that cannot
//! be suspended, a 32-bit program) is dumped with defaults, and `dump.log` lists them. If a process cannot map the
//! buffer (`RLIMIT_AS`), only queries that need no buffer are made, and `dump.log` lists the rest.

use std::io;

use super::context::TaskCtx;
use crate::{
    checkpoint::{dump_log::DumpLog, error::Error},
    process::{
        Pid, Tid,
        remote_syscalls::{
            PendingList, RemoteSyscallError, RemoteSyscalls, Syscall, SyscallBuffer, SyscallInsn, SyscallResult,
        },
    },
};

/// Logs that a process cannot be queried.
pub(crate) fn log_unqueryable(pid: Pid, reason: &RemoteSyscallError, log: &mut DumpLog) {
    log.unsupported(format_args!(
        "pid {pid}: its signal handlers, timers, alternate signal stacks, securebits, parent-death signal, dumpable and \
         subreaper flags, and its threads' clear_child_tid addresses: {reason}; the archive has defaults"
    ));
}

/// Why a query did not begin.
pub(crate) enum QueryError {
    /// The process can still be dumped, with defaults.
    Unqueryable(RemoteSyscallError),
    /// The checkpoint fails.
    Failed(Error),
}

impl QueryError {
    fn attach(pid: Pid, error: RemoteSyscallError) -> Self {
        use RemoteSyscallError::{ForeignAbi, NoSyscallInsn, Seccomp, SyscallUserDispatch};
        match error {
            NoSyscallInsn | ForeignAbi | Seccomp(_) | SyscallUserDispatch => Self::Unqueryable(error),
            error => Self::Failed(query_error(pid, error)),
        }
    }
}

impl From<Error> for QueryError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The failure of a query that had begun, or of the restore of the process afterwards.
pub(super) fn query_error(pid: Pid, error: RemoteSyscallError) -> Error {
    match error {
        RemoteSyscallError::Exited => Error::TaskExited { pid },
        error => Error::capture(pid, "the parasite query", io::Error::other(error)),
    }
}

/// A session of remote syscalls in a thread. Drop unmaps the buffer and restores the thread.
pub(super) struct Parasite {
    pub(super) pid: Pid,
    pub(super) tid: Tid,
    pub(super) remote: RemoteSyscalls,
    /// For results that do not fit the return value.
    pub(super) buffer: Option<SyscallBuffer>,
}

impl Parasite {
    /// Attaches to a thread that has a buffer, or maps one. If no buffer can be mapped, `unavailable` is logged.
    pub(super) fn attach(
        task: &mut TaskCtx<'_>,
        syscall_insn: SyscallInsn,
        options: i32,
        buffer: Option<SyscallBuffer>,
        unavailable: &str,
    ) -> Result<Self, QueryError> {
        let pid = task.pid;
        let attach_failed = |error| QueryError::attach(pid, error);
        let mut parasite = Self {
            pid,
            tid: task.proc_tid,
            remote: RemoteSyscalls::attach(task.proc_tid, syscall_insn, options).map_err(attach_failed)?,
            buffer,
        };
        if parasite.buffer.is_none() {
            match SyscallBuffer::map(&mut parasite.remote).map_err(attach_failed)? {
                Ok(buffer) => parasite.buffer = Some(buffer),
                Err(errno) => task.unsupported(format_args!(
                    "{unavailable}: no page could be mapped for the results ({errno}); the archive has \
                     defaults"
                )),
            }
        }
        Ok(parasite)
    }

    /// Starts a syscall list: [`RemoteSyscalls::begin_list`].
    pub(super) fn start(
        &mut self,
        calls: Vec<Syscall>,
        snapshot_calls: &[Syscall],
    ) -> Result<PendingList, RemoteSyscallError> {
        self.remote.begin_list(self.buffer.as_mut(), calls, snapshot_calls)
    }

    /// Waits for the results of a list: [`RemoteSyscalls::finish_list`].
    pub(super) fn wait(&mut self, pending: PendingList) -> Result<Vec<SyscallResult>, RemoteSyscallError> {
        self.remote.finish_list(self.buffer.as_mut(), pending)
    }

    /// Executes a syscall list.
    pub(super) fn run(&mut self, calls: Vec<Syscall>) -> Result<Vec<SyscallResult>, RemoteSyscallError> {
        let pending = self.start(calls, &[])?;
        self.wait(pending)
    }

    /// Unmaps the buffer and restores the thread.
    pub(super) fn detach(&mut self) -> Result<(), Error> {
        let munmap_result = match self.buffer.take() {
            Some(buffer) => buffer.unmap(&mut self.remote),
            None => Ok(Ok(0)),
        };
        let restore_result = self.remote.restore();
        let unmapped = munmap_result.map_err(|error| query_error(self.pid, error))?;
        unmapped.map_err(|errno| Error::capture(self.pid, "munmap", errno))?;
        restore_result.map_err(|error| query_error(self.pid, error))
    }
}

impl Drop for Parasite {
    fn drop(&mut self) {
        // The error that caused the drop was already reported.
        let _ = self.detach();
    }
}

/// Reads results in the order of their calls.
pub(super) struct ResultReader<'a> {
    pub(super) pid: Pid,
    pub(super) results: &'a [SyscallResult],
}

impl ResultReader<'_> {
    /// The result of the next call, which may have failed.
    pub(super) fn next_result(&mut self, query: &'static str) -> Result<&SyscallResult, Error> {
        let missing = || Error::capture(self.pid, query, io::Error::from(io::ErrorKind::UnexpectedEof));
        let (first, rest) = self.results.split_first().ok_or_else(missing)?;
        self.results = rest;
        Ok(first)
    }

    /// The return value of a call that must succeed.
    pub(super) fn return_value(&mut self, query: &'static str) -> Result<u64, Error> {
        let pid = self.pid;
        self.next_result(query)?
            .result
            .map_err(|errno| Error::capture(pid, query, errno))
    }

    /// The output of a call that must succeed.
    pub(super) fn output_words<const N: usize>(&mut self, query: &'static str) -> Result<[u64; N], Error> {
        let pid = self.pid;
        let SyscallResult { result, output: words } = self.next_result(query)?;
        result.map_err(|errno| Error::capture(pid, query, errno))?;
        Ok(words[..N].try_into().expect("at most the size of the output"))
    }
}
