//! The sink of an archive on a full or broken disk.
//!
//! The quota limits the file itself, so that every way to write meets it: write(2), fallocate(2) and splice(2). A call
//! that reaches the quota first does what still fits, as on a real disk.

use std::{io, os::fd::BorrowedFd};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{CheckpointFaults, Defect, Effect};
use crate::checkpoint::{FileSink, Sink};

/// A file on a disk with faults.
#[derive(Debug)]
pub(super) struct FaultySink<S = FileSink> {
    file: S,
    /// The first bytes of the file for which there is space.
    space: Option<u64>,
    /// The first bytes of the file that the disk can write. Allocation writes no data, so it does not fail.
    writable: Option<u64>,
    /// Bytes without space are silently lost.
    ignores_no_space: bool,
}

impl<S: Sink> FaultySink<S> {
    pub(super) fn new(file: S, faults: &CheckpointFaults) -> Self {
        let effects = || faults.injections.iter().map(|injection| &injection.effect);
        let space = effects().filter_map(|effect| match effect {
            Effect::NoSpace(bytes) => Some(*bytes),
            _ => None,
        });
        let writable = effects().filter_map(|effect| match effect {
            Effect::IoError(bytes) => Some(*bytes),
            _ => None,
        });
        Self {
            file,
            space: space.min(),
            writable: writable.min(),
            ignores_no_space: faults.has(Defect::IgnoreNoSpace),
        }
    }

    /// How many bytes of a range can be written, and the error of the others.
    fn writable_part(&self, offset: u64, length: usize) -> (usize, Option<Errno>) {
        let limits = [(self.space, Errno::ENOSPC), (self.writable, Errno::EIO)];
        let limits = limits.into_iter().filter_map(|(limit, errno)| Some((limit?, errno)));
        match limits.min_by_key(|(limit, _)| *limit) {
            Some((limit, errno)) if offset + length as u64 > limit => {
                (limit.saturating_sub(offset) as usize, Some(errno))
            }
            _ => (length, None),
        }
    }
}

impl<S: Sink> Sink for FaultySink<S> {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (fitting, errno) = self.writable_part(offset, bytes.len());
        let result = self.file.write_at(&bytes[..fitting], offset);
        let result = result.and_then(|()| errno.map_or(Ok(()), |errno| Err(errno.into())));
        match result {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.ignores_no_space => Ok(()),
            result => result,
        }
    }

    fn allocate(&self, offset: u64, length: u64) -> nix::Result<()> {
        let fitting = self
            .space
            .map_or(length, |space| length.min(space.saturating_sub(offset)));
        // At least one byte is allocated, to get the error of a filesystem without fallocate.
        let result = self.file.allocate(offset, fitting.max(1));
        let is_full = result.is_ok() && fitting < length;
        match result {
            Ok(()) if is_full && !self.ignores_no_space => Err(Errno::ENOSPC),
            Err(Errno::ENOSPC) if self.ignores_no_space => Ok(()),
            result => result,
        }
    }

    fn splice_from(&self, pipe: BorrowedFd<'_>, offset: u64, length: usize) -> nix::Result<usize> {
        if self.ignores_no_space {
            // All bytes leave the pipe at once, as in a successful splice.
            let mut bytes = vec![0; length];
            let read = read_available(pipe, &mut bytes)?;
            bytes.truncate(read);
            let result = self.write_at(&bytes, offset);
            return match result {
                Ok(()) => Ok(bytes.len()),
                Err(error) => Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
            };
        }
        match self.writable_part(offset, length) {
            (0, Some(errno)) => Err(errno),
            (fitting, _) => self.file.splice_from(pipe, offset, fitting),
        }
    }
}

/// Reads from a pipe without waiting.
fn read_available(pipe: BorrowedFd<'_>, bytes: &mut [u8]) -> nix::Result<usize> {
    match poll(&mut [PollFd::new(pipe, PollFlags::POLLIN)], PollTimeout::ZERO)? {
        0 => Err(Errno::EAGAIN),
        _ => nix::unistd::read(pipe, bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::Write as _,
        os::fd::{AsFd as _, OwnedFd},
        sync::Arc,
    };

    use super::*;
    use crate::{checkpoint::Phase, fault::Injection};

    fn sink(effects: &[Effect], defects: &[Defect]) -> (File, FaultySink) {
        let file = tempfile::tempfile().expect("a temporary file");
        let faults = CheckpointFaults {
            injections: effects
                .iter()
                .map(|effect| Injection {
                    phase: Phase::Write,
                    effect: effect.clone(),
                })
                .collect(),
            defects: defects.to_vec(),
        };
        let sink = FileSink(Arc::new(file.try_clone().expect("a copy")));
        (file, FaultySink::new(sink, &faults))
    }

    fn pipe_with(bytes: &[u8]) -> OwnedFd {
        let (read_end, write_end) = nix::unistd::pipe().expect("a pipe");
        File::from(write_end).write_all(bytes).expect("a pipe holds the bytes");
        read_end
    }

    fn length(file: &File) -> u64 {
        file.metadata().expect("metadata").len()
    }

    #[test]
    fn a_full_disk_fails_every_way_to_write() {
        let (file, full) = sink(&[Effect::NoSpace(10), Effect::IoError(20), Effect::NoSpace(30)], &[]);
        full.write_at(b"12345678", 0).expect("the bytes fit");
        let error = full.write_at(b"12345678", 8).expect_err("two bytes fit");
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(length(&file), 10);
        assert_eq!(full.allocate(4, 6), Ok(()));
        assert_eq!(full.allocate(4, 7), Err(Errno::ENOSPC));
        assert_eq!(full.splice_from(pipe_with(b"abcd").as_fd(), 8, 4), Ok(2));
        assert_eq!(full.splice_from(pipe_with(b"abcd").as_fd(), 10, 4), Err(Errno::ENOSPC));
    }

    #[test]
    fn a_broken_disk_allocates_but_does_not_write() {
        let (file, broken) = sink(&[Effect::IoError(10)], &[]);
        assert_eq!(broken.allocate(0, 100), Ok(()));
        assert_eq!(length(&file), 100);
        let error = broken.write_at(b"1", 10).expect_err("no byte can be written");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(broken.splice_from(pipe_with(b"abcd").as_fd(), 10, 4), Err(Errno::EIO));
    }

    #[test]
    fn lost_bytes_are_ignored_on_request() {
        let (file, full) = sink(&[Effect::NoSpace(10)], &[Defect::IgnoreNoSpace]);
        full.write_at(&[7; 20], 0).expect("ENOSPC is ignored");
        full.allocate(0, 100).expect("ENOSPC is ignored");
        assert_eq!(length(&file), 10);
        let pipe = pipe_with(b"abcd");
        assert_eq!(full.splice_from(pipe.as_fd(), 10, 8), Ok(4), "the pipe is drained");
    }
}
