//! A pid namespace in which restored processes get the pids that they had.
//!
//! ```text
//!   caller ---- clone3(NEWPID | NEWNS) ----> ns_init: pid 1 of the namespace, mounts its own /proc, reaps orphans
//!      '------- clone3(set_tid) -----------> first process: has the requested pid, waits for its tracer
//! ```
//!
//! The first process is a child of the caller and not of ns_init, so that the caller sees its exit, as of any
//! container. ns_init ends with the thread that created it, and all processes of the namespace end with ns_init.
//!
//! Both processes are clones of the caller that only make system calls. Ways to fail: no privileges (`CAP_SYS_ADMIN`),
//! a kernel without `set_tid` (before 5.5), a pid that is in use or above the limit of the namespace.

use std::{
    fs::File,
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use nix::{errno::Errno, fcntl::OFlag, sched::CloneFlags};

use super::{NsPid, Pid, ProcessId, pidfd};

/// A pid and a mount namespace. They exist until ns_init ends.
#[derive(Debug)]
pub(crate) struct PidNamespace {
    ns_init: ProcessId,
    pid_ns: File,
    mount_ns: File,
}

impl PidNamespace {
    /// Creates the namespaces and ns_init. The calling thread must live as long as the namespaces are needed, and must
    /// be the only thread of its process.
    ///
    /// # Errors
    ///
    /// clone3(2) fails, ns_init cannot mount `/proc`, or the namespace files cannot be opened.
    pub(crate) fn create() -> io::Result<Self> {
        let (status_read, status_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
        // SAFETY: the child only makes system calls, with memory that was initialized before the clone.
        #[expect(unsafe_code, reason = "clones this process")]
        let pid = match unsafe { clone3(flags as u64, &[]) }? {
            None => run_ns_init(status_read.as_raw_fd(), status_write.as_raw_fd()),
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
            return Err(io::Error::new(
                reason.kind(),
                format!("mount /proc in the new namespace: {reason}"),
            ));
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

    /// Pid 1 of the namespace.
    pub(crate) fn ns_init(&self) -> ProcessId {
        self.ns_init
    }

    /// The mount namespace, for setns(2).
    pub(crate) fn mount_ns(&self) -> &File {
        &self.mount_ns
    }

    /// Creates the first process with pid `ns_pid` in the namespace and returns its pid outside. The process inherits
    /// all fds of the caller, and pauses.
    ///
    /// # Errors
    ///
    /// setns(2) or clone3(2) fails: `EEXIST` for a pid that is in use.
    pub(crate) fn clone_first_process(&self, ns_pid: NsPid) -> io::Result<Pid> {
        let caller_pid_ns = File::open("/proc/self/ns/pid")?;
        nix::sched::setns(&self.pid_ns, CloneFlags::CLONE_NEWPID)?;
        #[expect(unsafe_code, reason = "clones this process")]
        // SAFETY: the child only pauses.
        let cloned = unsafe { clone3(0, &[ns_pid.as_raw().cast_signed()]) };
        if let Ok(None) = cloned {
            loop {
                nix::unistd::pause();
            }
        }
        nix::sched::setns(&caller_pid_ns, CloneFlags::CLONE_NEWPID)?;
        cloned.map(|pid| pid.expect("the child never returns"))
    }

    /// Kills all processes of the namespace and waits for them. The caller must not have other children or tracees:
    /// they would be reaped too.
    pub(crate) fn kill_all(&self) {
        kill_and_reap(self.ns_init);
    }
}

fn kill_and_reap(ns_init: ProcessId) {
    // ns_init may have exited already.
    let _ = pidfd::signal(ns_init, libc::SIGKILL);
    // A traced process disappears only when its tracer has waited for it, and the kernel keeps ns_init until all other
    // processes of the namespace are gone.
    while let Ok(true) = super::ptrace::wait_any() {}
}

/// Clones this process, which must have only one thread. `pids_by_level` are the pids of the child, innermost namespace
/// first. Returns `None` in the child.
#[expect(unsafe_code, reason = "no crate wraps clone3")]
unsafe fn clone3(flags: u64, pids_by_level: &[i32]) -> io::Result<Option<Pid>> {
    // SAFETY: `clone_args` consists of integers, so all zeroes are a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if !pids_by_level.is_empty() {
        arguments.set_tid = pids_by_level.as_ptr().expose_provenance() as u64;
        arguments.set_tid_size = pids_by_level.len() as u64;
    }
    // SAFETY: without CLONE_VM the child has its own copy of the memory, as after fork; the caller ensures that the
    // child only makes system calls.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    Ok(match Errno::result(result)? {
        0 => None,
        pid => Some(Pid::from_raw(pid as i32)),
    })
}

/// Pid 1 of the namespace: sets its name, dies with its creator (PR_SET_PDEATHSIG), ignores SIGCHLD so that the kernel
/// reaps orphans, and mounts `/proc`.
#[expect(unsafe_code, reason = "a cloned child only makes system calls")]
fn run_ns_init(status_read: RawFd, status_write: RawFd) -> ! {
    // SAFETY: only system calls with constant strings and integers; nothing is allocated.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"fake-cri-nsinit".as_ptr());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // The raw system call, as everywhere in a cloned child. 1 is SIG_IGN, with which the kernel reaps the children.
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
        // PR_SET_PDEATHSIG does not notice a creator that ended before the call. Without a reader the write fails with EPIPE,
        // and this process ends.
        libc::close(status_read);
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

/// The first fd that is above all open fds of this process and not below `min_fd`.
///
/// # Errors
///
/// `/proc/self/fd` cannot be read.
pub(crate) fn first_free_fd(min_fd: RawFd) -> io::Result<RawFd> {
    let open_fds = super::proc_files::list_fds(Pid::current().main_thread())?;
    Ok(open_fds.last().map_or(0, |highest| highest.as_raw() + 1).max(min_fd))
}

/// Moves an fd to the lowest free one from `min_fd` on.
///
/// # Errors
///
/// `EMFILE` or `EINVAL` at the limit of open files.
pub(crate) fn dup_above(descriptor: OwnedFd, min_fd: RawFd) -> io::Result<OwnedFd> {
    let new_fd = nix::fcntl::fcntl(&descriptor, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(min_fd))?;
    #[expect(unsafe_code, reason = "fcntl returns an integer")]
    // SAFETY: the fd is new, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(new_fd) })
}
