//! Starting a process that inherits nothing but what it is given.

use std::{
    ffi::{CString, c_char},
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    ptr,
};

use nix::fcntl::OFlag;

use super::{ProcessId, reap};

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
    let plan = Plan {
        file: program.file.as_ptr(),
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        cwd,
        streams: [streams[0].as_raw_fd(), streams[1].as_raw_fd(), streams[2].as_raw_fd()],
        terminal: program.terminal,
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
            if !plan.cwd.is_null() && libc::chdir(plan.cwd) == -1 {
                break 'failed;
            }
            step = 3;
            // All descriptors here are made close-on-exec; this is for those that a library forgot. Kernels before 5.11 do
            // not know it, and lose nothing.
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            libc::execve(plan.file, plan.argv, plan.env);
        }
        let errno = (*libc::__errno_location()).to_ne_bytes();
        let told = [step, 0, 0, 0, errno[0], errno[1], errno[2], errno[3]];
        libc::write(plan.report, told.as_ptr().cast(), told.len());
        libc::_exit(127)
    }
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
