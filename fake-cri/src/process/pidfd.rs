//! Signals to a process and notice of its exit through a pidfd, which cannot refer to a later process (pidfd_open(2)).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::ProcessId;

/// A pidfd. It becomes readable when the process exits.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens a pidfd of exactly this process. `NotFound` when it has been reaped or its pid belongs to another process.
    pub fn open(process: ProcessId) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "no safe wrapper of pidfd_open")]
        // SAFETY: the system call takes two integers; a result that is not negative is a new fd that nothing else owns.
        let fd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, process.pid, 0);
            if fd < 0 {
                let error = io::Error::last_os_error();
                let vanished = error.raw_os_error() == Some(libc::ESRCH);
                return Err(if vanished {
                    io::ErrorKind::NotFound.into()
                } else {
                    error
                });
            }
            OwnedFd::from_raw_fd(fd as i32)
        };
        // The start time must be read after the open: a process that has this pid and start time now also had the pid
        // when the pidfd was opened.
        if ProcessId::from_pid(process.pid)? != process {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self(fd))
    }

    /// Sends a signal. `NotFound` when the process was reaped.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        #[expect(unsafe_code, reason = "no safe wrapper of pidfd_send_signal")]
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
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        Err(if error.raw_os_error() == Some(libc::ESRCH) {
            io::ErrorKind::NotFound.into()
        } else {
            error
        })
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

    #[test]
    fn reused_pid_is_not_signalled() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("cat starts");
        let id = ProcessId::from_pid(child.id() as i32).expect("cat runs");
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
