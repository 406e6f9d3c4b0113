//! What a process is asked about itself, since neither `/proc` nor ptrace tells it: system calls injected into its stopped
//! threads ([`crate::process::remote_syscalls`]). How that is done is here; the questions are in [`super::task_query`] and [`super::fork_state`].
//!
//! ```text
//!   the process, while it stands      mmap of an area for the answers
//!     every POSIX timer
//!     every other thread              alternate signal stack, clear_child_tid, parent-death signal, securebits
//!     first standing thread:          PR_SET_MDWE, interval timers, subreaper, and the same; clone, where a copy is wanted
//!                                     munmap
//!   the process, or a copy of it      mmap, unless the copy has the area already
//!   that fork(2) made:                actions of caught signals and SIGCHLD, brk, dumpable, membarrier
//!                                     munmap
//! ```
//!
//! What the first thread is asked is under way while the tracer reads what else there is. What a fork keeps is asked of
//! the copy when there is one, since the container runs on then. The area is gone before the mappings' flags and pages are read,
//! so no archive shows it. A process that cannot be asked (a seccomp filter that may not be suspended, a 32-bit program) is
//! written with defaults, and `dump.log` says which. One that can map no memory (`RLIMIT_AS`) is asked what it answers without,
//! and the rest is said likewise.

use std::io;

use crate::{
    checkpoint::{dump_log::DumpLog, error::Error},
    process::remote_syscalls::{
        PendingList, RemoteSyscallError, RemoteSyscalls, Syscall, SyscallBuffer, SyscallInsn, SyscallResult,
    },
};

/// That a process cannot be asked.
pub(crate) fn log_unqueryable(pid: i32, reason: &RemoteSyscallError, log: &mut DumpLog) {
    log.unsupported(format_args!(
        "pid {pid}: its signal handlers, timers, alternate signal stacks, securebits, parent-death signal, dumpable and \
         subreaper flags, and the addresses its threads clear at their end, since {reason}; they are defaults here"
    ));
}

/// Whether a process that an injection failed for can be written all the same.
pub(super) fn is_unqueryable(error: &RemoteSyscallError) -> bool {
    use RemoteSyscallError::{ForeignAbi, NoSyscallInsn, Seccomp, SyscallUserDispatch};
    matches!(error, NoSyscallInsn | ForeignAbi | Seccomp(_) | SyscallUserDispatch)
}

/// The failure of a process that had been asked already, or that does not stand as it stood.
pub(super) fn query_error(pid: i32, error: RemoteSyscallError) -> Error {
    match error {
        RemoteSyscallError::Exited => Error::TaskExited { pid },
        error => Error::capture(pid, "what it is asked", io::Error::other(error)),
    }
}

/// A thread that answers. Dropped, it has no area any more and stands as it stood.
pub(super) struct Parasite {
    pub(super) pid: i32,
    pub(super) tid: i32,
    pub(super) remote: RemoteSyscalls,
    /// For answers that are more than a number.
    pub(super) buffer: Option<SyscallBuffer>,
}

impl Parasite {
    /// Enters a thread, which has an area already or maps one; if it cannot have one, `lacking` cannot be asked.
    pub(super) fn attach(
        (pid, tid): (i32, i32),
        syscall_insn: SyscallInsn,
        options: i32,
        buffer: Option<SyscallBuffer>,
        (unavailable, log): (&str, &mut DumpLog),
    ) -> Result<Self, RemoteSyscallError> {
        let mut parasite = Self {
            pid,
            tid,
            remote: RemoteSyscalls::attach(tid, syscall_insn, options)?,
            buffer,
        };
        if parasite.buffer.is_none() {
            match SyscallBuffer::map(&mut parasite.remote)? {
                Ok(buffer) => parasite.buffer = Some(buffer),
                Err(errno) => log.unsupported(format_args!(
                    "pid {pid}: {unavailable}, since it can map no page to answer into ({errno}); they are defaults here"
                )),
            }
        }
        Ok(parasite)
    }

    /// Begins a list of calls: [`Injection::begin`].
    pub(super) fn start(
        &mut self,
        calls: Vec<Syscall>,
        snapshot_calls: &[Syscall],
    ) -> Result<PendingList, RemoteSyscallError> {
        self.remote.begin_list(self.buffer.as_mut(), calls, snapshot_calls)
    }

    /// Waits for the answers to a list: [`Injection::end`].
    pub(super) fn wait(&mut self, pending: PendingList) -> Result<Vec<SyscallResult>, RemoteSyscallError> {
        self.remote.finish_list(self.buffer.as_mut(), pending)
    }

    /// The answers to a list of calls.
    pub(super) fn run(&mut self, calls: Vec<Syscall>) -> Result<Vec<SyscallResult>, RemoteSyscallError> {
        let pending = self.start(calls, &[])?;
        self.wait(pending)
    }

    /// Has the thread stand as it stood.
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
        // Whatever failed before says why.
        let _ = self.detach();
    }
}

/// Answers in the order of their questions.
pub(super) struct ResultReader<'a> {
    pub(super) pid: i32,
    pub(super) results: &'a [SyscallResult],
}

impl ResultReader<'_> {
    /// What the next call answered, which may have failed.
    pub(super) fn next_result(&mut self, query: &'static str) -> Result<&SyscallResult, Error> {
        let missing = || Error::capture(self.pid, query, io::Error::from(io::ErrorKind::UnexpectedEof));
        let (first, rest) = self.results.split_first().ok_or_else(missing)?;
        self.results = rest;
        Ok(first)
    }

    /// The result of a call that has to succeed.
    pub(super) fn return_value(&mut self, query: &'static str) -> Result<u64, Error> {
        let pid = self.pid;
        self.next_result(query)?
            .result
            .map_err(|errno| Error::capture(pid, query, errno))
    }

    /// What a call that has to succeed wrote.
    pub(super) fn output_words<const N: usize>(&mut self, query: &'static str) -> Result<[u64; N], Error> {
        let pid = self.pid;
        let SyscallResult { result, output: words } = self.next_result(query)?;
        result.map_err(|errno| Error::capture(pid, query, errno))?;
        Ok(words[..N].try_into().expect("no answer is longer"))
    }
}
