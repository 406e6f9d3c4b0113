//! The page maps: every page has to lie in a mapping, and in the file of pages.

use std::{collections::BTreeMap, ops::Range};

use cri_proto::criu::{
    Kind,
    message::{PagemapEntry, PagemapHead},
};

use super::{TASK_END, Task};
use crate::{
    checkpoint::{
        capture::vma_status as status,
        restore::{
            RestoreError,
            images::{Images, Pages},
        },
    },
    process::pagemap::PAGE_SIZE,
};

/// `PE_PRESENT`.
const PRESENT: u32 = 1 << 2;

/// The pages of an address space, or of a segment.
#[derive(Debug)]
pub(in crate::checkpoint::restore) struct PagePlan {
    pub(in crate::checkpoint::restore) file: Pages,
    /// Where each run goes, in the order of their addresses; they follow each other in the file.
    pub(in crate::checkpoint::restore) runs: Vec<Range<u64>>,
}

/// A segment of anonymous shared memory.
#[derive(Debug)]
pub(in crate::checkpoint::restore) struct Segment {
    pub(in crate::checkpoint::restore) size: u64,
    pub(in crate::checkpoint::restore) pages: Option<PagePlan>,
}

/// Ranges in order, against which others are held that come in order too: so each is looked at once or twice, however many.
struct Cover<'a> {
    ranges: &'a [Range<u64>],
}

impl<'a> Cover<'a> {
    fn of(ranges: &'a [Range<u64>]) -> Self {
        Self { ranges }
    }

    /// Whether all of a range lies in them; none that comes later may begin before it.
    fn holds(&mut self, range: &Range<u64>) -> bool {
        let behind = self.ranges.iter().position(|other| other.end > range.start);
        self.ranges = &self.ranges[behind.unwrap_or(self.ranges.len())..];
        let mut at = range.start;
        for mapped in self.ranges {
            if mapped.start > at || at >= range.end {
                break;
            }
            at = mapped.end;
        }
        at >= range.end
    }
}

/// Reads a page map whose pages have to lie in these ranges, which are in order.
pub(super) fn plan(images: &Images, name: &str, ranges: &[Range<u64>]) -> Result<PagePlan, RestoreError> {
    let mut decoder = images.decoder(name, Kind::Pagemap)?;
    let head: PagemapHead = decoder
        .message()?
        .ok_or_else(|| RestoreError::malformed(name, "it is empty"))?;
    let file = images.pages(head.pages_id)?;
    let mut left = file.length / PAGE_SIZE;
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut cover = Cover::of(ranges);
    while let Some(entry) = decoder.message::<PagemapEntry>()? {
        let pages = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages));
        let last = runs.last().map_or(0, |last| last.end);
        let range = pages
            .checked_mul(PAGE_SIZE)
            .and_then(|bytes| Some(entry.vaddr..entry.vaddr.checked_add(bytes)?))
            .filter(|range| range.start % PAGE_SIZE == 0 && range.start >= last && !range.is_empty())
            .ok_or_else(|| RestoreError::malformed(name, format!("the pages at {:x} are none", entry.vaddr)))?;
        if entry.in_parent == Some(true) || entry.flags.is_some_and(|flags| flags & PRESENT == 0) {
            return Err(RestoreError::Unsupported("pages of an earlier checkpoint".to_owned()));
        }
        if !cover.holds(&range) {
            let what = format!("the pages {:x}-{:x} belong to no mapping", range.start, range.end);
            return Err(RestoreError::malformed(name, what));
        }
        left = left
            .checked_sub(pages)
            .ok_or_else(|| RestoreError::malformed(name, "it has more pages than their file"))?;
        runs.push(range);
    }
    Ok(PagePlan { file, runs })
}

/// Finds the segments that the processes map.
pub(super) fn segments(images: &Images, tasks: &[Task]) -> Result<BTreeMap<u64, Segment>, RestoreError> {
    let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
    let mappings = tasks
        .iter()
        .filter_map(|task| task.body.as_ref())
        .flat_map(|body| &body.mm.vmas);
    for vma in mappings.filter(|vma| vma.status & status::ANON_SHARED != 0) {
        let end = vma
            .pgoff
            .checked_add(vma.end - vma.start)
            .filter(|end| *end <= TASK_END)
            .ok_or_else(|| RestoreError::malformed("mm", format!("a segment that ends beyond {:x}", vma.pgoff)))?;
        let size = sizes.entry(vma.shmid).or_default();
        *size = end.max(*size);
    }
    let segment = |(id, size): (u64, u64)| {
        let name = format!("pagemap-shmem-{id}.img");
        let whole = 0..size;
        let pages = match images.has(&name) {
            true => Some(plan(images, &name, std::slice::from_ref(&whole))?),
            false => None,
        };
        Ok((id, Segment { size, pages }))
    };
    sizes.into_iter().map(segment).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_lies_in_no_range_is_found() {
        let ranges = [10..20, 20..30, 40..50];
        let held = |asked: &[Range<u64>]| {
            let mut cover = Cover::of(&ranges);
            asked.iter().map(|range| cover.holds(range)).collect::<Vec<_>>()
        };
        assert_eq!(held(&[10..12, 12..20, 25..30, 49..50]), [true; 4]);
        assert_eq!(held(&[10..30, 40..50]), [true; 2]);
        assert!(!Cover::of(&ranges).holds(&(10..31)));
        assert_eq!(held(&[9..12, 15..25]), [false, true]);
        assert_eq!(held(&[30..40, 40..41, 50..51]), [false, true, false]);
        assert!(!Cover::of(&ranges).holds(&(29..41)));
        assert!(!Cover::of(&[]).holds(&(0..1)));
    }

    #[test]
    fn a_million_ranges_are_held_against_as_many_at_once() {
        let ranges: Vec<Range<u64>> = (0..1 << 20).map(|number| number * 16..number * 16 + 8).collect();
        let mut cover = Cover::of(&ranges);
        let began = Instant::now();
        assert!(ranges.iter().all(|range| cover.holds(range)));
        // Each with each would take the better part of an hour.
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
