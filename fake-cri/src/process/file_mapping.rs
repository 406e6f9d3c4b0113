//! Maps a file into this process, to be read as another process's memory is read.

use std::{fs::File, num::NonZero, ops::Range, ptr::NonNull};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A read-only mapping of a file. Nothing dereferences it: the file may be truncated at any time. Only a copy by the
/// kernel (`/proc/self/mem`) then returns an error instead of raising SIGBUS.
#[derive(Debug)]
pub(crate) struct FileMapping {
    start: NonNull<libc::c_void>,
    length: NonZero<usize>,
}

#[expect(unsafe_code, reason = "mmap returns a pointer")]
// SAFETY: a mapping belongs to no thread, and nothing here reads or writes through the pointer.
unsafe impl Send for FileMapping {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for FileMapping {}

impl FileMapping {
    /// Maps the first `length` bytes.
    pub(crate) fn new(file: &File, length: NonZero<usize>) -> nix::Result<Self> {
        #[expect(unsafe_code, reason = "mmap")]
        // SAFETY: the kernel chooses the address, so the mapping overlaps no other.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { start, length })
    }

    /// The address range of a part of the file.
    pub(crate) fn address_range(&self, part: &Range<u64>) -> Range<u64> {
        let start = self.start.addr().get() as u64;
        start + part.start..start + part.end
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "munmap")]
        // SAFETY: the mapping was created in `new`, and its addresses are only used by system calls.
        let result = unsafe { munmap(self.start, self.length.get()) };
        debug_assert!(result.is_ok());
    }
}
