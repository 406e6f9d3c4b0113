//! A pid namespace of its own for processes that come back with the numbers they had.
//!
//! ```text
//!   caller ---- clone3(NEWPID | NEWNS) ----> keeper: 1 of the namespace, sees its own /proc, reaps orphans
//!      '------- clone3(set_tid) -----------> first process: the number asked for, waits to be traced
//! ```
//!
//! The first process is a child of the caller, as any container's is, and no child of the keeper: its end is the caller's to
//! see. The keeper ends with the thread that made it, and with it everything in the namespace.
//!
//! Both are copies of the caller that only make system calls. Ways to fail: no privileges (`CAP_SYS_ADMIN`), a kernel without
//! `set_tid` (before 5.5), a number that is taken or larger than the namespace allows.

use std::{
    fs::File,
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use nix::{errno::Errno, fcntl::OFlag, sched::CloneFlags};

use super::{ProcessId, pidfd};

/// A pid and a mount namespace, held by its keeper.
#[derive(Debug)]
pub(crate) struct Namespace {
    keeper: ProcessId,
    pids: File,
    mounts: File,
}

impl Namespace {
    /// Makes one. The caller's thread must live as long as the namespace is wanted, and no other thread may run.
    ///
    /// # Errors
    ///
    /// What the kernel refuses with, and what was being done then.
    pub(crate) fn create() -> io::Result<Self> {
        let (news, report) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
        // SAFETY: the copy only makes system calls, on memory that it has from before.
        #[expect(unsafe_code, reason = "a copy of this process")]
        let pid = match unsafe { copy(flags as u64, &[]) }? {
            None => keep(report.as_raw_fd()),
            Some(pid) => pid,
        };
        drop(report);
        let mut told = [0; 4];
        let failure = match io::Read::read_exact(&mut File::from(news), &mut told) {
            Ok(()) => i32::from_ne_bytes(told),
            Err(_) => libc::ESRCH,
        };
        if failure != 0 {
            let _ = super::reap::wait(pid);
            let reason = io::Error::from_raw_os_error(failure);
            return Err(io::Error::new(reason.kind(), format!("mount its /proc: {reason}")));
        }
        let keeper = ProcessId::of(pid)?;
        let namespace = |name| File::open(format!("/proc/{pid}/ns/{name}"));
        let opened = namespace("pid").and_then(|pids| Ok((pids, namespace("mnt")?)));
        let (pids, mounts) = opened.inspect_err(|_| end(keeper))?;
        Ok(Self { keeper, pids, mounts })
    }

    /// The process that holds it.
    pub(crate) fn keeper(&self) -> ProcessId {
        self.keeper
    }

    /// Its mounts, for setns(2).
    pub(crate) fn mounts(&self) -> &File {
        &self.mounts
    }

    /// Makes the first process, with this number inside; its number outside. It has all of the caller's descriptors, and sleeps.
    ///
    /// # Errors
    ///
    /// What the kernel refuses with.
    pub(crate) fn first(&self, number: i32) -> io::Result<i32> {
        let own = File::open("/proc/self/ns/pid")?;
        nix::sched::setns(&self.pids, CloneFlags::CLONE_NEWPID)?;
        #[expect(unsafe_code, reason = "a copy of this process")]
        // SAFETY: the copy only sleeps.
        let made = unsafe { copy(0, &[number]) };
        if let Ok(None) = made {
            loop {
                nix::unistd::pause();
            }
        }
        nix::sched::setns(&own, CloneFlags::CLONE_NEWPID)?;
        made.map(|pid| pid.expect("the copy never comes here"))
    }

    /// Ends everything in it. The caller has no children, and traces nobody, but what is in it.
    pub(crate) fn end(&self) {
        end(self.keeper);
    }
}

fn end(keeper: ProcessId) {
    // It may have ended already.
    let _ = pidfd::signal(keeper, libc::SIGKILL);
    // Whoever is traced goes when its tracer has heard of its end, and the keeper goes as the last of all.
    while let Ok(true) = super::ptrace::hear_of_an_end() {}
}

/// Copies this process, which must have one thread, with these numbers, innermost namespace first; `None` in the copy.
#[expect(unsafe_code, reason = "no crate wraps clone3")]
unsafe fn copy(flags: u64, numbers: &[i32]) -> io::Result<Option<i32>> {
    // SAFETY: all zero is a valid value of this structure of numbers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if !numbers.is_empty() {
        arguments.set_tid = numbers.as_ptr().expose_provenance() as u64;
        arguments.set_tid_size = numbers.len() as u64;
    }
    // SAFETY: without CLONE_VM the copy has memory of its own, as after fork; the caller sees to what it does there.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    Ok(match Errno::result(result)? {
        0 => None,
        pid => Some(pid as i32),
    })
}

/// The life of a keeper: it has a name, ends with its maker, lets orphans go by themselves, and shows them a `/proc` of theirs.
#[expect(unsafe_code, reason = "between a copy and its end there are only system calls")]
fn keep(report: i32) -> ! {
    // SAFETY: plain system calls with constant strings and numbers; nothing is allocated.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"fake-cri-keeper".as_ptr());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // By the system call, as everywhere here; 1 is SIG_IGN, with which children need no reaping.
        let ignore = [1_u64, 0, 0, 0];
        libc::syscall(
            libc::SYS_rt_sigaction,
            libc::SIGCHLD,
            ignore.as_ptr(),
            std::ptr::null::<u64>(),
            8,
        );
        libc::setsid();
        let null = std::ptr::null();
        let private = libc::mount(null, c"/".as_ptr(), null, libc::MS_REC | libc::MS_PRIVATE, null.cast());
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let proc = c"proc".as_ptr();
        let failed = private != 0 || libc::mount(proc, c"/proc".as_ptr(), proc, flags, null.cast()) != 0;
        let told = if failed { *libc::__errno_location() } else { 0 };
        // A maker that is gone could not have its end noticed above.
        let written = libc::write(report, (&raw const told).cast(), size_of::<i32>());
        if failed || written != size_of::<i32>() as isize {
            libc::_exit(1);
        }
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
        loop {
            libc::pause();
        }
    }
}

/// Where this process has room for descriptors that a copy of it is to have: above all of its own, and above `least`.
///
/// # Errors
///
/// `/proc` cannot be read.
pub(crate) fn room_above(least: i32) -> io::Result<i32> {
    let own = super::proc::descriptor_numbers(std::process::id() as i32)?;
    Ok(own.last().map_or(0, |highest| highest + 1).max(least))
}

/// The descriptor, moved to the next free number from `least` on.
///
/// # Errors
///
/// `EMFILE` or `EINVAL` at the limit of descriptors.
pub(crate) fn moved_above(descriptor: OwnedFd, least: i32) -> io::Result<OwnedFd> {
    let moved = nix::fcntl::fcntl(&descriptor, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(least))?;
    #[expect(unsafe_code, reason = "fcntl hands out a number")]
    // SAFETY: it is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}
