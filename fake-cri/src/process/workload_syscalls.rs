//! System calls that the test workload needs and that the standard library does not wrap.

use std::{
    ffi::CStr,
    io,
    os::{fd::RawFd, unix::ffi::OsStrExt},
    path::PathBuf,
    time::Instant,
};

use nix::{
    errno::Errno,
    sys::signal::{SigSet, Signal},
};

use super::Pid;

/// The path of this program as passed to execve(2). Unlike the first argument, the caller of execve cannot choose it
/// freely.
pub fn exec_path() -> Option<PathBuf> {
    #[expect(unsafe_code, reason = "getauxval returns a pointer")]
    // SAFETY: AT_EXECFN is null or points to a string on the initial stack, which lives as long as the process.
    let path = unsafe {
        let address = libc::getauxval(libc::AT_EXECFN) as *const libc::c_char;
        if address.is_null() {
            return None;
        }
        CStr::from_ptr(address)
    };
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes())))
}

/// The directory of this program. If the program inherited the directory as an fd (its path is then `/dev/fd/N/NAME`,
/// see execveat(2)), drop closes the fd.
pub fn exec_dir() -> Option<ExecDir> {
    let path = exec_path()?;
    let inherited_fd = path
        .strip_prefix("/dev/fd")
        .ok()
        .and_then(|rest| rest.parent()?.to_str()?.parse::<RawFd>().ok())
        .filter(|fd| *fd > 2);
    Some(match inherited_fd {
        Some(fd) => ExecDir {
            // `/dev/fd` may not exist.
            path: format!("/proc/self/fd/{fd}").into(),
            inherited_fd,
        },
        None => ExecDir {
            path: path.parent()?.to_owned(),
            inherited_fd,
        },
    })
}

/// The result of [`exec_dir`].
#[derive(Debug)]
pub struct ExecDir {
    /// The path of the directory, valid until the drop.
    pub path: PathBuf,
    inherited_fd: Option<RawFd>,
}

impl Drop for ExecDir {
    fn drop(&mut self) {
        if let Some(fd) = self.inherited_fd {
            let _ = nix::unistd::close(fd);
        }
    }
}

/// Waits until one of these signals, which must be blocked, is pending and consumes it. Returns `None` at the deadline.
///
/// Unlike a signalfd, this function needs no fd, which a checkpoint would contain.
pub fn wait_for_signal(signals: &SigSet, deadline: Instant) -> io::Result<Option<Signal>> {
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let time = libc::timespec {
            tv_sec: remaining.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: remaining.subsec_nanos().into(),
        };
        #[expect(unsafe_code, reason = "no safe wrapper of sigtimedwait")]
        // SAFETY: the set and the time live through the call; a null pointer requests no siginfo.
        let result = unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), &raw const time) };
        match Errno::result(result) {
            Ok(signal) => return Ok(Some(Signal::try_from(signal)?)),
            Err(Errno::EAGAIN) => return Ok(None),
            // A stop and continue, as by a checkpoint, interrupts the wait.
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Maps zeroed shared anonymous memory of this many words, which is never unmapped.
pub fn shared_words(words: usize) -> io::Result<&'static mut [u64]> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
    let invalid_input = || io::Error::from(io::ErrorKind::InvalidInput);
    let bytes = std::num::NonZeroUsize::new(words * size_of::<u64>()).ok_or_else(invalid_input)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    #[expect(unsafe_code, reason = "mmap returns a pointer")]
    // SAFETY: a new mapping of this size overlaps no other; it is page-aligned, zeroed, and never unmapped.
    unsafe {
        let start = mmap_anonymous(None, bytes, protection, MapFlags::MAP_SHARED)?;
        Ok(std::slice::from_raw_parts_mut(start.as_ptr().cast(), words))
    }
}

/// Forks this process, which must have only one thread. Returns the pid of the child in the parent, `None` in the
/// child. The child dies when its parent does.
pub fn fork() -> io::Result<Option<Pid>> {
    let parent = nix::unistd::getpid();
    #[expect(unsafe_code, reason = "fork")]
    // SAFETY: callers fork before they start threads, so the child may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(Pid::from_raw(child.as_raw()))),
        nix::unistd::ForkResult::Child => {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have exited before `set_pdeathsig` took effect.
            if nix::unistd::getppid() != parent {
                std::process::exit(1);
            }
            Ok(None)
        }
    }
}
