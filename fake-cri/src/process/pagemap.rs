//! The page map: which pages of a process have content.
//!
//! `PAGEMAP_SCAN` (Linux 6.7) walks the page tables in the kernel and returns regions. On older kernels, the 64-bit
//! entries of `/proc/PID/pagemap` are read in large pieces (Documentation/admin-guide/mm/pagemap.rst). These entries do
//! not mark the zero page for an unprivileged reader, so there it counts as present.

use std::{
    fs::File,
    io, mem,
    ops::Range,
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::fs::FileExt as _,
    },
    ptr,
};

use nix::errno::Errno;

use super::Tid;

/// A checkpoint refuses to start on a kernel with larger pages.
pub(crate) const PAGE_SIZE: u64 = 4096;
/// The end of user addresses (x86-64, four-level page tables). Only the vsyscall page is above.
pub(crate) const TASK_SIZE: u64 = 1 << 47;

/// The categories of the pages of a region (`PAGE_IS_*` of linux/fs.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageCategories(u64);

impl PageCategories {
    const FILE: u64 = 1 << 2;
    const PRESENT: u64 = 1 << 3;
    const SWAPPED: u64 = 1 << 4;
    const ZERO: u64 = 1 << 5;
    const GUARD: u64 = 1 << 8;

    /// Whether the pages are in memory or in swap.
    pub(crate) fn is_populated(self) -> bool {
        self.0 & (Self::PRESENT | Self::SWAPPED) != 0
    }

    /// Whether the pages belong to a file or to shared memory, and not to the process alone.
    pub(crate) fn is_file(self) -> bool {
        self.0 & Self::FILE != 0
    }

    /// Whether the pages are the zero page, which the kernel maps for memory that was read and never written.
    pub(crate) fn is_zero(self) -> bool {
        self.0 & Self::ZERO != 0
    }

    /// Whether the pages are guards (`MADV_GUARD_INSTALL`), which have no content and cannot be read.
    pub(crate) fn is_guard(self) -> bool {
        self.0 & Self::GUARD != 0
    }
}

/// Adjacent pages of the same categories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageRegion {
    pub(crate) range: Range<u64>,
    pub(crate) categories: PageCategories,
}

#[derive(Debug)]
pub(crate) struct PageMap {
    file: File,
}

impl PageMap {
    /// Opens the page map of the process that this thread belongs to.
    ///
    /// # Errors
    ///
    /// `/proc/TID/pagemap` cannot be opened.
    pub(crate) fn open(tid: Tid) -> io::Result<Self> {
        Ok(Self {
            file: File::open(format!("/proc/{tid}/pagemap"))?,
        })
    }

    /// Calls `each` with the regions of a range that have content, in address order. Guard pages are included.
    ///
    /// # Errors
    ///
    /// `ESRCH` when the process has exited, or another error of the ioctl or the read.
    pub(crate) fn scan(&self, range: Range<u64>, mut each: impl FnMut(PageRegion)) -> io::Result<()> {
        match self.scan_ioctl(range.clone(), PageCategories::GUARD, &mut each) {
            // Kernels before 6.16 refuse the unknown guard category; kernels before 6.7 refuse the ioctl.
            Err(Errno::EINVAL) => {}
            other => return other.map_err(io::Error::from),
        }
        match self.scan_ioctl(range.clone(), 0, &mut each) {
            Err(Errno::ENOTTY | Errno::EINVAL) => self.read_entries(range, each),
            other => other.map_err(io::Error::from),
        }
    }

    fn scan_ioctl(&self, range: Range<u64>, guard: u64, each: &mut impl FnMut(PageRegion)) -> nix::Result<()> {
        // The kernel collects 512 regions at a time. With a longer `vec`, Linux 6.18 writes the last regions twice. So
        // `vec` has 512 entries, and the parts of regions below `reached` are skipped.
        const REGION_BATCH: usize = 512;
        let mut reached = range.start;
        let mut vec = vec![PmRegion::default(); REGION_BATCH];
        let mut start = range.start;
        while start < range.end {
            let mut argument = PmScanArg {
                size: mem::size_of::<PmScanArg>() as u64,
                start,
                end: range.end,
                vec: vec.as_mut_ptr().expose_provenance() as u64,
                vec_len: REGION_BATCH as u64,
                category_anyof_mask: PageCategories::PRESENT | PageCategories::SWAPPED,
                return_mask: PageCategories::PRESENT
                    | PageCategories::SWAPPED
                    | PageCategories::FILE
                    | PageCategories::ZERO
                    | guard,
                ..PmScanArg::default()
            };
            let count = pagemap_scan(self.file.as_raw_fd(), &mut argument)?;
            for region in &vec[..count] {
                if region.end > reached {
                    each(PageRegion {
                        range: region.start.max(reached)..region.end,
                        categories: PageCategories(region.categories),
                    });
                    reached = region.end;
                }
            }
            if argument.walk_end <= start {
                break;
            }
            start = argument.walk_end;
        }
        Ok(())
    }

    /// Fallback for kernels before 6.7: reads the entries of `/proc/PID/pagemap`.
    fn read_entries(&self, range: Range<u64>, mut each: impl FnMut(PageRegion)) -> io::Result<()> {
        const ENTRY_BATCH_BYTES: usize = 128 * 1024;
        let mut bytes = vec![0_u8; ENTRY_BATCH_BYTES];
        let mut address = range.start;
        let mut current: Option<PageRegion> = None;
        while address < range.end {
            let length = (((range.end - address) / PAGE_SIZE) as usize * 8).min(ENTRY_BATCH_BYTES);
            let read = self.file.read_at(&mut bytes[..length], address / PAGE_SIZE * 8)?;
            if read == 0 {
                break;
            }
            for entry in bytes[..read].chunks_exact(8) {
                let entry = u64::from_ne_bytes(entry.try_into().expect("chunks of eight"));
                let categories = entry_categories(entry);
                match &mut current {
                    Some(region) if region.categories == categories && region.range.end == address => {
                        region.range.end += PAGE_SIZE;
                    }
                    _ => {
                        if let Some(region) = current.take() {
                            each(region);
                        }
                        current = categories.is_populated().then(|| PageRegion {
                            range: address..address + PAGE_SIZE,
                            categories,
                        });
                    }
                }
                address += PAGE_SIZE;
            }
        }
        if let Some(region) = current {
            each(region);
        }
        Ok(())
    }
}

fn entry_categories(entry: u64) -> PageCategories {
    let mut categories = 0;
    if entry & (1 << 63) != 0 {
        categories |= PageCategories::PRESENT;
    }
    if entry & (1 << 62) != 0 {
        categories |= PageCategories::SWAPPED;
    }
    if categories != 0 && entry & (1 << 61) != 0 {
        categories |= PageCategories::FILE;
    }
    if categories != 0 && entry & (1 << 58) != 0 {
        categories |= PageCategories::GUARD;
    }
    PageCategories(categories)
}

/// `struct page_region` (linux/fs.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct PmRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` (linux/fs.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct PmScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// The ioctl. Returns how many regions the kernel wrote.
#[expect(unsafe_code, reason = "no crate wraps PAGEMAP_SCAN")]
fn pagemap_scan(fd: RawFd, argument: &mut PmScanArg) -> nix::Result<usize> {
    /// `_IOWR('f', 16, struct pm_scan_arg)`.
    const PAGEMAP_SCAN: u64 = (3 << 30) | ((mem::size_of::<PmScanArg>() as u64) << 16) | ((b'f' as u64) << 8) | 16;
    // SAFETY: the kernel writes at most `vec_len` regions to `vec`, which the only caller points at a vector of that
    // length, and the argument itself, which is borrowed exclusively.
    let result = unsafe { libc::ioctl(fd, PAGEMAP_SCAN as libc::Ioctl, ptr::from_mut(argument)) };
    Errno::result(result).map(|count| usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mapping of four pages: written, only read, untouched, written.
    fn sample_mapping() -> (memmap::Mapping, [bool; 4]) {
        let mut mapping = memmap::Mapping::new(4 * PAGE_SIZE as usize);
        mapping.bytes()[0] = 1;
        assert_eq!(mapping.bytes()[PAGE_SIZE as usize], 0);
        mapping.bytes()[3 * PAGE_SIZE as usize] = 1;
        (mapping, [true, false, false, true])
    }

    fn populated_pages(
        scan: impl FnOnce(&PageMap, Range<u64>, &mut dyn FnMut(PageRegion)),
        start: u64,
        zero: bool,
    ) -> [bool; 4] {
        let map = PageMap::open(Tid::current()).expect("own page map");
        let mut populated_pages = [false; 4];
        scan(&map, start..start + 4 * PAGE_SIZE, &mut |region| {
            for page in region.range.step_by(PAGE_SIZE as usize) {
                populated_pages[((page - start) / PAGE_SIZE) as usize] =
                    region.categories.is_populated() && (zero || !region.categories.is_zero());
            }
        });
        populated_pages
    }

    #[test]
    fn written_pages_are_populated() {
        let (mut mapping, expected_pages) = sample_mapping();
        let start = mapping.bytes().as_ptr().addr() as u64;
        let scanned = populated_pages(|map, range, each| map.scan(range, each).expect("scan"), start, false);
        assert_eq!(scanned, expected_pages);
    }

    #[test]
    fn many_regions_are_reported_once_in_order() {
        let pages = 5000;
        let mut mapping = memmap::Mapping::new(2 * pages * PAGE_SIZE as usize);
        let start = mapping.bytes().as_ptr().addr() as u64;
        for page in 0..pages {
            mapping.bytes()[2 * page * PAGE_SIZE as usize] = 1;
        }
        let map = PageMap::open(Tid::current()).expect("own page map");
        let mut scanned = Vec::new();
        map.scan(start..start + 2 * pages as u64 * PAGE_SIZE, |region| {
            scanned.push(region.range)
        })
        .expect("scan");
        let expected: Vec<_> = (0..pages as u64)
            .map(|page| start + 2 * page * PAGE_SIZE..start + (2 * page + 1) * PAGE_SIZE)
            .collect();
        assert_eq!(scanned, expected);
    }

    #[test]
    fn entries_match_the_ioctl_except_zero_pages() {
        let (mut mapping, mut expected_pages) = sample_mapping();
        expected_pages[1] = true;
        let start = mapping.bytes().as_ptr().addr() as u64;
        let scanned = populated_pages(
            |map, range, each| map.read_entries(range, each).expect("scan"),
            start,
            true,
        );
        assert_eq!(scanned, expected_pages);
    }

    mod memmap {
        use std::{num::NonZero, ptr::NonNull};

        use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

        pub(super) struct Mapping(NonNull<libc::c_void>, usize);

        #[expect(unsafe_code, reason = "mmap returns a pointer")]
        impl Mapping {
            pub(super) fn new(length: usize) -> Self {
                let length = NonZero::new(length).expect("not empty");
                // SAFETY: a new anonymous mapping at an address that the kernel chooses overlaps no other. The advice
                // prevents a huge page that would fill the whole mapping.
                let start = unsafe {
                    let start = mmap_anonymous(
                        None,
                        length,
                        ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                        MapFlags::MAP_PRIVATE,
                    )
                    .expect("mmap");
                    madvise(start, length.get(), MmapAdvise::MADV_NOHUGEPAGE).expect("madvise");
                    start
                };
                Self(start, length.get())
            }

            pub(super) fn bytes(&mut self) -> &mut [u8] {
                // SAFETY: the mapping has this length, is readable and writable, and is borrowed exclusively.
                unsafe { std::slice::from_raw_parts_mut(self.0.cast().as_ptr(), self.1) }
            }
        }

        #[expect(unsafe_code, reason = "munmap")]
        impl Drop for Mapping {
            fn drop(&mut self) {
                // SAFETY: nothing borrows the mapping any more.
                unsafe { munmap(self.0, self.1) }.expect("own mapping");
            }
        }
    }
}
