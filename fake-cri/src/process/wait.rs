//! Waiting for children, also while another thread of this process traces them.
//!
//! A wait by any thread of a process sees the stops of the process's own children even when another thread traces them,
//! and consumes these stops (`wait_consider_task` in the kernel treats a child that the thread group of its parent
//! traces as a tracee of the caller). Therefore [`try_wait_any`] must not run while a thread traces; [`reap_untraced`]
//! may.

use std::{io, mem, time::Duration};

use super::{Pid, pstree};

/// The pid argument of wait4(2) for a wait for any child.
const ANY_CHILD: i32 = -1;

/// A child that was reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// The pid that the child had.
    pub pid: Pid,
    /// The wait status as returned by wait(2).
    pub status: i32,
    /// CPU time of the child and of the children that it waited for; `None` when a tracer saw the exit.
    pub cpu_time: Option<Duration>,
}

impl Reaped {
    /// The exit code, and the signal that ended the child. With a signal, the code is 128 plus its number.
    pub fn exit_code(&self) -> (i32, Option<i32>) {
        if libc::WIFSIGNALED(self.status) {
            let signal = libc::WTERMSIG(self.status);
            (128 + signal, Some(signal))
        } else {
            (libc::WEXITSTATUS(self.status), None)
        }
    }
}

/// The result of a wait that does not block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitOutcome {
    /// A child had exited and is reaped now.
    Exited(Reaped),
    /// No child has exited yet.
    StillRunning,
    /// There is no child to wait for.
    NoChildren,
}

/// Reaps one child that has exited. Must not run while another thread of this process traces.
pub fn try_wait_any() -> io::Result<WaitOutcome> {
    try_wait4(ANY_CHILD)
}

/// Reaps this child if it has exited.
pub fn try_wait(pid: Pid) -> io::Result<WaitOutcome> {
    try_wait4(pid.as_raw())
}

/// Waits until this child exits, and reaps it. Fails with `ECHILD` when there is no such child.
pub fn wait_pid(pid: Pid) -> io::Result<Reaped> {
    loop {
        match wait4(pid.as_raw(), 0) {
            Ok(WaitOutcome::Exited(reaped)) => return Ok(reaped),
            Ok(_) => return Err(io::Error::from_raw_os_error(libc::ECHILD)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reaps the children accepted by `filter` that have exited and are not traced. May run while another thread traces: a
/// zombie cannot be seized, so a zombie without a tracer never gets one.
pub fn reap_untraced(parent_pid: Pid, filter: impl Fn(Pid) -> bool) -> io::Result<Vec<Reaped>> {
    let mut all_reaped = Vec::new();
    for child in pstree::children(parent_pid)? {
        if child.is_dead()
            && filter(child.id.pid)
            && pstree::tracer_tid(child.id.pid.main_thread()).is_none()
            && let WaitOutcome::Exited(reaped) = try_wait(child.id.pid)?
        {
            all_reaped.push(reaped);
        }
    }
    Ok(all_reaped)
}

fn try_wait4(pid: i32) -> io::Result<WaitOutcome> {
    loop {
        match wait4(pid, libc::WNOHANG) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn wait4(pid: i32, options: i32) -> io::Result<WaitOutcome> {
    let mut status = 0;
    #[expect(
        unsafe_code,
        reason = "no safe wrapper of wait4, the only wait that returns the CPU time of the child"
    )]
    // SAFETY: both pointers are to locals of the right types; an all-zero rusage is a valid value.
    let (result, usage) = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        (libc::wait4(pid, &raw mut status, options, &raw mut usage), usage)
    };
    match result {
        0 => Ok(WaitOutcome::StillRunning),
        -1 => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(WaitOutcome::NoChildren),
            error => Err(error),
        },
        // A stop of a tracee of this thread. The callers here do not trace.
        _ if !libc::WIFEXITED(status) && !libc::WIFSIGNALED(status) => Ok(WaitOutcome::StillRunning),
        pid => {
            let cpu = to_duration(usage.ru_utime) + to_duration(usage.ru_stime);
            Ok(WaitOutcome::Exited(Reaped {
                pid: Pid::from_raw(pid),
                status,
                cpu_time: Some(cpu),
            }))
        }
    }
}

fn to_duration(time: libc::timeval) -> Duration {
    Duration::new(
        time.tv_sec.unsigned_abs(),
        (time.tv_usec.unsigned_abs() as u32).saturating_mul(1000),
    )
}
