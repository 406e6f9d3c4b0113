//! The container's standard streams: the shim's ends of them, and the ends it gives away.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
};

use super::log::{Lines, Log};
use crate::process::spawn;

/// What is read from a stream before others have their turn.
const TURN: usize = 256 << 10;

/// An output of the container on its way into the log.
pub(super) struct Output {
    pub(super) fd: OwnedFd,
    lines: Lines,
}

impl Output {
    fn new(fd: OwnedFd, stream: &'static str) -> io::Result<Self> {
        nonblocking(&fd)?;
        Ok(Self {
            fd,
            lines: Lines::new(stream),
        })
    }

    /// Logs what is there now; true when the stream has ended.
    pub(super) fn pump(&mut self, log: &mut Log) -> io::Result<bool> {
        read(self.fd.as_fd(), |bytes| self.lines.take(bytes, log))
    }

    /// Logs what is left of a stream that nobody writes to any more.
    pub(super) fn drain(mut self, log: &mut Log) {
        // No pipe holds more than this many turns (pipe-max-size); should somebody outside the container still write, it ends
        // here.
        for _ in 0..8 {
            let mut count = 0;
            let ended = read(self.fd.as_fd(), |bytes| {
                count += bytes.len();
                self.lines.take(bytes, log);
            });
            if count == 0 || !matches!(ended, Ok(false)) {
                break;
            }
        }
        self.lines.end(log);
    }
}

/// Both sides of a container's streams.
pub(super) struct Streams {
    /// What the shim reads.
    pub(super) outputs: Vec<Output>,
    /// The shim's end of standard input, kept so that it does not end.
    pub(super) input: Option<OwnedFd>,
    /// What the container gets.
    pub(super) given: [OwnedFd; 3],
}

/// Pipes for output and error, and `/dev/null` or a pipe for input.
pub(super) fn pipes(stdin: bool) -> io::Result<Streams> {
    let (out, given_out) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let (error, given_error) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let (input, given_input) = if stdin {
        let (given, input) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        (Some(input), given)
    } else {
        (None, spawn::null()?)
    };
    let outputs = vec![Output::new(out, "stdout")?, Output::new(error, "stderr")?];
    Ok(Streams {
        outputs,
        input,
        given: [given_input, given_out, given_error],
    })
}

/// A terminal, which is all three streams.
pub(super) fn terminal() -> io::Result<Streams> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(ptsname_r(&master)?)?;
    let given = [slave.try_clone()?.into(), slave.try_clone()?.into(), slave.into()];
    let output = Output::new(master.as_fd().try_clone_to_owned()?, "stdout")?;
    Ok(Streams {
        outputs: vec![output],
        input: None,
        given,
    })
}

/// A pipe whose reading end does not wait.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nonblocking(&read)?;
    Ok((read, write))
}

/// Reads what is there now, a turn at most; true when the stream has ended.
pub(super) fn read(fd: BorrowedFd<'_>, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    let mut total = 0;
    while total < TURN {
        match nix::unistd::read(fd, &mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => {
                take(&buffer[..count]);
                total += count;
            }
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            // A terminal whose other side is closed everywhere.
            Err(Errno::EIO) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
