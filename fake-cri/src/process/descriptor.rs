//! Duplicates of another process's fds, which refer to the same open file (pidfd_getfd(2), Linux 5.6).
//!
//! A duplicate allows the queries that only a holder of the fd can make: signal owner, socket options, unread data.
//! Ways to fail: `EPERM` when the process may not be traced, `EBADF` when it has no such fd, `ENOSYS`.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use nix::errno::Errno;

use super::pidfd::PidFd;

/// Duplicates an fd of the process into this process.
#[expect(unsafe_code, reason = "no crate wraps pidfd_getfd")]
pub(crate) fn pidfd_getfd(process: &PidFd, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the system call takes three integers; a result that is not negative is a new fd that nothing else owns.
    unsafe {
        let local_fd = libc::syscall(libc::SYS_pidfd_getfd, process.as_fd().as_raw_fd(), fd, 0);
        let local_fd = Errno::result(local_fd)?;
        Ok(OwnedFd::from_raw_fd(local_fd as i32))
    }
}

/// How many bytes are unread in a pipe, given an fd of either end (`FIONREAD`).
///
/// # Errors
///
/// `ENOTTY` for a file that does not support the ioctl.
#[expect(unsafe_code, reason = "an ioctl macro of nix would create an unsafe function, too")]
pub(crate) fn unread_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut unread: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut unread) };
    Errno::result(result)?;
    Ok(usize::try_from(unread).unwrap_or(0))
}

/// The owner that gets the signal when a file becomes ready (`F_SETOWN`, `F_SETSIG`; CRIU: fown). All zero without
/// owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fown {
    /// The signal; 0 means SIGIO.
    pub(crate) signal: u32,
    /// `F_OWNER_TID`, `F_OWNER_PID` or `F_OWNER_PGRP`.
    pub(crate) kind: u32,
    /// The tid, pid or process group.
    pub(crate) pid: u32,
    /// The real and the effective uid of the process that set the owner. The kernel checks them when it sends the
    /// signal.
    pub(crate) uids: [u32; 2],
}

/// Reads the signal owner of a file.
///
/// # Errors
///
/// `EBADF` for an fd opened with `O_PATH`.
#[expect(unsafe_code, reason = "nix wraps none of these commands")]
pub(crate) fn read_fown(fd: BorrowedFd<'_>) -> nix::Result<Fown> {
    /// `F_GETSIG`, `F_GETOWN_EX`, `F_GETOWNER_UIDS` (asm-generic/fcntl.h).
    const F_GETSIG: i32 = 11;
    const F_GETOWN_EX: i32 = 16;
    const F_GETOWNER_UIDS: i32 = 17;
    let fd = fd.as_raw_fd();
    let mut owner_ex = [0_i32; 2];
    let mut uids = [0_u32; 2];
    // SAFETY: the first call takes only integers, the two others write two words of four bytes each.
    unsafe {
        let signal = Errno::result(libc::fcntl(fd, F_GETSIG))?;
        Errno::result(libc::fcntl(fd, F_GETOWN_EX, owner_ex.as_mut_ptr()))?;
        let [kind, pid] = owner_ex.map(|word| u32::try_from(word).unwrap_or(0));
        if pid != 0 {
            Errno::result(libc::fcntl(fd, F_GETOWNER_UIDS, uids.as_mut_ptr()))?;
        }
        Ok(Fown {
            signal: u32::try_from(signal).unwrap_or(0),
            kind: if pid == 0 { 0 } else { kind },
            pid,
            uids,
        })
    }
}
