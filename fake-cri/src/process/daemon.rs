//! Initialization of a small process that outlives its starter.

use std::{ffi::CString, io, os::fd::AsFd};

use nix::{
    sys::{
        prctl,
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::setsid,
};

/// Sets the process name (its first 15 bytes), closes all fds but the three streams, leaves the session and terminal of
/// the starter, becomes a subreaper, changes to `/`, and keeps the heap small. Must be called before the process has
/// threads or fds of its own.
pub fn daemonize(name: &str) -> io::Result<()> {
    prctl::set_name(&CString::new(name)?)?;
    close_inherited_fds();
    configure_malloc();
    // Fails only for a process group leader (setsid(2)), which has left the group of its starter already.
    let _ = setsid();
    become_subreaper()?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// Makes this process the parent of orphans among its descendants (prctl(2), PR_SET_CHILD_SUBREAPER).
pub fn become_subreaper() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// Blocks these signals for this thread and the threads that it starts. Returns a signalfd that reads them.
pub fn block_to_signalfd(signals: &[Signal]) -> io::Result<SignalFd> {
    let set: SigSet = signals.iter().copied().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// Replaces standard input and output by `/dev/null`.
pub fn null_stdio() -> io::Result<()> {
    let null = super::spawn::dev_null()?;
    nix::unistd::dup2_stdin(null.as_fd())?;
    nix::unistd::dup2_stdout(null.as_fd())?;
    Ok(())
}

/// Returns unused heap memory to the kernel.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no safe wrapper of malloc_trim")]
    // SAFETY: malloc_trim only accesses the free memory of the allocator, under its lock.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// One arena for all threads. Large blocks come from the kernel and return to it at once: by default glibc would keep
/// the memory of a checkpoint's buffers.
fn configure_malloc() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no safe wrapper of mallopt")]
    // SAFETY: mallopt sets parameters of the allocator; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
    }
}

fn close_inherited_fds() {
    #[expect(unsafe_code, reason = "no safe wrapper of close_range")]
    // SAFETY: no fd above the streams has an owner in this process yet: see `daemonize`.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
    }
}
