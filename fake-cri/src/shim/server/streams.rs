//! The container's standard streams: the shim's ends, and the container's.

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

use super::log::{LineSplitter, LogWriter};
use crate::process::spawn;

/// The most bytes read from a stream before the other descriptors are served.
const READ_BATCH_BYTES: usize = 256 << 10;

/// An output stream of the container that is written to the log.
pub(super) struct OutputStream {
    pub(super) fd: OwnedFd,
    lines: LineSplitter,
}

impl OutputStream {
    fn new(fd: OwnedFd, stream: &'static str) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self {
            fd,
            lines: LineSplitter::new(stream),
        })
    }

    /// Logs the available data. Returns true when the stream has ended.
    pub(super) fn pump(&mut self, log: &mut LogWriter) -> io::Result<bool> {
        read_available(self.fd.as_fd(), |bytes| self.lines.write(bytes, log))
    }

    /// Logs the remaining data of a stream whose writers have ended, and its last line.
    pub(super) fn drain(mut self, log: &mut LogWriter) {
        // No pipe holds more than this many batches (pipe-max-size). The bound ends the loop if a process outside the
        // container still writes.
        for _ in 0..8 {
            let mut count = 0;
            let eof = read_available(self.fd.as_fd(), |bytes| {
                count += bytes.len();
                self.lines.write(bytes, log);
            });
            if count == 0 || !matches!(eof, Ok(false)) {
                break;
            }
        }
        self.lines.finish(log);
    }
}

/// Both ends of a container's streams.
pub(super) struct ContainerStreams {
    pub(super) outputs: Vec<OutputStream>,
    /// The shim's end of standard input, kept open so that the container sees no EOF.
    pub(super) stdin: Option<OwnedFd>,
    /// The container's ends: stdin, stdout, stderr.
    pub(super) container_fds: [OwnedFd; 3],
}

/// Creates pipes for stdout and stderr, and a pipe or `/dev/null` for stdin.
pub(super) fn open_pipes(stdin: bool) -> io::Result<ContainerStreams> {
    let (stdout_read, stdout_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let (stderr_read, stderr_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let (stdin_writer, stdin_read) = if stdin {
        let (stdin_read, stdin_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        (Some(stdin_write), stdin_read)
    } else {
        (None, spawn::dev_null()?)
    };
    let outputs = vec![
        OutputStream::new(stdout_read, "stdout")?,
        OutputStream::new(stderr_read, "stderr")?,
    ];
    Ok(ContainerStreams {
        outputs,
        stdin: stdin_writer,
        container_fds: [stdin_read, stdout_write, stderr_write],
    })
}

/// Creates a terminal for all three streams.
pub(super) fn open_terminal() -> io::Result<ContainerStreams> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(ptsname_r(&master)?)?;
    let container_fds = [slave.try_clone()?.into(), slave.try_clone()?.into(), slave.into()];
    let output = OutputStream::new(master.as_fd().try_clone_to_owned()?, "stdout")?;
    Ok(ContainerStreams {
        outputs: vec![output],
        stdin: None,
        container_fds,
    })
}

/// Creates a pipe whose read end is non-blocking.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    set_nonblocking(&read)?;
    Ok((read, write))
}

/// Reads the available data, at most one batch. Returns true when the stream has ended.
pub(super) fn read_available(fd: BorrowedFd<'_>, mut consume: impl FnMut(&[u8])) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    let mut total = 0;
    while total < READ_BATCH_BYTES {
        match nix::unistd::read(fd, &mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => {
                consume(&buffer[..count]);
                total += count;
            }
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            // A terminal returns EIO when its other side is closed everywhere.
            Err(Errno::EIO) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
