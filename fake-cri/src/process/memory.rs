//! Another process's memory, read in large pieces, and written.
//!
//! `process_vm_readv` copies straight from one address space into the other's buffer. It refuses what the process itself
//! may not read (`PROT_NONE`); such pages come through `/proc/PID/mem`, which a tracer may read whatever their protection.
//! Pages that neither gives (a device's, a failed disk's, poisoned ones) are filled with zeroes and named.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    ops::Range,
    os::unix::fs::FileExt as _,
};

use nix::{
    errno::Errno,
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};

use super::pagemap::PAGE_SIZE;

/// The most pieces one call of `process_vm_readv` takes (`UIO_MAXIOV`).
const MOST_PIECES: usize = 1024;

/// The memory of one process, seen through one of its threads.
#[derive(Debug)]
pub(crate) struct Memory {
    tid: i32,
    slow: Option<File>,
    written: Option<File>,
}

impl Memory {
    /// The memory that this thread sees.
    pub(crate) fn of(tid: i32) -> Self {
        Self {
            tid,
            slow: None,
            written: None,
        }
    }

    /// Fills `buffer` with the pieces, one after the other; their lengths add up to the buffer's. Every page that cannot be
    /// read is filled with zeroes and given to `unreadable`.
    ///
    /// # Errors
    ///
    /// `ESRCH` when the process is gone.
    pub(crate) fn read(
        &mut self,
        pieces: &[Range<u64>],
        buffer: &mut [u8],
        mut unreadable: impl FnMut(u64),
    ) -> io::Result<()> {
        debug_assert_eq!(
            pieces.iter().map(|piece| piece.end - piece.start).sum::<u64>(),
            buffer.len() as u64
        );
        let mut remote = Vec::with_capacity(pieces.len().min(MOST_PIECES));
        let mut piece = 0;
        let mut into_piece = 0;
        let mut done = 0;
        while done < buffer.len() {
            remote.clear();
            let mut skip = into_piece;
            for range in pieces[piece..].iter().take(MOST_PIECES) {
                remote.push(RemoteIoVec {
                    base: (range.start + skip) as usize,
                    len: (range.end - range.start - skip) as usize,
                });
                skip = 0;
            }
            let asked: usize = remote.iter().map(|part| part.len).sum();
            let rest = &mut buffer[done..done + asked];
            let read = match process_vm_readv(Pid::from_raw(self.tid), &mut [IoSliceMut::new(rest)], &remote) {
                Ok(read) => read,
                Err(Errno::EFAULT | Errno::EPERM | Errno::ENOSYS | Errno::EIO) => 0,
                Err(errno) => return Err(errno.into()),
            };
            let mut moved = read;
            if read < asked {
                // The page after what came is the one that could not be read this way. It is read alone, and the next call
                // goes on behind it.
                let (address, length) = page_at(pieces, piece, into_piece, read);
                let slot = &mut rest[read..read + length];
                if !self.read_slowly(address, slot)? {
                    slot.fill(0);
                    unreadable(address);
                }
                moved += length;
            }
            done += moved;
            advance(pieces, &mut piece, &mut into_piece, moved as u64);
        }
        Ok(())
    }

    /// Writes bytes, also where the process itself may not, as a tracer may into private memory.
    ///
    /// # Errors
    ///
    /// Nothing private is mapped there, or the process is gone.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.written {
            Some(file) => file,
            none => none.insert(File::options().write(true).open(format!("/proc/{}/mem", self.tid))?),
        };
        file.write_all_at(bytes, address)
    }

    /// Reads through `/proc/PID/mem`; false when the kernel does not give this page.
    fn read_slowly(&mut self, address: u64, slot: &mut [u8]) -> io::Result<bool> {
        let file = match &mut self.slow {
            Some(file) => file,
            slow => slow.insert(File::open(format!("/proc/{}/mem", self.tid))?),
        };
        match file.read_exact_at(slot, address) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(error),
            Err(_) => Ok(false),
        }
    }
}

/// The address `offset` bytes behind a place in the pieces, and how much of its page belongs to them.
fn page_at(pieces: &[Range<u64>], mut piece: usize, mut into_piece: u64, offset: usize) -> (u64, usize) {
    advance(pieces, &mut piece, &mut into_piece, offset as u64);
    let address = pieces[piece].start + into_piece;
    let page_end = (address / PAGE_SIZE + 1) * PAGE_SIZE;
    (address, (page_end.min(pieces[piece].end) - address) as usize)
}

/// Moves a place in the pieces on.
fn advance(pieces: &[Range<u64>], piece: &mut usize, into_piece: &mut u64, mut by: u64) {
    while by > 0 {
        let left = pieces[*piece].end - pieces[*piece].start - *into_piece;
        if by < left {
            *into_piece += by;
            return;
        }
        by -= left;
        *piece += 1;
        *into_piece = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(bytes: &[u8]) -> u64 {
        bytes.as_ptr().addr() as u64
    }

    #[test]
    fn pieces_come_one_after_the_other() {
        let first = vec![1_u8; 10_000];
        let second: Vec<u8> = (0..5_000_u32).map(|n| n as u8).collect();
        let pieces = [
            address(&first)..address(&first) + 10_000,
            address(&second) + 100..address(&second) + 5_000,
        ];
        let mut buffer = vec![0; 14_900];
        let mut memory = Memory::of(std::process::id() as i32);
        memory
            .read(&pieces, &mut buffer, |page| panic!("{page:x} unreadable"))
            .expect("own memory is readable");
        assert_eq!(&buffer[..10_000], &first[..]);
        assert_eq!(&buffer[10_000..], &second[100..]);
    }

    #[test]
    fn what_cannot_be_read_is_named_and_zero() {
        let good = vec![7_u8; 4_096];
        let pieces = [0..8192_u64, address(&good)..address(&good) + 4_096, 0..4096];
        let mut buffer = vec![9; 16_384];
        let mut unreadable = Vec::new();
        Memory::of(std::process::id() as i32)
            .read(&pieces, &mut buffer, |page| unreadable.push(page))
            .expect("a hole is no error");
        assert_eq!(unreadable, [0, 4096, 0]);
        assert_eq!(&buffer[..8192], &[0; 8192][..]);
        assert_eq!(&buffer[8192..12_288], &good[..]);
        assert_eq!(&buffer[12_288..], &[0; 4096][..]);
    }
}
