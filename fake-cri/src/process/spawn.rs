//! Starting a process that inherits nothing but what it is given.

use std::{
    ffi::{CString, c_char},
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    ptr,
};

use nix::fcntl::OFlag;

use super::{ProcessId, identity::Identity, reap};

/// A program about to be started. All that is allocated is allocated here: between fork and exec nothing may be.
#[derive(Debug)]
pub struct Program<'a> {
    /// The file to run: a path, no name to be looked up.
    pub file: CString,
    /// Its arguments, the name first.
    pub argv: Vec<CString>,
    /// Its environment, whole: `NAME=value` each.
    pub env: Vec<CString>,
    /// Its working directory.
    pub cwd: Option<CString>,
    /// Standard input, output and error.
    pub streams: [BorrowedFd<'a>; 3],
    /// Make standard input its controlling terminal.
    pub terminal: bool,
    /// As whom it runs; as this process without one.
    pub identity: Option<&'a Identity>,
    /// The directory that `file` is relative to. The program inherits the descriptor, which its AT_EXECFN names as
    /// `/dev/fd/N/FILE`: so a program runs that its user could not reach by a path.
    pub directory: Option<BorrowedFd<'a>>,
}

/// What a new process was about to do when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Coming into being at all.
    Fork,
    /// Taking its streams or its terminal.
    Streams,
    /// Changing to its working directory.
    Directory,
    /// Becoming another user.
    Identity,
    /// Running the program.
    Exec,
}

/// A process that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{step:?}: {source}")]
pub struct SpawnError {
    /// Where it failed.
    pub step: Step,
    /// Why.
    pub source: io::Error,
}

/// Starts a program in a session of its own, with every signal at its default and none blocked, umask 022, and no descriptor
/// but its three streams. Returns when the program runs, so a failure of exec is known here and leaves nothing.
pub fn spawn(program: &Program<'_>) -> Result<ProcessId, SpawnError> {
    let failed = |step| move |source: io::Error| SpawnError { step, source };
    let streams = above_streams(&program.streams).map_err(failed(Step::Fork))?;
    let (news, report) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| SpawnError {
        step: Step::Fork,
        source: errno.into(),
    })?;
    let argv = pointers(&program.argv);
    let env = pointers(&program.env);
    let cwd = program.cwd.as_ref().map_or(ptr::null(), |cwd| cwd.as_ptr());
    // What may be reopened by its name (`/dev/stdout`) must be its user's, as runc makes it.
    if let Some(identity) = program.identity {
        for stream in &streams {
            own_stream(stream, identity).map_err(failed(Step::Identity))?;
        }
    }
    // A number above the streams, which the child overwrites.
    let directory = program.directory.map(|fd| fd.try_clone_to_owned()).transpose();
    let directory = directory.map_err(failed(Step::Fork))?;
    let plan = Plan {
        file: program.file.as_ptr(),
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        cwd,
        streams: [streams[0].as_raw_fd(), streams[1].as_raw_fd(), streams[2].as_raw_fd()],
        terminal: program.terminal,
        identity: program.identity.map_or(ptr::null(), ptr::from_ref),
        other_user: match program.identity {
            Some(identity) => !identity.same_user(&Identity::own().map_err(failed(Step::Identity))?),
            None => false,
        },
        directory: directory.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        report: report.as_raw_fd(),
    };
    #[expect(unsafe_code, reason = "fork")]
    // SAFETY: other threads may run (a checkpoint's), so until exec the child only makes async-signal-safe calls: `become_it`
    // uses what was prepared above and allocates nothing.
    let pid = unsafe {
        match libc::fork() {
            -1 => {
                return Err(SpawnError {
                    step: Step::Fork,
                    source: io::Error::last_os_error(),
                });
            }
            0 => become_it(&plan),
            pid => pid,
        }
    };
    drop(report);
    let mut told = [0; 8];
    // Exec closes the pipe and gives an end of file; a failure gives the step and the error's number.
    match read_whole(news, &mut told) {
        Ok(8) => {
            // The child ends by itself, so this wait is short.
            let _ = reap::wait(pid);
            let [step, _, _, _, errno @ ..] = told;
            let step = match step {
                1 => Step::Streams,
                2 => Step::Directory,
                4 => Step::Identity,
                _ => Step::Exec,
            };
            Err(SpawnError {
                step,
                source: io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
            })
        }
        // It may have ended already; as our child it stays readable until we reap it.
        _ => ProcessId::of(pid).map_err(failed(Step::Fork)),
    }
}

/// What the child needs, as plain numbers and pointers.
struct Plan {
    file: *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    cwd: *const c_char,
    streams: [RawFd; 3],
    terminal: bool,
    /// Null for none.
    identity: *const Identity,
    /// Whether its user or groups are not this process's: without privileges even setting what is so already fails.
    other_user: bool,
    /// -1 for none.
    directory: RawFd,
    report: RawFd,
}

/// Runs in the child and never returns.
#[expect(unsafe_code, reason = "between fork and exec there are only system calls")]
unsafe fn become_it(plan: &Plan) -> ! {
    // SAFETY: every pointer of the plan points into memory that the parent prepared before the fork and that this copy of it
    // still holds; all calls are async-signal-safe.
    unsafe {
        let mut step = 1u8;
        'failed: {
            // Ignored signals survive exec, and Rust ignores SIGPIPE.
            // By the system call, since the library keeps two signals to itself. All zero is the default, without flags.
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
            for (target, stream) in plan.streams.iter().enumerate() {
                if libc::dup2(*stream, target as i32) == -1 {
                    break 'failed;
                }
            }
            if plan.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
                break 'failed;
            }
            step = 2;
            let inside = plan.cwd.is_null() || libc::chdir(plan.cwd) == 0;
            if !inside && plan.identity.is_null() {
                break 'failed;
            }
            if let Some(identity) = plan.identity.as_ref() {
                step = 4;
                // By system calls: the library would signal the threads that only the parent has. Groups first, for they need
                // the privilege that goes with the user.
                let (uid, gid, groups) = (identity.uid, identity.gid, &identity.groups);
                if plan.other_user
                    && (libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == -1
                        || libc::syscall(libc::SYS_setresgid, gid, gid, gid) == -1
                        || libc::syscall(libc::SYS_setresuid, uid, uid, uid) == -1)
                {
                    break 'failed;
                }
                if identity.no_new_privs && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1 {
                    break 'failed;
                }
                // A directory that only the user may enter (on NFS root may not), as runc does it.
                step = 2;
                if !inside && libc::chdir(plan.cwd) == -1 {
                    break 'failed;
                }
            }
            step = 3;
            // All descriptors here are made close-on-exec; this is for those that a library forgot. Kernels before 5.11 do
            // not know it, and lose nothing.
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            if plan.directory == -1 {
                libc::execve(plan.file, plan.argv, plan.env);
            } else {
                libc::fcntl(plan.directory, libc::F_SETFD, 0);
                libc::syscall(libc::SYS_execveat, plan.directory, plan.file, plan.argv, plan.env, 0);
            }
        }
        let errno = (*libc::__errno_location()).to_ne_bytes();
        let told = [step, 0, 0, 0, errno[0], errno[1], errno[2], errno[3]];
        libc::write(plan.report, told.as_ptr().cast(), told.len());
        libc::_exit(127)
    }
}

/// Gives a pipe or terminal to a user, and leaves alone what is everybody's, as `/dev/null`.
fn own_stream(stream: &OwnedFd, identity: &Identity) -> io::Result<()> {
    let kind = nix::sys::stat::fstat(stream)?;
    let fifo = kind.st_mode & libc::S_IFMT == libc::S_IFIFO;
    let ours = fifo || nix::unistd::isatty(stream).unwrap_or(false);
    if ours && kind.st_uid != identity.uid {
        nix::unistd::fchown(stream, Some(identity.uid.into()), None)?;
    }
    Ok(())
}

/// Descriptors of the same files that are none of 0 to 2, which the child overwrites one after the other.
fn above_streams(streams: &[BorrowedFd<'_>; 3]) -> io::Result<[OwnedFd; 3]> {
    // `try_clone_to_owned` takes the lowest free number from 3 on, close-on-exec.
    let [input, output, error] = streams;
    Ok([
        input.try_clone_to_owned()?,
        output.try_clone_to_owned()?,
        error.try_clone_to_owned()?,
    ])
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}

fn read_whole(pipe: OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
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

/// `/dev/null` for reading and writing.
pub fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}
