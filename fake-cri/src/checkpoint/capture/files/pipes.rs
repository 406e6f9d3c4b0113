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

use super::super::{Images, owner::no_owner};
use crate::{
    checkpoint::log::DumpLog,
    process::{descriptor, socket::readiness},
};

/// More than any pipe holds.
const ALL: usize = 1 << 30;

/// A pipe's number, its size and what is in it.
type Content = (PipeDataEntry, Vec<u8>);

/// The mode that pipe(2) gives a pipe.
const NEW_PIPE_MODE: u32 = 0o600;

/// The pipes whose content was copied.
#[derive(Default)]
pub(super) struct Pipes {
    seen: HashSet<u32>,
    /// FIFOs that could not be read yet, each with what is to be said of it.
    failed: BTreeMap<u32, String>,
    pipes: Vec<Content>,
    fifos: Vec<Content>,
    /// FIFOs that somebody of the container can write to.
    written: HashSet<u32>,
    /// Reading ends of FIFOs that see no hang-up: FIFO, process, descriptor.
    not_hung_up: Vec<(u32, i32, i32)>,
}

/// The owner and group of a pipe, in the place that says who is told of it (`F_SETOWN`): `pipe_entry` has no other one, and
/// CRIU reads neither where nobody is told (`pid` is 0; criu/files.c). Without it a process that is not root cannot open its
/// own pipe by `/proc/self/fd` any more. A mode of its own has no place at all.
pub(super) fn pipe_owner((pid, fd): (i32, i32), metadata: &Metadata, log: &mut DumpLog) -> FownEntry {
    let mode = metadata.mode() & 0o7777;
    if mode != NEW_PIPE_MODE {
        log.lost(format_args!(
            "pid {pid}: the mode {mode:o} of the pipe of descriptor {fd}"
        ));
    }
    FownEntry {
        uid: metadata.uid(),
        euid: metadata.gid(),
        ..no_owner()
    }
}

impl Pipes {
    /// Copies what is in the pipe behind descriptor `fd` of a process, unless another one led there before. `copy` is a copy of the
    /// descriptor, opened for `access` (`O_ACCMODE`).
    pub(super) fn add(
        &mut self,
        named: bool,
        inode: u32,
        (pid, window, fd): (i32, i32, i32),
        (copy, access): (Option<BorrowedFd<'_>>, i32),
        log: &mut DumpLog,
    ) {
        if self.seen.contains(&inode) {
            return;
        }
        let content = match (named, copy) {
            (false, _) => own_reader(window, fd).and_then(|reader| content(reader.as_fd())),
            (true, Some(copy)) if access != libc::O_WRONLY => content(copy),
            (true, Some(copy)) => content_for_writer(window, fd, copy),
            (true, None) => Err(io::Error::other("its descriptor cannot be copied")),
        };
        match content {
            Ok((bytes, size)) => {
                let entry = PipeDataEntry {
                    pipe_id: inode,
                    bytes: u32::try_from(bytes.len()).expect("no pipe holds 4 GiB"),
                    size: Some(size),
                };
                let list = if named { &mut self.fifos } else { &mut self.pipes };
                list.push((entry, bytes));
                self.seen.insert(inode);
                self.failed.remove(&inode);
            }
            // Another descriptor may lead to it in a better way.
            Err(error) => {
                let line = format!("pid {pid}: what is unread in the pipe of descriptor {fd}: {error}");
                match named {
                    true => drop(self.failed.entry(inode).or_insert(line)),
                    false => {
                        self.seen.insert(inode);
                        log.lost(format_args!("{line}"));
                    }
                }
            }
        }
    }

    /// Says which FIFOs no descriptor of the container could be read through. To be called once all descriptors were added.
    pub(super) fn tell_failed(&mut self, log: &mut DumpLog) {
        for line in std::mem::take(&mut self.failed).into_values() {
            log.lost(format_args!("{line}"));
        }
    }

    /// Looks at an end of a FIFO, by a copy of its descriptor.
    pub(super) fn fifo_end(&mut self, (inode, pid, fd): (u32, i32, i32), flags: u32, copy: Option<BorrowedFd<'_>>) {
        if flags & libc::O_PATH as u32 != 0 {
            return;
        }
        if flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32 {
            self.written.insert(inode);
        } else if copy.is_some_and(|copy| readiness(copy).is_ok_and(|found| !found.contains(PollFlags::POLLHUP))) {
            self.not_hung_up.push((inode, pid, fd));
        }
    }

    /// Names the reading ends of FIFOs that have no writer in the container and have not seen one go: a restorer opens a FIFO
    /// for both directions first, so that a restored end has.
    pub(super) fn report_hang_ups(&mut self, log: &mut DumpLog) {
        for (inode, pid, fd) in self.not_hung_up.drain(..) {
            if !self.written.contains(&inode) {
                log.lost(format_args!(
                    "pid {pid}: that the FIFO of descriptor {fd}, which nobody of the container writes to, is not hung up (POLLHUP)"
                ));
            }
        }
    }

    /// Adds the images, those that have entries.
    pub(super) fn images(self, images: &mut Images) {
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
fn own_reader(window: i32, fd: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(format!("/proc/{window}/fd/{fd}"))
}

/// What is unread in a FIFO that only a writer of the container leads to.
fn content_for_writer(window: i32, fd: i32, copy: BorrowedFd<'_>) -> io::Result<(Vec<u8>, u32)> {
    let unread = descriptor::unread_bytes(copy)?;
    if unread == 0 {
        let size = fcntl(copy, FcntlArg::F_GETPIPE_SZ)?;
        return Ok((Vec::new(), size.unsigned_abs()));
    }
    let mut asked = [PollFd::new(copy, PollFlags::POLLOUT)];
    poll(&mut asked, PollTimeout::ZERO)?;
    // A writer hears of an error when nobody has the FIFO open for reading (poll(2)).
    let has_reader = asked[0]
        .revents()
        .is_some_and(|events| !events.contains(PollFlags::POLLERR));
    if !has_reader {
        return Err(io::Error::other(format!(
            "{unread} bytes, and nobody has it open for reading: to open it would wake whoever waits for a reader"
        )));
    }
    content(own_reader(window, fd)?.as_fd())
}

/// What is unread in a pipe, and the size of its buffer.
fn content(source: BorrowedFd<'_>) -> io::Result<(Vec<u8>, u32)> {
    let size = fcntl(source, FcntlArg::F_GETPIPE_SZ)?;
    let (mut reader, writer) = io::pipe()?;
    // With as many places as the other one has, it takes all of it in one call: a second one would begin anew.
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size))?;
    let copied = match tee(source, writer.as_fd(), ALL, SpliceFFlags::SPLICE_F_NONBLOCK) {
        Ok(copied) => copied,
        Err(Errno::EAGAIN) => 0,
        Err(errno) => return Err(errno.into()),
    };
    // Not to its end: a child that is being started elsewhere in this process may hold the writing end for a moment.
    let mut bytes = vec![0; copied];
    reader.read_exact(&mut bytes)?;
    Ok((bytes, size.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::fd::AsRawFd as _};

    use super::*;

    #[test]
    fn what_is_unread_is_copied_and_stays() {
        let (mut reader, mut writer) = io::pipe().expect("pipe");
        let own = std::process::id() as i32;
        assert_eq!(content(reader.as_fd()).expect("copy").0, b"");
        // In pieces, each of which takes a place of its own in the pipe.
        let mut written = Vec::new();
        for piece in 0..12_u8 {
            let piece = vec![piece; 4095];
            writer.write_all(&piece).expect("it has room");
            written.extend(piece);
        }
        for fd in [reader.as_raw_fd(), writer.as_raw_fd()] {
            let own_reader = own_reader(own, fd).expect("a reader");
            assert_eq!(content(own_reader.as_fd()).expect("copy"), (written.clone(), 65_536));
        }
        drop(writer);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        assert_eq!(read, written);
    }

    /// A FIFO that the container writes to, and that nobody reads.
    #[test]
    fn no_reader_is_opened_where_one_may_be_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        let open = |options: &mut OpenOptions| options.custom_flags(libc::O_NONBLOCK).open(&path).expect("opened");
        let reader = open(OpenOptions::new().read(true));
        let mut writer = open(OpenOptions::new().write(true));
        let own = std::process::id() as i32;
        let seen = |writer: &File| content_for_writer(own, writer.as_raw_fd(), writer.as_fd());
        assert_eq!(seen(&writer).expect("nothing is unread").0, b"");
        writer.write_all(b"unread").expect("it has room");
        assert_eq!(seen(&writer).expect("somebody reads").0, b"unread");
        drop(reader);
        let refused = seen(&writer).expect_err("nobody reads").to_string();
        assert!(refused.contains("6 bytes"), "{refused}");
        // The one that can be read is taken, whichever comes first.
        let both = open(OpenOptions::new().read(true).write(true));
        let mut pipes = Pipes::default();
        let mut log = DumpLog::new(std::time::Instant::now());
        let none = (own, writer.as_raw_fd(), writer.as_raw_fd());
        pipes.add(true, 7, none, (None, libc::O_WRONLY), &mut log);
        pipes.add(true, 7, none, (Some(both.as_fd()), libc::O_RDWR), &mut log);
        pipes.tell_failed(&mut log);
        assert_eq!(log.all_lost(), None);
        assert_eq!(pipes.fifos[0].1, b"unread");
    }
}
