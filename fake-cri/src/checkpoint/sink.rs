//! What the archive writes to.

use std::{fmt, fs::File, io, os::fd::BorrowedFd, os::unix::fs::FileExt as _, sync::Arc};

use nix::fcntl::{FallocateFlags, SpliceFFlags, fallocate, splice};

/// A file that is written at any offset, by several threads.
pub trait Sink: fmt::Debug + Send + Sync {
    /// Writes all bytes at this offset.
    ///
    /// # Errors
    ///
    /// The error of write(2). Some bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Allocates space for a range, so that later writes to the range find space.
    ///
    /// # Errors
    ///
    /// The error of fallocate(2).
    fn allocate(&self, offset: u64, length: u64) -> nix::Result<()>;

    /// Moves at most `length` bytes from a pipe to this offset, without waiting for the pipe. Returns the number of
    /// bytes.
    ///
    /// # Errors
    ///
    /// The error of splice(2). `EAGAIN` if the pipe is empty.
    fn splice_from(&self, pipe: BorrowedFd<'_>, offset: u64, length: usize) -> nix::Result<usize>;
}

/// A file.
#[derive(Clone, Debug)]
pub struct FileSink(pub(crate) Arc<File>);

impl Sink for FileSink {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn allocate(&self, offset: u64, length: u64) -> nix::Result<()> {
        fallocate(
            &self.0,
            FallocateFlags::empty(),
            offset.cast_signed(),
            length.cast_signed(),
        )
    }

    fn splice_from(&self, pipe: BorrowedFd<'_>, offset: u64, length: usize) -> nix::Result<usize> {
        let mut position = offset.cast_signed();
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        splice(pipe, None, &self.0, Some(&mut position), length, flags)
    }
}
