//! The signal owner of an open file.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;

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
