//! `pipes-data.img` and `fifo-data.img`: what stands unread in pipes and FIFOs. Owners of pipes, and hang-ups of FIFOs.
//!
//! It is copied by tee(2), which takes nothing away from its readers. A pipe is read through a read end of our own that is closed
//! again before anybody runs. A FIFO has a name, and whoever waits in open(2) for a reader comes back when one is opened, however
//! briefly: so it is read through a copy of a descriptor that the container has anyway. Where the container only writes to it, the
//! unread bytes are counted (`FIONREAD`), and a reader is opened only if there are some and somebody reads already, for whom
//! nobody waits then.

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

use super::super::{ImageSetBuilder, fown::no_fown};
use crate::{
    checkpoint::dump_log::DumpLog,
    process::{descriptor, socket::poll_readiness},
};

/// More than any pipe holds.
const MAX_PIPE_BYTES: usize = 1 << 30;

/// A pipe's number, its size and what is in it.
type PipeContent = (PipeDataEntry, Vec<u8>);

/// The mode that pipe(2) gives a pipe.
const NEW_PIPE_MODE: u32 = 0o600;

/// The pipes whose content was copied.
#[derive(Default)]
pub(super) struct PipeContents {
    handled_inodes: HashSet<u32>,
    /// FIFOs that could not be read yet, each with what is to be said of it.
    unreadable_fifos: BTreeMap<u32, String>,
    pipes: Vec<PipeContent>,
    fifos: Vec<PipeContent>,
    /// FIFOs that somebody of the container can write to.
    written_fifos: HashSet<u32>,
    /// Reading ends of FIFOs that see no hang-up: FIFO, process, descriptor.
    connected_readers: Vec<(u32, i32, i32)>,
}

/// The owner and group of a pipe, in the place that says who is told of it (`F_SETOWN`): `pipe_entry` has no other one, and
/// CRIU reads neither where nobody is told (`pid` is 0; criu/files.c). Without it a process that is not root cannot open its
/// own pipe by `/proc/self/fd` any more. A mode of its own has no place at all.
pub(super) fn pipe_fown((pid, fd): (i32, i32), metadata: &Metadata, log: &mut DumpLog) -> FownEntry {
    let mode = metadata.mode() & 0o7777;
    if mode != NEW_PIPE_MODE {
        log.unsupported(format_args!(
            "pid {pid}: the mode {mode:o} of the pipe of descriptor {fd}"
        ));
    }
    FownEntry {
        uid: metadata.uid(),
        euid: metadata.gid(),
        ..no_fown()
    }
}

impl PipeContents {
    /// Copies what is in the pipe behind descriptor `fd` of a process, unless another one led there before. `copy` is a copy of the
    /// descriptor, opened for `access` (`O_ACCMODE`).
    pub(super) fn add(
        &mut self,
        is_fifo: bool,
        inode: u32,
        (pid, proc_tid, fd): (i32, i32, i32),
        (dup_fd, access): (Option<BorrowedFd<'_>>, i32),
        log: &mut DumpLog,
    ) {
        if self.handled_inodes.contains(&inode) {
            return;
        }
        let pipe_content = match (is_fifo, dup_fd) {
            (false, _) => open_reader(proc_tid, fd).and_then(|reader| read_content(reader.as_fd())),
            (true, Some(dup_fd)) if access != libc::O_WRONLY => read_content(dup_fd),
            (true, Some(dup_fd)) => read_content_as_writer(proc_tid, fd, dup_fd),
            (true, None) => Err(io::Error::other("its descriptor cannot be copied")),
        };
        match pipe_content {
            Ok((bytes, size)) => {
                let entry = PipeDataEntry {
                    pipe_id: inode,
                    bytes: u32::try_from(bytes.len()).expect("no pipe holds 4 GiB"),
                    size: Some(size),
                };
                let list = if is_fifo { &mut self.fifos } else { &mut self.pipes };
                list.push((entry, bytes));
                self.handled_inodes.insert(inode);
                self.unreadable_fifos.remove(&inode);
            }
            // Another descriptor may lead to it in a better way.
            Err(error) => {
                let line = format!("pid {pid}: what is unread in the pipe of descriptor {fd}: {error}");
                match is_fifo {
                    true => drop(self.unreadable_fifos.entry(inode).or_insert(line)),
                    false => {
                        self.handled_inodes.insert(inode);
                        log.unsupported(format_args!("{line}"));
                    }
                }
            }
        }
    }

    /// Says which FIFOs no descriptor of the container could be read through. To be called once all descriptors were added.
    pub(super) fn report_unreadable(&mut self, log: &mut DumpLog) {
        for line in std::mem::take(&mut self.unreadable_fifos).into_values() {
            log.unsupported(format_args!("{line}"));
        }
    }

    /// Looks at an end of a FIFO, by a copy of its descriptor.
    pub(super) fn add_fifo_end(
        &mut self,
        (inode, pid, fd): (u32, i32, i32),
        flags: u32,
        dup_fd: Option<BorrowedFd<'_>>,
    ) {
        if flags & libc::O_PATH as u32 != 0 {
            return;
        }
        if flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32 {
            self.written_fifos.insert(inode);
        } else if dup_fd
            .is_some_and(|dup_fd| poll_readiness(dup_fd).is_ok_and(|events| !events.contains(PollFlags::POLLHUP)))
        {
            self.connected_readers.push((inode, pid, fd));
        }
    }

    /// Names the reading ends of FIFOs that have no writer in the container and have not seen one go: a restorer opens a FIFO
    /// for both directions first, so that a restored end has.
    pub(super) fn report_hang_ups(&mut self, log: &mut DumpLog) {
        for (inode, pid, fd) in self.connected_readers.drain(..) {
            if !self.written_fifos.contains(&inode) {
                log.unsupported(format_args!(
                    "pid {pid}: that the FIFO of descriptor {fd}, which nobody of the container writes to, is not hung up (POLLHUP)"
                ));
            }
        }
    }

    /// Adds the images, those that have entries.
    pub(super) fn push_images(self, images: &mut ImageSetBuilder) {
        for (kind, contents) in [(Kind::PipesData, self.pipes), (Kind::FifoData, self.fifos)] {
            if contents.is_empty() {
                continue;
            }
            let mut encoder = Encoder::new(kind, Vec::new()).expect("a vector takes all");
            for (entry, bytes) in &contents {
                encoder.entry(entry).expect("a vector takes all");
                encoder.payload(bytes).expect("a vector takes all");
            }
            images.push(kind.file_name(None), encoder.finish());
        }
    }
}

/// A reader of the pipe behind a descriptor, opened anew.
fn open_reader(proc_tid: i32, fd: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(format!("/proc/{proc_tid}/fd/{fd}"))
}

/// What is unread in a FIFO that only a writer of the container leads to.
fn read_content_as_writer(proc_tid: i32, fd: i32, dup_fd: BorrowedFd<'_>) -> io::Result<(Vec<u8>, u32)> {
    let unread = descriptor::unread_bytes(dup_fd)?;
    if unread == 0 {
        let size = fcntl(dup_fd, FcntlArg::F_GETPIPE_SZ)?;
        return Ok((Vec::new(), size.unsigned_abs()));
    }
    let mut poll_fds = [PollFd::new(dup_fd, PollFlags::POLLOUT)];
    poll(&mut poll_fds, PollTimeout::ZERO)?;
    // A writer hears of an error when nobody has the FIFO open for reading (poll(2)).
    let has_reader = poll_fds[0]
        .revents()
        .is_some_and(|events| !events.contains(PollFlags::POLLERR));
    if !has_reader {
        return Err(io::Error::other(format!(
            "{unread} bytes, and nobody has it open for reading: to open it would wake whoever waits for a reader"
        )));
    }
    read_content(open_reader(proc_tid, fd)?.as_fd())
}

/// What is unread in a pipe, and the size of its buffer.
fn read_content(source: BorrowedFd<'_>) -> io::Result<(Vec<u8>, u32)> {
    let size = fcntl(source, FcntlArg::F_GETPIPE_SZ)?;
    let (mut reader, writer) = io::pipe()?;
    // With as many places as the other one has, it takes all of it in one call: a second one would begin anew.
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size))?;
    let length = match tee(source, writer.as_fd(), MAX_PIPE_BYTES, SpliceFFlags::SPLICE_F_NONBLOCK) {
        Ok(count) => count,
        Err(Errno::EAGAIN) => 0,
        Err(errno) => return Err(errno.into()),
    };
    // Not to its end: a child that is being started elsewhere in this process may hold the writing end for a moment.
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
        let own_pid = std::process::id() as i32;
        assert_eq!(read_content(reader.as_fd()).expect("copy").0, b"");
        // In pieces, each of which takes a place of its own in the pipe.
        let mut written = Vec::new();
        for chunk in 0..12_u8 {
            let chunk = vec![chunk; 4095];
            writer.write_all(&chunk).expect("it has room");
            written.extend(chunk);
        }
        for fd in [reader.as_raw_fd(), writer.as_raw_fd()] {
            let own_reader = open_reader(own_pid, fd).expect("a reader");
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

    /// A FIFO that the container writes to, and that nobody reads.
    #[test]
    fn no_reader_is_opened_for_a_fifo_without_readers() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        let open = |options: &mut OpenOptions| options.custom_flags(libc::O_NONBLOCK).open(&path).expect("opened");
        let reader = open(OpenOptions::new().read(true));
        let mut writer = open(OpenOptions::new().write(true));
        let own_pid = std::process::id() as i32;
        let read_as_writer = |writer: &File| read_content_as_writer(own_pid, writer.as_raw_fd(), writer.as_fd());
        assert_eq!(read_as_writer(&writer).expect("nothing is unread").0, b"");
        writer.write_all(b"unread").expect("it has room");
        assert_eq!(read_as_writer(&writer).expect("somebody reads").0, b"unread");
        drop(reader);
        let message = read_as_writer(&writer).expect_err("nobody reads").to_string();
        assert!(message.contains("6 bytes"), "{message}");
        // The one that can be read is taken, whichever comes first.
        let read_write = open(OpenOptions::new().read(true).write(true));
        let mut pipes = PipeContents::default();
        let mut log = DumpLog::new(std::time::Instant::now());
        let fds = (own_pid, writer.as_raw_fd(), writer.as_raw_fd());
        pipes.add(true, 7, fds, (None, libc::O_WRONLY), &mut log);
        pipes.add(true, 7, fds, (Some(read_write.as_fd()), libc::O_RDWR), &mut log);
        pipes.report_unreadable(&mut log);
        assert_eq!(log.unsupported_summary(), None);
        assert_eq!(pipes.fifos[0].1, b"unread");
    }
}
