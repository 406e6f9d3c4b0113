//! A pid namespace of its own for processes that come back with the numbers they had.
//!
//! ```text
//!   caller ---- clone3(NEWPID | NEWNS) ----> ns_init: 1 of the namespace, sees its caller_pid_ns /proc, reaps orphans
//!      '------- clone3(set_tid) -----------> first process: the number asked for, waits to be traced
//! ```
//!
//! The first process is a child of the caller, as any container's is, and no child of the ns_init: its end is the caller's to
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

/// A pid and a mount namespace, held by its ns_init.
#[derive(Debug)]
pub(crate) struct PidNamespace {
    ns_init: ProcessId,
    pid_ns: File,
    mount_ns: File,
}

impl PidNamespace {
    /// Makes one. The caller's thread must live as long as the namespace is wanted, and no other thread may run.
    ///
    /// # Errors
    ///
    /// What the kernel refuses with, and what was being done then.
    pub(crate) fn create() -> io::Result<Self> {
        let (status_read, status_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
        // SAFETY: the copy only makes system calls, on memory that it has from before.
        #[expect(unsafe_code, reason = "a copy of this process")]
        let pid = match unsafe { clone3(flags as u64, &[]) }? {
            None => run_ns_init(status_write.as_raw_fd()),
            Some(pid) => pid,
        };
        drop(status_write);
        let mut status = [0; 4];
        let errno = match io::Read::read_exact(&mut File::from(status_read), &mut status) {
            Ok(()) => i32::from_ne_bytes(status),
            Err(_) => libc::ESRCH,
        };
        if errno != 0 {
            let _ = super::wait::wait_pid(pid);
            let reason = io::Error::from_raw_os_error(errno);
            return Err(io::Error::new(reason.kind(), format!("mount its /proc: {reason}")));
        }
        let ns_init = ProcessId::from_pid(pid)?;
        let namespace = |name| File::open(format!("/proc/{pid}/ns/{name}"));
        let opened = namespace("pid").and_then(|pid_ns| Ok((pid_ns, namespace("mnt")?)));
        let (pid_ns, mount_ns) = opened.inspect_err(|_| kill_and_reap(ns_init))?;
        Ok(Self {
            ns_init,
            pid_ns,
            mount_ns,
        })
    }

    /// The process that holds it.
    pub(crate) fn ns_init(&self) -> ProcessId {
        self.ns_init
    }

    /// Its mount_ns, for setns(2).
    pub(crate) fn mount_ns(&self) -> &File {
        &self.mount_ns
    }

    /// Makes the first process, with this number inside; its number outside. It has all of the caller's descriptors, and sleeps.
    ///
    /// # Errors
    ///
    /// What the kernel refuses with.
    pub(crate) fn clone_first_process(&self, ns_pid: i32) -> io::Result<i32> {
        let caller_pid_ns = File::open("/proc/self/ns/pid")?;
        nix::sched::setns(&self.pid_ns, CloneFlags::CLONE_NEWPID)?;
        #[expect(unsafe_code, reason = "a copy of this process")]
        // SAFETY: the copy only sleeps.
        let cloned = unsafe { clone3(0, &[ns_pid]) };
        if let Ok(None) = cloned {
            loop {
                nix::unistd::pause();
            }
        }
        nix::sched::setns(&caller_pid_ns, CloneFlags::CLONE_NEWPID)?;
        cloned.map(|pid| pid.expect("the copy never comes here"))
    }

    /// Ends everything in it. The caller has no children, and traces nobody, but what is in it.
    pub(crate) fn kill_all(&self) {
        kill_and_reap(self.ns_init);
    }
}

fn kill_and_reap(ns_init: ProcessId) {
    // It may have ended already.
    let _ = pidfd::signal(ns_init, libc::SIGKILL);
    // Whoever is traced goes when its tracer has heard of its end, and the keeper goes as the last of all.
    while let Ok(true) = super::ptrace::wait_any() {}
}

/// Copies this process, which must have one thread, with these pids_by_level, innermost namespace first; `None` in the copy.
#[expect(unsafe_code, reason = "no crate wraps clone3")]
unsafe fn clone3(flags: u64, pids_by_level: &[i32]) -> io::Result<Option<i32>> {
    // SAFETY: all zero is a valid value of this structure of pids_by_level.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if !pids_by_level.is_empty() {
        arguments.set_tid = pids_by_level.as_ptr().expose_provenance() as u64;
        arguments.set_tid_size = pids_by_level.len() as u64;
    }
    // SAFETY: without CLONE_VM the copy has memory of its caller_pid_ns, as after fork; the caller sees to what it does there.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    Ok(match Errno::result(result)? {
        0 => None,
        pid => Some(pid as i32),
    })
}

/// The life of a ns_init: it has a name, ends with its maker, lets orphans go by themselves, and shows them a `/proc` of theirs.
#[expect(unsafe_code, reason = "between a copy and its end there are only system calls")]
fn run_ns_init(status_write: i32) -> ! {
    // SAFETY: plain system calls with constant strings and pids_by_level; nothing is allocated.
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
        let mount_failed = private != 0 || libc::mount(proc, c"/proc".as_ptr(), proc, flags, null.cast()) != 0;
        let status = if mount_failed { *libc::__errno_location() } else { 0 };
        // A maker that is gone could not have its end noticed above.
        let written = libc::write(status_write, (&raw const status).cast(), size_of::<i32>());
        if mount_failed || written != size_of::<i32>() as isize {
            libc::_exit(1);
        }
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
        loop {
            libc::pause();
        }
    }
}

/// Where this process has room for descriptors that a copy of it is to have: above all of its caller_pid_ns, and above `min_fd`.
///
/// # Errors
///
/// `/proc` cannot be read.
pub(crate) fn first_free_fd(min_fd: i32) -> io::Result<i32> {
    let open_fds = super::proc_files::list_fds(std::process::id() as i32)?;
    Ok(open_fds.last().map_or(0, |highest| highest + 1).max(min_fd))
}

/// The descriptor, moved to the next free number from `min_fd` on.
///
/// # Errors
///
/// `EMFILE` or `EINVAL` at the limit of descriptors.
pub(crate) fn dup_above(descriptor: OwnedFd, min_fd: i32) -> io::Result<OwnedFd> {
    let new_fd = nix::fcntl::fcntl(&descriptor, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(min_fd))?;
    #[expect(unsafe_code, reason = "fcntl hands out a number")]
    // SAFETY: it is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(new_fd) })
}
