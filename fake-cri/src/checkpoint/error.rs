//! Failures inside the engine, and their mapping to the kinds that callers distinguish.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{ErrorKind, Failure, location::LocationError};
use crate::process::{Pid, Tid, proc_files};

/// A failure inside the engine. The messages continue "failed to checkpoint: ...".
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cancelled by the caller")]
    Cancelled,
    #[error("the deadline passed")]
    DeadlineExceeded,
    #[error("process {pid} of the container exited")]
    TaskExited { pid: Pid },
    #[error("the container has no running process")]
    NoRunningProcess,
    #[error("list the container's processes: {0}")]
    ListMembers(io::Error),
    #[error("freeze the container: process {pid} ({command}), thread {tid}: {reason}; the container was thawed")]
    Freeze {
        pid: Pid,
        tid: Tid,
        command: String,
        reason: FreezeReason,
    },
    #[error(
        "freeze the container: process {pid} is in the frozen cgroup {cgroup} ({knob}); thaw the cgroup first: \
         the container was not changed"
    )]
    FrozenCgroup {
        pid: Pid,
        cgroup: PathBuf,
        knob: &'static str,
    },
    #[error("freeze the container: new processes and threads kept appearing for {0:?}; the container was thawed")]
    FreezeUnstable(Duration),
    #[error("read {subject} of process {pid}: {source}")]
    Capture {
        pid: Pid,
        subject: String,
        source: io::Error,
    },
    #[error("{action} {path}: {source}")]
    Write {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the directory of {0} does not exist")]
    DirectoryMissing(PathBuf),
    #[error(transparent)]
    Location(LocationError),
    #[error("--strict-capture: unsupported state: {0}")]
    UnsupportedState(String),
    #[error(transparent)]
    Hook(Failure),
    #[error("checkpoints are not supported on {}", std::env::consts::ARCH)]
    #[cfg_attr(
        any(target_arch = "x86_64", target_arch = "aarch64"),
        expect(dead_code, reason = "this architecture is supported")
    )]
    UnsupportedArch,
    #[error("page size of {0} bytes is not supported, only 4096")]
    UnsupportedPageSize(i64),
    #[error("start the tracer: {0}")]
    SpawnTracer(io::Error),
    #[error("the tracer panicked; the container was thawed")]
    TracerPanicked,
}

/// Why a thread did not stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FreezeReason {
    #[error("it is traced by process {0}, and a thread can have only one tracer")]
    OtherTracer(Tid),
    #[error("it may not be traced: {0}")]
    TraceDenied(&'static str),
    #[error("it waits in vfork until its child calls exec or exits (waited {0:?})")]
    Vfork(Duration),
    #[error("it is in uninterruptible sleep (state D{wchan}) and did not leave it within {bound:?}")]
    Uninterruptible { wchan: String, bound: Duration },
    #[error("it did not stop within {0:?} (state {1})")]
    Unresponsive(Duration, char),
    #[error("{0}")]
    Kernel(String),
}

impl Error {
    /// An operation on the archive or on another file failed.
    pub(crate) fn write(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Write {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Reading a process failed. Returns `TaskExited` if the process is gone or exiting, whatever error the kernel
    /// returned.
    pub(crate) fn capture(pid: Pid, subject: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        if source.raw_os_error() == Some(libc::ESRCH) || proc_files::is_dead(pid) {
            return Self::TaskExited { pid };
        }
        Self::Capture {
            pid,
            subject: subject.into(),
            source,
        }
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Cancelled => ErrorKind::Cancelled,
            Self::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            Self::TaskExited { .. } | Self::NoRunningProcess => ErrorKind::NotRunning,
            Self::Freeze { .. } | Self::FreezeUnstable(_) => ErrorKind::Freeze,
            Self::FrozenCgroup { .. } => ErrorKind::FrozenCgroup,
            Self::ListMembers(_) | Self::Capture { .. } | Self::SpawnTracer(_) | Self::TracerPanicked => {
                ErrorKind::Capture
            }
            Self::Write { source, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => ErrorKind::NoSpace,
                _ => ErrorKind::Write,
            },
            Self::UnsupportedState(_) => ErrorKind::UnsupportedState,
            Self::DirectoryMissing(_) => ErrorKind::DirectoryMissing,
            Self::Location(LocationError::Unreadable { source, .. }) => match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => ErrorKind::NoSpace,
                _ => ErrorKind::Write,
            },
            Self::Location(_) => ErrorKind::Location,
            Self::Hook(failure) => failure.kind,
            Self::UnsupportedArch | Self::UnsupportedPageSize(_) => ErrorKind::UnsupportedPlatform,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}
