//! Reads the pagemap images: every page must lie in a mapping and in the pages file.

use std::{collections::BTreeMap, ops::Range};

use cri_proto::criu::{
    Kind, PE_PRESENT,
    message::{PagemapEntry, PagemapHead},
    shmem_pagemap_file_name, vma_status as status,
};

use crate::{
    checkpoint::restore::{
        RestoreError,
        images::CriuImages,
        plan::{PagePlan, ShmemSegment, Task},
    },
    process::pagemap::{PAGE_SIZE, TASK_SIZE},
};

/// Compares sorted ranges with ranges that come in ascending order. Each range is visited once or twice, however many
/// there are.
struct RangeCursor<'a> {
    ranges: &'a [Range<u64>],
}

impl<'a> RangeCursor<'a> {
    fn new(ranges: &'a [Range<u64>]) -> Self {
        Self { ranges }
    }

    /// Whether the ranges cover all of `range`. No later call may pass a range that begins before this one.
    fn contains(&mut self, range: &Range<u64>) -> bool {
        let first_after = self.ranges.iter().position(|other| other.end > range.start);
        self.ranges = &self.ranges[first_after.unwrap_or(self.ranges.len())..];
        let mut covered_to = range.start;
        for mapped in self.ranges {
            if mapped.start > covered_to || covered_to >= range.end {
                break;
            }
            covered_to = mapped.end;
        }
        covered_to >= range.end
    }
}

/// Reads a pagemap whose pages must lie in `ranges`, which are sorted.
pub(super) fn read_pagemap(images: &CriuImages, name: &str, ranges: &[Range<u64>]) -> Result<PagePlan, RestoreError> {
    let mut decoder = images.decoder(name, Kind::Pagemap)?;
    let head: PagemapHead = decoder
        .message()?
        .ok_or_else(|| RestoreError::malformed(name, "the image is empty"))?;
    let file = images.pages(head.pages_id)?;
    let mut remaining_pages = file.length / PAGE_SIZE;
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut cursor = RangeCursor::new(ranges);
    while let Some(entry) = decoder.message::<PagemapEntry>()? {
        let pages = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages));
        let last = runs.last().map_or(0, |last| last.end);
        let range = pages
            .checked_mul(PAGE_SIZE)
            .and_then(|bytes| Some(entry.vaddr..entry.vaddr.checked_add(bytes)?))
            .filter(|range| range.start % PAGE_SIZE == 0 && range.start >= last && !range.is_empty())
            .ok_or_else(|| RestoreError::malformed(name, format!("invalid page range at {:x}", entry.vaddr)))?;
        if entry.in_parent == Some(true) || entry.flags.is_some_and(|flags| flags & PE_PRESENT == 0) {
            return Err(RestoreError::Unsupported(
                "pages that the archive does not hold (of a parent checkpoint, or lazy)".to_owned(),
            ));
        }
        if !cursor.contains(&range) {
            let problem = format!("pages {:x}-{:x} are not in a mapping", range.start, range.end);
            return Err(RestoreError::malformed(name, problem));
        }
        remaining_pages = remaining_pages
            .checked_sub(pages)
            .ok_or_else(|| RestoreError::malformed(name, "more pages than the pages file holds"))?;
        runs.push(range);
    }
    Ok(PagePlan { file, runs })
}

/// Finds the shared memory segments that the processes map.
pub(super) fn read_shmem_segments(
    images: &CriuImages,
    tasks: &[Task],
) -> Result<BTreeMap<u64, ShmemSegment>, RestoreError> {
    let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
    let mappings = tasks
        .iter()
        .filter_map(|task| task.live.as_ref())
        .flat_map(|live| &live.mm.vmas);
    for vma in mappings.filter(|vma| vma.status & status::ANON_SHARED != 0) {
        let end = vma
            .pgoff
            .checked_add(vma.end - vma.start)
            .filter(|end| *end <= TASK_SIZE)
            .ok_or_else(|| RestoreError::malformed("mm", format!("mapping at offset {:x} is too large", vma.pgoff)))?;
        let size = sizes.entry(vma.shmid).or_default();
        *size = end.max(*size);
    }
    let segment = |(id, size): (u64, u64)| {
        let name = shmem_pagemap_file_name(id);
        let segment_range = 0..size;
        let pages = match images.has(&name) {
            true => Some(read_pagemap(images, &name, std::slice::from_ref(&segment_range))?),
            false => None,
        };
        Ok((id, ShmemSegment { size, pages }))
    };
    sizes.into_iter().map(segment).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn uncovered_ranges_are_detected() {
        let ranges = [10..20, 20..30, 40..50];
        let contained = |requested: &[Range<u64>]| {
            let mut cursor = RangeCursor::new(&ranges);
            requested.iter().map(|range| cursor.contains(range)).collect::<Vec<_>>()
        };
        assert_eq!(contained(&[10..12, 12..20, 25..30, 49..50]), [true; 4]);
        assert_eq!(contained(&[10..30, 40..50]), [true; 2]);
        assert!(!RangeCursor::new(&ranges).contains(&(10..31)));
        assert_eq!(contained(&[9..12, 15..25]), [false, true]);
        assert_eq!(contained(&[30..40, 40..41, 50..51]), [false, true, false]);
        assert!(!RangeCursor::new(&ranges).contains(&(29..41)));
        assert!(!RangeCursor::new(&[]).contains(&(0..1)));
    }

    #[test]
    fn a_million_ranges_are_checked_quickly() {
        let ranges: Vec<Range<u64>> = (0..1 << 20).map(|index| index * 16..index * 16 + 8).collect();
        let mut cursor = RangeCursor::new(&ranges);
        let began = Instant::now();
        assert!(ranges.iter().all(|range| cursor.contains(range)));
        // A comparison of every pair would take most of an hour.
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
