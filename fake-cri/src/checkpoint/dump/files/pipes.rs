//! `pipes-data.img` and `fifo-data.img`: the unread content of pipes and FIFOs. Also owners of pipes, and hang-ups of
//! FIFOs.
//!
//! tee(2) copies the content without consuming it. A pipe is read through a new read end, which is closed before any
//! task runs. Opening a FIFO for reading would wake a process that waits in open(2) for a reader, however briefly it is
//! open. So a FIFO is read through a duplicate of an fd of the container. If the container has only write ends, the
//! unread bytes are counted (`FIONREAD`). A read end is opened only if there are unread bytes and the FIFO has a reader
//! already: then no process waits for one.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
};

use cri_proto::criu::{
    Encoder, Kind,
    message::{FownEntry, PipeDataEntry},
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SpliceFFlags, fcntl, tee},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::super::{ImageSetBuilder, context::TaskCtx, fown::no_fown};
use crate::{
    checkpoint::dump_log::DumpLog,
    process::{Pid, RemoteFd, Tid, socket::poll_readiness},
};

/// More than the capacity of any pipe.
const MAX_PIPE_BYTES: usize = 1 << 30;

/// The image entry and the content of a pipe.
type PipeContent = (PipeDataEntry, Vec<u8>);

/// The mode of a new pipe.
const NEW_PIPE_MODE: u32 = 0o600;

/// The pipes and FIFOs whose content was copied.
#[derive(Default)]
pub(super) struct PipeContents {
    handled_inodes: HashSet<u32>,
    /// FIFOs that could not be read so far, each with its line for the log.
    unreadable_fifos: BTreeMap<u32, String>,
    pipes: Vec<PipeContent>,
    fifos: Vec<PipeContent>,
    /// FIFOs that a process of the container can write to.
    written_fifos: HashSet<u32>,
    /// Read ends of FIFOs without a hang-up.
    connected_readers: Vec<FifoReader>,
}

struct FifoReader {
    inode: u32,
    pid: Pid,
    fd: RemoteFd,
}

/// An fd of a pipe or FIFO.
#[derive(Clone, Copy)]
pub(super) struct PipeEnd<'a> {
    pub(super) inode: u32,
    pub(super) fd: RemoteFd,
    /// Open file flags.
    pub(super) flags: u32,
    /// A duplicate of the fd in this process.
    pub(super) dup_fd: Option<BorrowedFd<'a>>,
}

impl PipeEnd<'_> {
    /// `O_RDONLY`, `O_WRONLY` or `O_RDWR`.
    fn access(&self) -> i32 {
        self.flags.cast_signed() & libc::O_ACCMODE
    }
}

/// The owner and group of a pipe, in the fields for F_SETOWN: `pipe_entry` has no other fields for them, and CRIU
/// ignores both if there is no F_SETOWN owner (`pid` is 0; criu/files.c). Without the owner, a process that is not root
/// could not open its own pipe by `/proc/self/fd` after a restore. No field can hold a changed mode.
pub(super) fn pipe_fown(task: &mut TaskCtx<'_>, fd: RemoteFd, metadata: &Metadata) -> FownEntry {
    let mode = metadata.mode() & 0o7777;
    if mode != NEW_PIPE_MODE {
        task.unsupported(format_args!("the mode {mode:o} of the pipe of descriptor {fd}"));
    }
    FownEntry {
        uid: metadata.uid(),
        euid: metadata.gid(),
        ..no_fown()
    }
}

impl PipeContents {
    /// Copies the content of a pipe of a process, unless this was done before.
    pub(super) fn add(&mut self, task: &mut TaskCtx<'_>, is_fifo: bool, end: PipeEnd<'_>) {
        let PipeEnd { inode, fd, .. } = end;
        if self.handled_inodes.contains(&inode) {
            return;
        }
        let pipe_content = match (is_fifo, end.dup_fd) {
            (false, _) => open_reader(task.proc_tid, fd).and_then(|reader| read_content(reader.as_fd())),
            (true, Some(dup_fd)) if end.access() != libc::O_WRONLY => read_content(dup_fd),
            (true, Some(dup_fd)) => read_content_as_writer(task.proc_tid, fd, dup_fd),
            (true, None) => Err(io::Error::other("its descriptor cannot be duplicated")),
        };
        match pipe_content {
            Ok((bytes, size)) => {
                let entry = PipeDataEntry {
                    pipe_id: inode,
                    bytes: u32::try_from(bytes.len()).expect("a pipe holds less than 4 GiB"),
                    size: Some(size),
                };
                let list = if is_fifo { &mut self.fifos } else { &mut self.pipes };
                list.push((entry, bytes));
                self.handled_inodes.insert(inode);
                self.unreadable_fifos.remove(&inode);
            }
            // Another fd of the FIFO may be readable.
            Err(error) => {
                let state = format!("the unread content of the pipe of descriptor {fd}: {error}");
                if is_fifo {
                    let line = format!("pid {}: {state}", task.pid);
                    self.unreadable_fifos.entry(inode).or_insert(line);
                } else {
                    self.handled_inodes.insert(inode);
                    task.unsupported(format_args!("{state}"));
                }
            }
        }
    }

    /// Reports FIFOs that no fd of the container could read. Call after all fds were added.
    pub(super) fn report_unreadable(&mut self, log: &mut DumpLog) {
        for line in std::mem::take(&mut self.unreadable_fifos).into_values() {
            log.unsupported(format_args!("{line}"));
        }
    }

    /// Records an end of a FIFO.
    pub(super) fn add_fifo_end(&mut self, pid: Pid, end: PipeEnd<'_>) {
        let has_hung_up = |dup_fd| poll_readiness(dup_fd).map_or(true, |events| events.contains(PollFlags::POLLHUP));
        if end.flags & libc::O_PATH as u32 != 0 {
            return;
        }
        if end.access() != libc::O_RDONLY {
            self.written_fifos.insert(end.inode);
        } else if end.dup_fd.is_some_and(|dup_fd| !has_hung_up(dup_fd)) {
            let PipeEnd { inode, fd, .. } = end;
            self.connected_readers.push(FifoReader { inode, pid, fd });
        }
    }

    /// Reports read ends of FIFOs that have no writer in the container and saw no hang-up: a restorer first opens a
    /// FIFO in both directions, so a restored read end has seen a writer.
    pub(super) fn report_hang_ups(&mut self, log: &mut DumpLog) {
        for FifoReader { inode, pid, fd } in self.connected_readers.drain(..) {
            if !self.written_fifos.contains(&inode) {
                log.unsupported(format_args!(
                    "pid {pid}: the state without POLLHUP of the FIFO of descriptor {fd}, which has no writer in \
                     the container"
                ));
            }
        }
    }

    pub(super) fn push_images(self, images: &mut ImageSetBuilder) {
        for (kind, contents) in [(Kind::PipesData, self.pipes), (Kind::FifoData, self.fifos)] {
            if contents.is_empty() {
                continue;
            }
            let mut encoder = Encoder::new(kind);
            for (entry, bytes) in &contents {
                encoder.entry(entry);
                encoder.payload(bytes);
            }
            images.push(kind.file_name(None), encoder.finish());
        }
    }
}

/// Opens a new read end of the pipe at an fd.
fn open_reader(proc_tid: Tid, fd: RemoteFd) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(format!("/proc/{proc_tid}/fd/{fd}"))
}

/// The unread content of a FIFO for which the container has only write ends.
fn read_content_as_writer(proc_tid: Tid, fd: RemoteFd, dup_fd: BorrowedFd<'_>) -> io::Result<(Vec<u8>, u32)> {
    let unread = rustix::io::ioctl_fionread(dup_fd)?;
    if unread == 0 {
        let size = fcntl(dup_fd, FcntlArg::F_GETPIPE_SZ)?;
        return Ok((Vec::new(), size.unsigned_abs()));
    }
    let mut poll_fds = [PollFd::new(dup_fd, PollFlags::POLLOUT)];
    poll(&mut poll_fds, PollTimeout::ZERO)?;
    // POLLERR on a write end: no process has the FIFO open for reading (poll(2)).
    let has_reader = poll_fds[0]
        .revents()
        .is_some_and(|events| !events.contains(PollFlags::POLLERR));
    if !has_reader {
        return Err(io::Error::other(format!(
            "{unread} unread bytes and no reader: opening the FIFO would wake processes that wait for a reader"
        )));
    }
    read_content(open_reader(proc_tid, fd)?.as_fd())
}

/// The unread content of a pipe, and its capacity.
fn read_content(source: BorrowedFd<'_>) -> io::Result<(Vec<u8>, u32)> {
    let size = fcntl(source, FcntlArg::F_GETPIPE_SZ)?;
    let (mut reader, writer) = io::pipe()?;
    // With the same capacity, one tee copies all content; a second tee would start from the beginning.
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size))?;
    let length = match tee(source, writer.as_fd(), MAX_PIPE_BYTES, SpliceFFlags::SPLICE_F_NONBLOCK) {
        Ok(count) => count,
        Err(Errno::EAGAIN) => 0,
        Err(errno) => return Err(errno.into()),
    };
    // Not read to the end: a child that this process forks elsewhere may hold the write end for a moment.
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok((bytes, size.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::fd::AsRawFd as _};

    use super::*;

    #[test]
    fn unread_bytes_are_copied_and_stay_in_the_pipe() {
        let (mut reader, mut writer) = io::pipe().expect("pipe");
        let own_tid = Tid::current();
        assert_eq!(read_content(reader.as_fd()).expect("copy").0, b"");
        // In several writes, each of which takes a pipe buffer of its own.
        let mut written = Vec::new();
        for chunk in 0..12_u8 {
            let chunk = vec![chunk; 4095];
            writer.write_all(&chunk).expect("room in the pipe");
            written.extend(chunk);
        }
        for fd in [reader.as_raw_fd(), writer.as_raw_fd()] {
            let own_reader = open_reader(own_tid, RemoteFd::from_raw(fd)).expect("a reader");
            assert_eq!(
                read_content(own_reader.as_fd()).expect("copy"),
                (written.clone(), 65_536)
            );
        }
        drop(writer);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        assert_eq!(read, written);
    }

    #[test]
    fn no_reader_is_opened_for_a_fifo_without_readers() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        let open = |options: &mut OpenOptions| options.custom_flags(libc::O_NONBLOCK).open(&path).expect("opened");
        let reader = open(OpenOptions::new().read(true));
        let mut writer = open(OpenOptions::new().write(true));
        let own_pid = Pid::current();
        let remote_fd = |file: &File| RemoteFd::from_raw(file.as_raw_fd());
        let read_as_writer =
            |writer: &File| read_content_as_writer(own_pid.main_thread(), remote_fd(writer), writer.as_fd());
        assert_eq!(read_as_writer(&writer).expect("no unread bytes").0, b"");
        writer.write_all(b"unread").expect("room in the FIFO");
        assert_eq!(read_as_writer(&writer).expect("the FIFO has a reader").0, b"unread");
        drop(reader);
        let message = read_as_writer(&writer).expect_err("no reader").to_string();
        assert!(message.contains("6 unread bytes"), "{message}");
        // A readable fd is used, regardless of the order.
        let read_write = open(OpenOptions::new().read(true).write(true));
        let mut pipes = PipeContents::default();
        let mut log = DumpLog::new(std::time::Instant::now());
        let end = |access: i32, dup_fd| PipeEnd {
            inode: 7,
            fd: remote_fd(&writer),
            flags: access.cast_unsigned(),
            dup_fd,
        };
        let task = &mut TaskCtx::new(own_pid, own_pid.main_thread(), &mut log);
        pipes.add(task, true, end(libc::O_WRONLY, None));
        pipes.add(task, true, end(libc::O_RDWR, Some(read_write.as_fd())));
        pipes.report_unreadable(&mut log);
        assert_eq!(log.unsupported_summary(), None);
        assert_eq!(pipes.fifos[0].1, b"unread");
    }
}
