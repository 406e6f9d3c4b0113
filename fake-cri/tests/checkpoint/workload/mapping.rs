//! Memory mappings.

use std::{fs::File, num::NonZero, ptr::NonNull};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mprotect};

use super::PAGE_BYTES;

/// A mapping that exists until the process exits.
pub(super) struct Mapping {
    start: NonNull<libc::c_void>,
    length: u64,
}

#[expect(unsafe_code, reason = "the tests need raw mappings")]
impl Mapping {
    pub(super) fn new(length: u64, flags: MapFlags) -> Self {
        let size = NonZero::new(length as usize).expect("not empty");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the address of the new mapping. Without huge pages, only written pages are
        // resident.
        let start = unsafe {
            let start = mmap_anonymous(None, size, access, flags).expect("mmap");
            if flags.contains(MapFlags::MAP_PRIVATE) {
                madvise(start, size.get(), MmapAdvise::MADV_NOHUGEPAGE).expect("madvise");
            }
            start
        };
        Self { start, length }
    }

    pub(super) fn of(file: &File, length: u64, flags: MapFlags) -> Self {
        let size = NonZero::new(length as usize).expect("not empty");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the address of the new mapping, and the file is not truncated.
        let start = unsafe { mmap(None, size, access, flags, file, 0) }.expect("mmap");
        Self { start, length }
    }

    pub(super) fn start(&self) -> u64 {
        self.start.as_ptr().addr() as u64
    }

    pub(super) fn page(&mut self, index: u64) -> &mut [u8] {
        assert!((index + 1) * PAGE_BYTES <= self.length);
        // SAFETY: the page is within the mapping, readable and writable, and borrowed exclusively.
        unsafe {
            let page = self.start.cast::<u8>().add((index * PAGE_BYTES) as usize);
            std::slice::from_raw_parts_mut(page.as_ptr(), PAGE_BYTES as usize)
        }
    }

    pub(super) fn advise(&mut self, advice: libc::c_int) {
        // SAFETY: the advice changes the effect of fork, not the content of this mapping.
        let result = unsafe { libc::madvise(self.start.as_ptr(), self.length as usize, advice) };
        nix::errno::Errno::result(result).expect("madvise");
    }

    pub(super) fn protect(&mut self, access: ProtFlags) {
        // SAFETY: nothing borrows the mapping.
        unsafe { mprotect(self.start, self.length as usize, access) }.expect("mprotect");
    }
}
