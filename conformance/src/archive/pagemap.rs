//! A page map: which pages of an address space the pages file holds, in the order in which it holds them.

use cri_proto::criu::message::PagemapEntry;

use super::blocks::{self, Blocks, Segment};

/// The page's content is in the parent checkpoint.
pub(crate) const PARENT: u32 = 1;
/// The page's content is in the pages file.
pub(crate) const PRESENT: u32 = 4;
/// The content of these pages begins at the next page boundary of the pages file.
const ALIGNED: u32 = 8;

/// The smallest page of any machine that CRIU runs on, in bytes; every larger size is a multiple.
pub(crate) const PAGE: u64 = 4096;

/// Pages that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first address.
    pub start: u64,
    /// How many pages.
    pub pages: u64,
}

/// A page map, entry by entry as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pagemap {
    /// Which `pages-ID.img` holds the pages.
    pub pages_id: u32,
    /// Entries after the head.
    pub entries: u64,
    /// Pages that the pages file holds.
    pub present: u64,
    /// Runs of pages, those that touch joined; not all of them where a bound of memory was reached.
    pub runs: Vec<Run>,
    /// The first entry that is not in order: below its predecessor's end, not page aligned, empty or beyond the end of
    /// addresses.
    pub disorder: Option<String>,
    /// The first entry that has no pages in the pages file.
    pub not_present: Option<String>,
    /// The first entry whose two counts of pages are not the same.
    pub counts: Option<String>,
    /// The first entry whose compressed blocks contradict each other or the entry.
    pub bad_blocks: Option<String>,
    /// Whether pages are compressed.
    pub compressed: bool,
    /// How the pages stand in the pages file.
    pub stored: Vec<Segment>,
    /// Whether every run and every block was kept.
    pub whole: bool,
    end: u64,
}

impl Pagemap {
    pub(crate) fn new(pages_id: u32) -> Self {
        Self {
            pages_id,
            whole: true,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, entry: &PagemapEntry, affordable: bool) {
        self.entries += 1;
        let pages = pages(entry);
        let (number, vaddr) = (self.entries, entry.vaddr);
        let at = move || format!("entry {number} ({vaddr:#x}, {pages} pages)");
        // CRIU up to 4.1 knows the 32-bit field alone, 4.2 fills the 64-bit one and leaves the other zero.
        if entry.nr_pages != Some(u64::from(entry.compat_nr_pages)) && self.counts.is_none() {
            let new = entry
                .nr_pages
                .map_or_else(|| "absent".to_owned(), |pages| pages.to_string());
            self.counts = Some(format!(
                "{}: nr_pages {new}, compat_nr_pages {}",
                at(),
                entry.compat_nr_pages
            ));
        }
        // `in_parent` is older than the flags, and counts beside them (criu/pagemap.c, init_pagemap_entry).
        let present = match entry.flags {
            Some(flags) => flags & PRESENT != 0 && flags & PARENT == 0 && !entry.in_parent(),
            None => !entry.in_parent(),
        };
        if present {
            self.present = self.present.saturating_add(pages);
            self.store(entry, pages, affordable, at);
        } else if self.not_present.is_none() {
            self.not_present = Some(format!("{}: {}", at(), elsewhere(entry)));
        }
        let end = pages.checked_mul(PAGE).and_then(|bytes| entry.vaddr.checked_add(bytes));
        let in_order = entry.vaddr >= self.end && entry.vaddr.is_multiple_of(PAGE) && pages > 0;
        let Some(end) = end.filter(|_| in_order) else {
            if self.disorder.is_none() {
                self.disorder = Some(at());
            }
            return;
        };
        self.end = end;
        if !present {
            return;
        }
        match self.runs.last_mut() {
            Some(last) if last.start + last.pages * PAGE == entry.vaddr => last.pages += pages,
            _ if affordable => self.runs.push(Run {
                start: entry.vaddr,
                pages,
            }),
            _ => self.whole = false,
        }
    }

    /// Notes where the pages of an entry stand in the pages file.
    fn store(&mut self, entry: &PagemapEntry, pages: u64, affordable: bool, at: impl Fn() -> String) {
        if entry.flags.is_some_and(|flags| flags & ALIGNED != 0) {
            self.stored.push(Segment::Align);
        }
        let blocks = match Blocks::of(entry, pages) {
            Ok(None) => {
                match self.stored.last_mut() {
                    Some(Segment::Raw(before)) => *before = before.saturating_add(pages),
                    _ => self.stored.push(Segment::Raw(pages)),
                }
                return;
            }
            Ok(Some(blocks)) => blocks,
            Err(why) => {
                self.compressed = true;
                self.bad_blocks.get_or_insert_with(|| format!("{}: {why}", at()));
                return;
            }
        };
        self.compressed = true;
        if affordable {
            self.stored.push(Segment::Blocks(blocks));
        } else {
            self.whole = false;
        }
    }

    /// How large the pages file is to be with pages of this size; `None` beyond what a file can be.
    pub fn stored_bytes(&self, page_bytes: u64) -> Option<u64> {
        blocks::stored_bytes(&self.stored, page_bytes)
    }

    /// Whether the pages file holds any page of these addresses.
    pub fn holds_any(&self, start: u64, end: u64) -> bool {
        let first = self
            .runs
            .partition_point(|run| run.start.saturating_add(run.pages.saturating_mul(PAGE)) <= start);
        self.runs.get(first).is_some_and(|run| run.start < end)
    }

    /// Whether the pages file holds the page at this address.
    pub fn holds(&self, address: u64) -> bool {
        let after = self.runs.partition_point(|run| run.start <= address);
        let run = after.checked_sub(1).and_then(|at| self.runs.get(at));
        run.is_some_and(|run| address < run.start + run.pages * PAGE)
    }
}

/// Where the pages of an entry are that are not in the pages file.
fn elsewhere(entry: &PagemapEntry) -> String {
    /// The page is fetched from the source when it is touched.
    const LAZY: u32 = 2;
    let flags = entry.flags.unwrap_or_default();
    let place = if entry.in_parent() || flags & PARENT != 0 {
        "its pages are in a parent checkpoint"
    } else if flags & LAZY != 0 {
        "its pages are to be fetched from the source"
    } else {
        "its pages are nowhere"
    };
    format!("{place}, flags {flags:#x}")
}

/// How many pages an entry stands for, whichever of its two fields says it.
fn pages(entry: &PagemapEntry) -> u64 {
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
            flags: Some(PRESENT),
            nr_pages,
            ..PagemapEntry::default()
        }
    }

    #[test]
    fn runs_that_touch_are_joined() {
        let mut map = Pagemap::new(1);
        for entry in [entry(0x1000, 2), entry(0x3000, 1), entry(0x8000, 4)] {
            map.add(&entry, true);
        }
        assert_eq!(
            map.runs,
            [
                Run {
                    start: 0x1000,
                    pages: 3
                },
                Run {
                    start: 0x8000,
                    pages: 4
                }
            ]
        );
        assert_eq!(
            (map.present, map.disorder.as_ref(), map.counts.as_ref()),
            (7, None, None)
        );
        assert!(
            map.holds(0x3fff) && map.holds(0xbfff) && !map.holds(0x4000) && !map.holds(0xfff) && !map.holds(0xc000)
        );
    }

    #[test]
    fn hostile_entries_are_seen_and_do_not_overflow() {
        for bad in [entry(0x1001, 1), entry(0x1000, 0), entry(u64::MAX - 0xfff, u32::MAX)] {
            let mut map = Pagemap::new(1);
            map.add(&bad, true);
            assert!(map.disorder.is_some(), "{bad:?}");
        }
        let mut map = Pagemap::new(1);
        map.add(&entry(0x2000, 1), true);
        map.add(&entry(0x1000, 1), true);
        assert!(map.disorder.is_some_and(|text| text.contains("0x1000")));
    }

    #[test]
    fn both_ages_of_counts_are_read() {
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
            assert_eq!(map.present, 3);
            assert!(map.counts.is_some());
        }
    }
}
