//! Starts a process that inherits nothing but what the caller lists.

use std::{
    ffi::{CString, c_char},
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    ptr,
};

use nix::fcntl::OFlag;

use super::{Pid, ProcessId, identity::Identity, wait};

/// A program to start. All memory is allocated before the fork, because nothing may be allocated between fork and exec.
#[derive(Debug)]
pub struct SpawnCommand<'a> {
    /// The path of the program. There is no search in `PATH`.
    pub file: CString,
    /// The arguments; the first one is the name of the program.
    pub argv: Vec<CString>,
    /// The complete environment: `NAME=value` each.
    pub env: Vec<CString>,
    /// The working directory; that of this process if `None`.
    pub cwd: Option<CString>,
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Make standard input the controlling terminal.
    pub controlling_tty: bool,
    /// The user that the program runs as; that of this process if `None`.
    pub identity: Option<&'a Identity>,
    /// The directory that `file` is relative to. The program inherits the fd, and its AT_EXECFN is `/dev/fd/N/FILE`. So
    /// it runs even if its user cannot reach the program by a path.
    pub exec_dir: Option<BorrowedFd<'a>>,
}

/// The step at which a new process failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnStep {
    /// The preparation or the fork itself.
    Fork,
    /// Setting up the streams or the terminal.
    Streams,
    /// Changing to the working directory.
    Directory,
    /// Changing user and groups.
    Identity,
    /// Executing the program.
    Exec,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{step:?}: {source}")]
pub struct SpawnError {
    /// The step that failed.
    pub step: SpawnStep,
    /// The error of that step.
    pub source: io::Error,
}

/// Starts a program in its own session, with all signal actions at their defaults, no blocked signals, umask 022, and
/// no fds but its three streams. Returns after the exec, so a failed exec is reported here and leaves no process.
pub fn spawn(program: &SpawnCommand<'_>) -> Result<ProcessId, SpawnError> {
    let spawn_error = |step| move |source: io::Error| SpawnError { step, source };
    let streams = dup_above_stdio(&program.stdio).map_err(spawn_error(SpawnStep::Fork))?;
    let (failure_read, failure_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| SpawnError {
        step: SpawnStep::Fork,
        source: errno.into(),
    })?;
    let argv = to_pointers(&program.argv);
    let env = to_pointers(&program.env);
    let cwd = program.cwd.as_ref().map_or(ptr::null(), |cwd| cwd.as_ptr());
    // The user must own the streams to reopen them by name (`/dev/stdout`). runc changes their owner too.
    if let Some(identity) = program.identity {
        for stream in &streams {
            chown_stream(stream, identity).map_err(spawn_error(SpawnStep::Identity))?;
        }
    }
    // The duplicate has an fd above 2, because the child overwrites 0 to 2.
    let directory = program.exec_dir.map(|fd| fd.try_clone_to_owned()).transpose();
    let directory = directory.map_err(spawn_error(SpawnStep::Fork))?;
    let setup = ChildSetup {
        file: program.file.as_ptr(),
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        cwd,
        streams: [streams[0].as_raw_fd(), streams[1].as_raw_fd(), streams[2].as_raw_fd()],
        terminal: program.controlling_tty,
        identity: program.identity.map_or(ptr::null(), ptr::from_ref),
        changes_user: match program.identity {
            Some(identity) => !identity.same_user(&Identity::current().map_err(spawn_error(SpawnStep::Identity))?),
            None => false,
        },
        directory: directory.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        failure_write: failure_write.as_raw_fd(),
    };
    #[expect(unsafe_code, reason = "fork")]
    // SAFETY: other threads may run (a checkpoint's), so until the exec the child may only make async-signal-safe
    // calls. `exec_child` does so: it uses what was prepared above and allocates nothing.
    let pid = unsafe {
        match libc::fork() {
            -1 => {
                return Err(SpawnError {
                    step: SpawnStep::Fork,
                    source: io::Error::last_os_error(),
                });
            }
            0 => exec_child(&setup),
            pid => Pid::from_raw(pid),
        }
    };
    drop(failure_write);
    let mut failure = [0; 8];
    // A successful exec closes the pipe: end of file. A failed child writes the step and the errno.
    match read_until_full(failure_read, &mut failure) {
        Ok(8) => {
            // The child exits by itself, so this wait is short.
            let _ = wait::wait_pid(pid);
            let [step, _, _, _, errno @ ..] = failure;
            let step = match step {
                1 => SpawnStep::Streams,
                2 => SpawnStep::Directory,
                4 => SpawnStep::Identity,
                _ => SpawnStep::Exec,
            };
            Err(SpawnError {
                step,
                source: io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
            })
        }
        // The program may have exited already. `/proc` still shows the zombie, because only this process reaps it.
        _ => ProcessId::from_pid(pid).map_err(spawn_error(SpawnStep::Fork)),
    }
}

/// What the child needs, as integers and pointers.
struct ChildSetup {
    file: *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    cwd: *const c_char,
    streams: [RawFd; 3],
    terminal: bool,
    /// Null if the user does not change.
    identity: *const Identity,
    /// Whether user or groups differ from those of this process. An unprivileged process must not set even the same
    /// groups again: the call fails.
    changes_user: bool,
    /// -1 for none.
    directory: RawFd,
    failure_write: RawFd,
}

#[expect(unsafe_code, reason = "only system calls between fork and exec")]
unsafe fn exec_child(setup: &ChildSetup) -> ! {
    // SAFETY: every pointer of `setup` points into memory that the parent prepared before the fork and of which the
    // child has a copy; all calls are async-signal-safe.
    unsafe {
        let mut step = 1u8;
        'failed: {
            // Ignored signals stay ignored after an exec, and Rust ignores SIGPIPE. The raw system call, because libc
            // refuses the two signals that it reserves. All zeroes are the default action without flags.
            let default = [0u64; 4];
            for signal in 1..=64 {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    signal,
                    default.as_ptr(),
                    ptr::null_mut::<u64>(),
                    8,
                );
            }
            libc::setsid();
            libc::umask(0o022);
            for (target, stream) in setup.streams.iter().enumerate() {
                if libc::dup2(*stream, target as i32) == -1 {
                    break 'failed;
                }
            }
            if setup.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
                break 'failed;
            }
            step = 2;
            let in_cwd = setup.cwd.is_null() || libc::chdir(setup.cwd) == 0;
            if !in_cwd && setup.identity.is_null() {
                break 'failed;
            }
            if let Some(identity) = setup.identity.as_ref() {
                step = 4;
                // Raw system calls, because libc would signal the threads, which only the parent has. Groups first,
                // because setting them takes the privileges that the change of the user drops.
                let (uid, gid, groups) = (identity.uid, identity.gid, &identity.groups);
                if setup.changes_user
                    && (libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == -1
                        || libc::syscall(libc::SYS_setresgid, gid, gid, gid) == -1
                        || libc::syscall(libc::SYS_setresuid, uid, uid, uid) == -1)
                {
                    break 'failed;
                }
                if identity.no_new_privs && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1 {
                    break 'failed;
                }
                // The directory may be accessible only for the user (on NFS not even for root). runc retries likewise.
                step = 2;
                if !in_cwd && libc::chdir(setup.cwd) == -1 {
                    break 'failed;
                }
            }
            step = 3;
            // fake-cri opens all fds close-on-exec; this call covers fds that a library opened without the flag.
            // Kernels before 5.11 do not support it; the failure is ignored.
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            let mut empty_set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut empty_set);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const empty_set, ptr::null_mut());
            if setup.directory == -1 {
                libc::execve(setup.file, setup.argv, setup.env);
            } else {
                libc::fcntl(setup.directory, libc::F_SETFD, 0);
                libc::syscall(
                    libc::SYS_execveat,
                    setup.directory,
                    setup.file,
                    setup.argv,
                    setup.env,
                    0,
                );
            }
        }
        let errno = (*libc::__errno_location()).to_ne_bytes();
        let failure = [step, 0, 0, 0, errno[0], errno[1], errno[2], errno[3]];
        libc::write(setup.failure_write, failure.as_ptr().cast(), failure.len());
        libc::_exit(127)
    }
}

/// Gives a pipe or terminal to the user. Files that all users share, such as `/dev/null`, keep their owner.
fn chown_stream(stream: &OwnedFd, identity: &Identity) -> io::Result<()> {
    let kind = nix::sys::stat::fstat(stream)?;
    let fifo = kind.st_mode & libc::S_IFMT == libc::S_IFIFO;
    let is_private = fifo || nix::unistd::isatty(stream).unwrap_or(false);
    if is_private && kind.st_uid != identity.uid {
        nix::unistd::fchown(stream, Some(identity.uid.into()), None)?;
    }
    Ok(())
}

/// Duplicates the streams to fds above 2, because the child overwrites 0 to 2 one after the other.
fn dup_above_stdio(streams: &[BorrowedFd<'_>; 3]) -> io::Result<[OwnedFd; 3]> {
    // `try_clone_to_owned` takes the lowest free fd from 3 on, close-on-exec.
    let [input, output, error] = streams;
    Ok([
        input.try_clone_to_owned()?,
        output.try_clone_to_owned()?,
        error.try_clone_to_owned()?,
    ])
}

fn to_pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}

fn read_until_full(pipe: OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let mut file = File::from(pipe);
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Opens `/dev/null` for reading and writing.
pub fn dev_null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}
