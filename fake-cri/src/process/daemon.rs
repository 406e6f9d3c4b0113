//! What a small process that outlives its starter does with itself first.

use std::{ffi::CString, io, os::fd::AsFd};

use nix::{
    sys::{
        prctl,
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::setsid,
};

/// Takes a name (its first 15 bytes), leaves the starter's session and terminal, closes every descriptor but the three streams, adopts orphans of its
/// descendants, and keeps its heap small. For the start of a process, before it has threads or descriptors of its own.
pub fn daemonize(name: &str) -> io::Result<()> {
    prctl::set_name(&CString::new(name)?)?;
    close_inherited_fds();
    configure_malloc();
    // Fails only for the leader of a process group, which has what this is for already.
    let _ = setsid();
    become_subreaper()?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// Makes this process the parent of every orphan among its descendants (prctl(2), PR_SET_CHILD_SUBREAPER).
pub fn become_subreaper() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// Blocks these signals for this thread and those it starts, and gives a descriptor from which they are read.
pub fn block_to_signalfd(signals: &[Signal]) -> io::Result<SignalFd> {
    let set: SigSet = signals.iter().copied().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// Points the standard streams (input and output) at `/dev/null`, which closes what they were.
pub fn null_stdio() -> io::Result<()> {
    let null = super::spawn::dev_null()?;
    nix::unistd::dup2_stdin(null.as_fd())?;
    nix::unistd::dup2_stdout(null.as_fd())?;
    Ok(())
}

/// Gives back to the kernel what the heap holds and does not use.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no safe wrapper of malloc_trim")]
    // SAFETY: it only looks at the allocator's own free memory, under its lock.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// One arena for all threads, and large blocks from the kernel and back to it at once: by default glibc keeps what a
/// checkpoint's buffers took.
fn configure_malloc() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no safe wrapper of mallopt")]
    // SAFETY: it sets numbers inside the allocator; no thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
    }
}

fn close_inherited_fds() {
    #[expect(unsafe_code, reason = "no safe wrapper of close_range")]
    // SAFETY: this is the first thing the process does, so no descriptor above the streams belongs to anybody yet.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
    }
}
