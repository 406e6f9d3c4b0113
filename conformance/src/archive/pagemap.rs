//! A page map: the pages of an address space that the pages file contains, in the order of that file.

use cri_proto::criu::message::PagemapEntry;

use super::compressed_blocks::{self, CompressedBlocks, Segment};

/// The page's content is in the parent checkpoint (CRIU: `PE_PARENT`).
pub(crate) const PE_PARENT: u32 = 1;
/// The page's content is in the pages file (CRIU: `PE_PRESENT`).
pub(crate) const PE_PRESENT: u32 = 4;
/// The content of these pages starts at the next page boundary of the pages file.
const PE_ALIGNED: u32 = 8;

/// The smallest page size of the architectures that CRIU supports, in bytes. All page sizes are multiples of it.
pub(crate) const MIN_PAGE_BYTES: u64 = 4096;

/// A range of consecutive pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    /// The first address.
    pub start: u64,
    /// The number of pages.
    pub pages: u64,
}

/// A page map, built entry by entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pagemap {
    /// The id of the `pages-ID.img` with the pages.
    pub pages_id: u32,
    /// The number of entries after the head.
    pub entry_count: u64,
    /// The number of pages in the pages file.
    pub present_pages: u64,
    /// The ranges of pages in the pages file, adjacent ones merged. Incomplete if the memory limit was reached.
    pub ranges: Vec<PageRange>,
    /// The first invalid entry: it begins below its predecessor's end, is not page aligned, is empty, or ends beyond
    /// the address space.
    pub unordered_entry: Option<String>,
    /// The first entry without pages in the pages file.
    pub absent_entry: Option<String>,
    /// The first entry whose two page counts differ.
    pub count_mismatch: Option<String>,
    /// The first entry whose compressed blocks are inconsistent with each other or with the entry.
    pub invalid_blocks: Option<String>,
    /// Whether any pages are compressed.
    pub compressed: bool,
    /// The layout of the pages in the pages file.
    pub segments: Vec<Segment>,
    /// Whether all ranges and blocks were kept.
    pub complete: bool,
    end_address: u64,
}

impl Pagemap {
    pub(crate) fn new(pages_id: u32) -> Self {
        Self {
            pages_id,
            complete: true,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, entry: &PagemapEntry, affordable: bool) {
        self.entry_count += 1;
        let pages = page_count(entry);
        let (index, vaddr) = (self.entry_count, entry.vaddr);
        let describe = move || format!("entry {index} ({vaddr:#x}, {pages} pages)");
        // CRIU up to 4.1 writes only the 32-bit field. CRIU 4.2 writes the 64-bit field and sets the other to zero.
        if entry.nr_pages != Some(u64::from(entry.compat_nr_pages)) && self.count_mismatch.is_none() {
            let nr_pages = entry
                .nr_pages
                .map_or_else(|| "absent".to_owned(), |pages| pages.to_string());
            self.count_mismatch = Some(format!(
                "{}: nr_pages {nr_pages}, compat_nr_pages {}",
                describe(),
                entry.compat_nr_pages
            ));
        }
        // `in_parent` is older than the flags, and CRIU still honours it (criu/pagemap.c, init_pagemap_entry).
        let present = match entry.flags {
            Some(flags) => flags & PE_PRESENT != 0 && flags & PE_PARENT == 0 && !entry.in_parent(),
            None => !entry.in_parent(),
        };
        if present {
            self.present_pages = self.present_pages.saturating_add(pages);
            self.add_segments(entry, pages, affordable, describe);
        } else if self.absent_entry.is_none() {
            self.absent_entry = Some(format!("{}: {}", describe(), absent_reason(entry)));
        }
        let end = pages
            .checked_mul(MIN_PAGE_BYTES)
            .and_then(|bytes| entry.vaddr.checked_add(bytes));
        let in_order = entry.vaddr >= self.end_address && entry.vaddr.is_multiple_of(MIN_PAGE_BYTES) && pages > 0;
        let Some(end) = end.filter(|_| in_order) else {
            if self.unordered_entry.is_none() {
                self.unordered_entry = Some(describe());
            }
            return;
        };
        self.end_address = end;
        if !present {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if last.start + last.pages * MIN_PAGE_BYTES == entry.vaddr => last.pages += pages,
            _ if affordable => self.ranges.push(PageRange {
                start: entry.vaddr,
                pages,
            }),
            _ => self.complete = false,
        }
    }

    fn add_segments(&mut self, entry: &PagemapEntry, pages: u64, affordable: bool, describe: impl Fn() -> String) {
        if entry.flags.is_some_and(|flags| flags & PE_ALIGNED != 0) {
            self.segments.push(Segment::Align);
        }
        let blocks = match CompressedBlocks::from_entry(entry, pages) {
            Ok(None) => {
                match self.segments.last_mut() {
                    Some(Segment::Raw(before)) => *before = before.saturating_add(pages),
                    _ => self.segments.push(Segment::Raw(pages)),
                }
                return;
            }
            Ok(Some(blocks)) => blocks,
            Err(why) => {
                self.compressed = true;
                self.invalid_blocks
                    .get_or_insert_with(|| format!("{}: {why}", describe()));
                return;
            }
        };
        self.compressed = true;
        if affordable {
            self.segments.push(Segment::Blocks(blocks));
        } else {
            self.complete = false;
        }
    }

    /// The size of the pages file for this page size; `None` on overflow.
    pub fn stored_bytes(&self, page_bytes: u64) -> Option<u64> {
        compressed_blocks::stored_bytes(&self.segments, page_bytes)
    }

    /// Whether the pages file contains any page of these addresses.
    pub fn contains_any(&self, start: u64, end: u64) -> bool {
        let first = self
            .ranges
            .partition_point(|range| range.start.saturating_add(range.pages.saturating_mul(MIN_PAGE_BYTES)) <= start);
        self.ranges.get(first).is_some_and(|range| range.start < end)
    }

    /// Whether the pages file contains the page at this address.
    pub fn contains(&self, address: u64) -> bool {
        let next_range = self.ranges.partition_point(|range| range.start <= address);
        let range = next_range.checked_sub(1).and_then(|at| self.ranges.get(at));
        range.is_some_and(|range| address < range.start + range.pages * MIN_PAGE_BYTES)
    }
}

fn absent_reason(entry: &PagemapEntry) -> String {
    /// CRIU's `PE_LAZY`: the page is fetched from the source on its first access.
    const PE_LAZY: u32 = 2;
    let flags = entry.flags.unwrap_or_default();
    let location = if entry.in_parent() || flags & PE_PARENT != 0 {
        "its pages are in a parent checkpoint"
    } else if flags & PE_LAZY != 0 {
        "its pages must be fetched from the source"
    } else {
        "its pages are in no file"
    };
    format!("{location}, flags {flags:#x}")
}

/// The number of pages of an entry, from whichever field is set.
fn page_count(entry: &PagemapEntry) -> u64 {
    match entry.nr_pages {
        Some(pages) if pages > 0 => pages,
        _ => entry.compat_nr_pages.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(vaddr: u64, pages: u32) -> PagemapEntry {
        let nr_pages = Some(pages.into());
        PagemapEntry {
            vaddr,
            compat_nr_pages: pages,
            in_parent: None,
            flags: Some(PE_PRESENT),
            nr_pages,
            ..PagemapEntry::default()
        }
    }

    #[test]
    fn joins_adjacent_ranges() {
        let mut map = Pagemap::new(1);
        for entry in [entry(0x1000, 2), entry(0x3000, 1), entry(0x8000, 4)] {
            map.add(&entry, true);
        }
        assert_eq!(
            map.ranges,
            [
                PageRange {
                    start: 0x1000,
                    pages: 3
                },
                PageRange {
                    start: 0x8000,
                    pages: 4
                }
            ]
        );
        assert_eq!(
            (
                map.present_pages,
                map.unordered_entry.as_ref(),
                map.count_mismatch.as_ref()
            ),
            (7, None, None)
        );
        assert!(
            map.contains(0x3fff)
                && map.contains(0xbfff)
                && !map.contains(0x4000)
                && !map.contains(0xfff)
                && !map.contains(0xc000)
        );
    }

    #[test]
    fn reports_hostile_entries_without_overflow() {
        for entry in [entry(0x1001, 1), entry(0x1000, 0), entry(u64::MAX - 0xfff, u32::MAX)] {
            let mut map = Pagemap::new(1);
            map.add(&entry, true);
            assert!(map.unordered_entry.is_some(), "{entry:?}");
        }
        let mut map = Pagemap::new(1);
        map.add(&entry(0x2000, 1), true);
        map.add(&entry(0x1000, 1), true);
        assert!(map.unordered_entry.is_some_and(|text| text.contains("0x1000")));
    }

    #[test]
    fn reads_both_page_count_fields() {
        let old = PagemapEntry {
            nr_pages: None,
            ..entry(0x1000, 3)
        };
        let new = PagemapEntry {
            compat_nr_pages: 0,
            nr_pages: Some(3),
            ..entry(0x1000, 0)
        };
        for entry in [old, new] {
            let mut map = Pagemap::new(1);
            map.add(&entry, true);
            assert_eq!(map.present_pages, 3);
            assert!(map.count_mismatch.is_some());
        }
    }
}
