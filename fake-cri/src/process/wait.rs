//! Waiting for children, also while another thread of this process traces them.
//!
//! A wait by any thread of a process sees the stops of the process's own children even when another thread is their
//! tracer, and takes them away from it (`wait_consider_task` in the kernel: a child that is traced by its parent's thread
//! group is treated as the caller's tracee). So [`try_wait_any`] must not run while a thread traces; [`reap_untraced`] may.

use std::{io, mem, time::Duration};

use super::pstree;

/// A child that has ended and is gone now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Its number.
    pub pid: i32,
    /// Its wait status, as wait(2) gives it.
    pub status: i32,
    /// CPU time of it and of those it had waited for; `None` when another one reaped it.
    pub cpu_time: Option<Duration>,
}

impl Reaped {
    /// Its exit code (128 plus the signal's number when one ended it) and that signal.
    pub fn exit_code(&self) -> (i32, Option<i32>) {
        if libc::WIFSIGNALED(self.status) {
            let signal = libc::WTERMSIG(self.status);
            (128 + signal, Some(signal))
        } else {
            (libc::WEXITSTATUS(self.status), None)
        }
    }
}

/// What a wait all_reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitOutcome {
    /// A child had ended.
    Exited(Reaped),
    /// None has ended yet.
    StillRunning,
    /// There are no children at all.
    NoChildren,
}

/// Reaps one child that has ended. Must not run while another thread of this process traces.
pub fn try_wait_any() -> io::Result<WaitOutcome> {
    try_wait4(-1)
}

/// Reaps one child of this number if it has ended.
pub fn try_wait(pid: i32) -> io::Result<WaitOutcome> {
    try_wait4(pid)
}

/// Waits until a child of this number has ended, and reaps it.
pub fn wait_pid(pid: i32) -> io::Result<Reaped> {
    loop {
        match wait4(pid, 0) {
            Ok(WaitOutcome::Exited(reaped)) => return Ok(reaped),
            Ok(_) => return Err(io::Error::from_raw_os_error(libc::ECHILD)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reaps those of the `filter` children that have ended and that no tracer holds. May run while another thread traces: a
/// zombie cannot be seized any more, so one without a tracer stays without one.
pub fn reap_untraced(parent_pid: i32, filter: impl Fn(i32) -> bool) -> io::Result<Vec<Reaped>> {
    let mut all_reaped = Vec::new();
    for child in pstree::children(parent_pid)? {
        if child.is_dead()
            && filter(child.id.pid)
            && pstree::tracer_tid(child.id.pid) == 0
            && let WaitOutcome::Exited(reaped) = try_wait4(child.id.pid)?
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
        reason = "no safe wrapper of wait4, which alone tells a child's CPU time"
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
        // A stop of a tracee of this very thread; nobody asks for those here.
        _ if !libc::WIFEXITED(status) && !libc::WIFSIGNALED(status) => Ok(WaitOutcome::StillRunning),
        pid => {
            let cpu = to_duration(usage.ru_utime) + to_duration(usage.ru_stime);
            Ok(WaitOutcome::Exited(Reaped {
                pid,
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
