//! Signals and news of a process that hit no other one: through a descriptor of it (pidfd_open(2)).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::ProcessId;

/// A handle to one process. It becomes readable when the process has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens exactly this process. `NotFound` when it has ended or its number belongs to another one now.
    pub fn open(process: ProcessId) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "no safe wrapper of pidfd_open")]
        // SAFETY: the system call takes two integers; a result that is not negative is a new descriptor nobody else owns.
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
        // Only now is the number held by the descriptor, so only now does the start time prove anything.
        if ProcessId::from_pid(process.pid)? != process {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self(fd))
    }

    /// Sends a signal. `NotFound` when the process has ended and was reaped.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        #[expect(unsafe_code, reason = "no safe wrapper of pidfd_send_signal")]
        // SAFETY: the descriptor is open for as long as `self`; a null siginfo asks for that of kill(2).
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

    /// Waits until the process has ended (it may not be reaped yet).
    pub async fn wait_exit(self) -> io::Result<()> {
        #[expect(
            unsafe_code,
            reason = "tokio registers a descriptor on the caller's word that it stays open"
        )]
        // SAFETY: the registration owns the descriptor, so nobody closes it before the registration is dropped.
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

/// Sends a signal to exactly this process. True when it was there to take it.
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
        let id = ProcessId::from_pid(child.id() as i32).expect("it runs");
        let other = ProcessId {
            start_time: id.start_time + 1,
            ..id
        };
        assert!(!signal(other, libc::SIGKILL).expect("nothing fails"));
        assert!(id.is_alive());
        assert!(signal(id, libc::SIGKILL).expect("it is ours"));
        assert!(!child.wait().expect("it is our child").success());
        assert!(!signal(id, libc::SIGKILL).expect("it is gone"));
    }
}
