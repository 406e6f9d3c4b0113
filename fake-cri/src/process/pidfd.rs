//! Signals to a process and notice of its exit through a pidfd, which cannot refer to a later process (pidfd_open(2)).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use tokio::io::{Interest, unix::AsyncFd};

use super::{ProcessId, RemoteFd, pstree::esrch_as_not_found};

/// A pidfd. It becomes readable when the process exits.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens a pidfd of exactly this process. `NotFound` when it has been reaped or its pid belongs to another process.
    pub fn open(process: ProcessId) -> io::Result<Self> {
        let pid = rustix::process::Pid::from_raw(process.pid.as_raw()).ok_or(io::ErrorKind::NotFound)?;
        let fd =
            rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| esrch_as_not_found(errno.into()))?;
        // The start time must be read after the open: a process that has this pid and start time now also had the pid
        // when the pidfd was opened.
        if ProcessId::from_pid(process.pid)? != process {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self(fd))
    }

    /// Sends a signal. `NotFound` when the process was reaped.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        #[expect(unsafe_code, reason = "rustix's pidfd_send_signal takes no real-time signals")]
        // SAFETY: the fd stays open as long as `self`; a null siginfo means the same as for kill(2).
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(esrch_as_not_found(io::Error::last_os_error())),
        }
    }

    /// Duplicates an fd of the process into this process (pidfd_getfd(2), Linux 5.6).
    ///
    /// # Errors
    ///
    /// `EPERM` when the process may not be traced, `EBADF` when it has no such fd, `ENOSYS`.
    pub(crate) fn getfd(&self, fd: RemoteFd) -> io::Result<OwnedFd> {
        Ok(rustix::process::pidfd_getfd(
            self,
            fd.as_raw(),
            PidfdGetfdFlags::empty(),
        )?)
    }

    /// Waits until the process exits; it may still be a zombie then.
    pub async fn wait_exit(self) -> io::Result<()> {
        #[expect(unsafe_code, reason = "the caller must guarantee to tokio that the fd stays open")]
        // SAFETY: the registration owns the fd, so nothing closes it before the registration is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) }?;
        let mut ready = fd.readable().await?;
        ready.retain_ready();
        Ok(())
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends a signal to exactly this process. Returns false when the process was reaped.
pub fn signal(process: ProcessId, signal: i32) -> io::Result<bool> {
    match PidFd::open(process).and_then(|handle| handle.signal(signal)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::process::Pid;

    #[test]
    fn reused_pid_is_not_signalled() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("cat starts");
        let id = ProcessId::from_pid(Pid::from_raw(child.id() as i32)).expect("cat runs");
        let other = ProcessId {
            start_time: id.start_time + 1,
            ..id
        };
        assert!(!signal(other, libc::SIGKILL).expect("the call succeeds"));
        assert!(id.is_alive());
        assert!(signal(id, libc::SIGKILL).expect("cat is a child"));
        assert!(!child.wait().expect("wait").success());
        assert!(!signal(id, libc::SIGKILL).expect("the call succeeds"));
    }
}
