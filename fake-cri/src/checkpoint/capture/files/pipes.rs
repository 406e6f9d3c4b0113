//! `pipes-data.img` and `fifo-data.img`: what stands unread in pipes and FIFOs.
//!
//! It is copied by tee(2), which takes nothing away from its readers, through a read end of our own that is closed again
//! before anybody runs.

use std::{
    collections::HashSet,
    fs::OpenOptions,
    io::{self, Read as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
};

use cri_proto::criu::{Encoder, Kind, message::PipeDataEntry};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SpliceFFlags, fcntl, tee},
};

use super::super::Images;
use crate::checkpoint::log::DumpLog;

/// More than any pipe holds.
const ALL: usize = 1 << 30;

/// A pipe's number, its size and what is in it.
type Content = (PipeDataEntry, Vec<u8>);

/// The pipes whose content was copied.
#[derive(Default)]
pub(super) struct Pipes {
    seen: HashSet<u32>,
    pipes: Vec<Content>,
    fifos: Vec<Content>,
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
