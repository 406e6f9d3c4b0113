//! A file's pages in this process's own address space, to be read as another process's memory is.

use std::{fs::File, num::NonZero, ops::Range, ptr::NonNull};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A read-only mapping of a file. It is never looked at directly: the file may be cut at any time, and only the kernel's own
/// copying (`/proc/self/mem`) takes that as an error and not as a signal.
#[derive(Debug)]
pub(crate) struct FileMapping {
    start: NonNull<libc::c_void>,
    length: NonZero<usize>,
}

#[expect(unsafe_code, reason = "a mapping is made and unmade by system calls")]
// SAFETY: a mapping belongs to no thread, and nothing here reads or writes through the pointer.
unsafe impl Send for FileMapping {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for FileMapping {}

impl FileMapping {
    /// Maps the first so many bytes.
    pub(crate) fn new(file: &File, length: NonZero<usize>) -> nix::Result<Self> {
        #[expect(unsafe_code, reason = "a new mapping")]
        // SAFETY: where the kernel wants it, over nothing that is there.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { start, length })
    }

    /// The addresses here of a part of the file.
    pub(crate) fn address_range(&self, part: &Range<u64>) -> Range<u64> {
        let start = self.start.addr().get() as u64;
        start + part.start..start + part.end
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "the mapping goes")]
        // SAFETY: it was made in `of`, and nothing points into it but addresses that are read by system calls alone.
        let result = unsafe { munmap(self.start, self.length.get()) };
        debug_assert!(result.is_ok());
    }
}
