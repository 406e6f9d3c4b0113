//! Descriptors of another process, each as a copy of our own that leads to the same open file (pidfd_getfd(2), Linux 5.6).
//!
//! What only a descriptor's holder may ask can be asked of the copy: who is told of its events, a socket's options, what is
//! unread in it. Ways to fail: `EPERM` when the process may not be traced, `EBADF` when it has no such descriptor (any more),
//! `ENOSYS`.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use nix::errno::Errno;

use super::pidfd::PidFd;

/// A copy of a descriptor of this process.
#[expect(unsafe_code, reason = "no crate wraps pidfd_getfd")]
pub(crate) fn pidfd_getfd(process: &PidFd, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the system call takes three integers; a result that is not negative is a new descriptor that nobody else owns.
    unsafe {
        let local_fd = libc::syscall(libc::SYS_pidfd_getfd, process.as_fd().as_raw_fd(), fd, 0);
        let local_fd = Errno::result(local_fd)?;
        Ok(OwnedFd::from_raw_fd(local_fd as i32))
    }
}

/// How many bytes are unread behind a descriptor of a pipe, whichever end it is (`FIONREAD`).
///
/// # Errors
///
/// `ENOTTY` when it is of a file that does not count them.
#[expect(
    unsafe_code,
    reason = "nix makes a function of each ioctl only by unsafe code of the caller"
)]
pub(crate) fn unread_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut unread: libc::c_int = 0;
    // SAFETY: the kernel writes one int, to a place that is one.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut unread) };
    Errno::result(result)?;
    Ok(usize::try_from(unread).unwrap_or(0))
}

/// Who is told when a file becomes ready (`F_SETOWN`, `F_SETSIG`), in the kernel's numbers; all zero when nobody is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fown {
    /// The signal; 0 is SIGIO.
    pub(crate) signal: u32,
    /// `F_OWNER_TID`, `F_OWNER_PID` or `F_OWNER_PGRP`.
    pub(crate) kind: u32,
    /// The thread, process or group.
    pub(crate) pid: u32,
    /// The real and the effective user by whose right it is told.
    pub(crate) uids: [u32; 2],
}

/// Asks who is told of a file.
///
/// # Errors
///
/// `EBADF` for a descriptor that is no more than a place (`O_PATH`).
#[expect(unsafe_code, reason = "nix knows none of these commands")]
pub(crate) fn read_fown(fd: BorrowedFd<'_>) -> nix::Result<Fown> {
    /// `F_GETSIG`, `F_GETOWN_EX`, `F_GETOWNER_UIDS` (asm-generic/fcntl.h).
    const F_GETSIG: i32 = 11;
    const F_GETOWN_EX: i32 = 16;
    const F_GETOWNER_UIDS: i32 = 17;
    let fd = fd.as_raw_fd();
    let mut owner_ex = [0_i32; 2];
    let mut uids = [0_u32; 2];
    // SAFETY: the first call takes numbers alone, the two others write two words of four bytes each.
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
