//! What a process is asked about itself, since neither `/proc` nor ptrace tells it: system calls injected into its stopped
//! threads ([`crate::process::inject`]). How that is done is here; the questions are in [`super::talk`] and [`super::inherited`].
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
    checkpoint::{error::Error, log::DumpLog},
    process::inject::{Answer, Area, Call, Gate, InjectError, Injection, UnderWay},
};

/// That a process cannot be asked.
pub(crate) fn unasked(pid: i32, why: &InjectError, log: &mut DumpLog) {
    log.lost(format_args!(
        "pid {pid}: its signal handlers, timers, alternate signal stacks, securebits, parent-death signal, dumpable and \
         subreaper flags, and the addresses its threads clear at their end, since {why}; they are defaults here"
    ));
}

/// Whether a process that an injection failed for can be written all the same.
pub(super) fn is_mute(error: &InjectError) -> bool {
    use InjectError::{Dispatched, NoGate, Seccomp, Width};
    matches!(error, NoGate | Width | Seccomp(_) | Dispatched)
}

/// The failure of a process that had been asked already, or that does not stand as it stood.
pub(super) fn failed(pid: i32, error: InjectError) -> Error {
    match error {
        InjectError::Ended => Error::Ended { pid },
        error => Error::capture(pid, "what it is asked", io::Error::other(error)),
    }
}

/// A thread that answers. Dropped, it has no area any more and stands as it stood.
pub(super) struct Asked {
    pub(super) pid: i32,
    pub(super) tid: i32,
    pub(super) injection: Injection,
    /// For answers that are more than a number.
    pub(super) area: Option<Area>,
}

impl Asked {
    /// Enters a thread, which has an area already or maps one; if it cannot have one, `lacking` cannot be asked.
    pub(super) fn enter(
        (pid, tid): (i32, i32),
        gate: Gate,
        options: i32,
        area: Option<Area>,
        (lacking, log): (&str, &mut DumpLog),
    ) -> Result<Self, InjectError> {
        let mut asked = Self {
            pid,
            tid,
            injection: Injection::enter(tid, gate, options)?,
            area,
        };
        if asked.area.is_none() {
            match Area::map(&mut asked.injection)? {
                Ok(area) => asked.area = Some(area),
                Err(errno) => log.lost(format_args!(
                    "pid {pid}: {lacking}, since it can map no page to answer into ({errno}); they are defaults here"
                )),
            }
        }
        Ok(asked)
    }

    /// Begins a list of calls: [`Injection::begin`].
    pub(super) fn begin(&mut self, calls: Vec<Call>, of_copy: &[Call]) -> Result<UnderWay, InjectError> {
        self.injection.begin(self.area.as_mut(), calls, of_copy)
    }

    /// Waits for the answers to a list: [`Injection::end`].
    pub(super) fn end(&mut self, under_way: UnderWay) -> Result<Vec<Answer>, InjectError> {
        self.injection.end(self.area.as_mut(), under_way)
    }

    /// The answers to a list of calls.
    pub(super) fn ask(&mut self, calls: Vec<Call>) -> Result<Vec<Answer>, InjectError> {
        let under_way = self.begin(calls, &[])?;
        self.end(under_way)
    }

    /// Has the thread stand as it stood.
    pub(super) fn leave(&mut self) -> Result<(), Error> {
        let unmapped = match self.area.take() {
            Some(area) => area.unmap(&mut self.injection),
            None => Ok(Ok(0)),
        };
        let left = self.injection.put_back();
        let unmapped = unmapped.map_err(|error| failed(self.pid, error))?;
        unmapped.map_err(|errno| Error::capture(self.pid, "munmap", errno))?;
        left.map_err(|error| failed(self.pid, error))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Whatever failed before says why.
        let _ = self.leave();
    }
}

/// Answers in the order of their questions.
pub(super) struct Reader<'a> {
    pub(super) pid: i32,
    pub(super) answers: &'a [Answer],
}

impl Reader<'_> {
    /// What the next call answered, which may have failed.
    pub(super) fn next(&mut self, what: &'static str) -> Result<&Answer, Error> {
        let lacks = || Error::capture(self.pid, what, io::Error::from(io::ErrorKind::UnexpectedEof));
        let (first, rest) = self.answers.split_first().ok_or_else(lacks)?;
        self.answers = rest;
        Ok(first)
    }

    /// The result of a call that has to succeed.
    pub(super) fn number(&mut self, what: &'static str) -> Result<u64, Error> {
        let pid = self.pid;
        self.next(what)?
            .result
            .map_err(|errno| Error::capture(pid, what, errno))
    }

    /// What a call that has to succeed wrote.
    pub(super) fn words<const N: usize>(&mut self, what: &'static str) -> Result<[u64; N], Error> {
        let pid = self.pid;
        let Answer { result, words } = self.next(what)?;
        result.map_err(|errno| Error::capture(pid, what, errno))?;
        Ok(words[..N].try_into().expect("no answer is longer"))
    }
}
