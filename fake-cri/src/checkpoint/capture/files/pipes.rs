//! `pipes-data.img` and `fifo-data.img`: what stands unread in pipes and FIFOs. Owners of pipes, and hang-ups of FIFOs.
//!
//! It is copied by tee(2), which takes nothing away from its readers, through a read end of our own that is closed again
//! before anybody runs.

use std::{
    collections::HashSet,
    fs::{Metadata, OpenOptions},
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
    poll::PollFlags,
};

use super::super::{Images, owner::no_owner};
use crate::{checkpoint::log::DumpLog, process::socket::readiness};

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
    /// Copies what is in the pipe behind this descriptor, unless another one led there before.
    pub(super) fn add(&mut self, named: bool, inode: u32, pid: i32, window: i32, fd: i32, log: &mut DumpLog) {
        if !self.seen.insert(inode) {
            return;
        }
        match content(window, fd) {
            Ok((bytes, size)) => {
                let entry = PipeDataEntry {
                    pipe_id: inode,
                    bytes: u32::try_from(bytes.len()).expect("no pipe holds 4 GiB"),
                    size: Some(size),
                };
                let list = if named { &mut self.fifos } else { &mut self.pipes };
                list.push((entry, bytes));
            }
            Err(error) => log.lost(format_args!(
                "pid {pid}: what is unread in the pipe of descriptor {fd}: {error}"
            )),
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

/// What is unread in the pipe behind a descriptor, and the size of its buffer.
fn content(window: i32, fd: i32) -> io::Result<(Vec<u8>, u32)> {
    let source = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(format!("/proc/{window}/fd/{fd}"))?;
    let size = fcntl(&source, FcntlArg::F_GETPIPE_SZ)?;
    let (mut reader, writer) = io::pipe()?;
    // With as many places as the other one has, it takes all of it in one call: a second one would begin anew.
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size))?;
    let copied = match tee(source.as_fd(), writer.as_fd(), ALL, SpliceFFlags::SPLICE_F_NONBLOCK) {
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
        assert_eq!(content(own, reader.as_raw_fd()).expect("copy").0, b"");
        // In pieces, each of which takes a place of its own in the pipe.
        let mut written = Vec::new();
        for piece in 0..12_u8 {
            let piece = vec![piece; 4095];
            writer.write_all(&piece).expect("it has room");
            written.extend(piece);
        }
        for fd in [reader.as_raw_fd(), writer.as_raw_fd()] {
            assert_eq!(content(own, fd).expect("copy"), (written.clone(), 65_536));
        }
        drop(writer);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        assert_eq!(read, written);
    }
}
