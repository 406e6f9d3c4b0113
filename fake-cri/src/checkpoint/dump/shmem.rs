//! Shared anonymous memory: `pagemap-shmem-ID.img` and the plan of its pages.
//!
//! A present page may be missing from all page tables: fork copies no page tables of shared memory, and the writer may
//! have unmapped it. So the data ranges come from the memory's own file (`SEEK_DATA` on `/proc/PID/map_files`), which
//! needs `CAP_CHECKPOINT_RESTORE`. Without this capability the page tables of all processes that map it are combined,
//! and `dump.log` reports that pages outside of them would be missing.

use std::{collections::BTreeMap, fs::File, io, ops::Range};

use cri_proto::criu::{pages_file_name, shmem_pagemap_file_name};
use nix::unistd::{Whence, lseek};

use super::{ImageSetBuilder, pagemap::pagemap_image};
use crate::{
    checkpoint::{
        cancel::CancelToken,
        dump_log::DumpLog,
        error::Error,
        pages::{PageRun, PagesFile},
    },
    process::{
        Pid, Tid,
        pagemap::{PAGE_SIZE, PageMap},
        proc_files::Mapping,
    },
};

/// One mapping of a shared memory segment.
#[derive(Clone, Debug)]
struct SegmentVma {
    pid: Pid,
    proc_tid: Tid,
    addresses: Range<u64>,
    offset: u64,
}

impl SegmentVma {
    /// The mapped range of the segment.
    fn segment_range(&self) -> Range<u64> {
        self.offset..self.offset + (self.addresses.end - self.addresses.start)
    }

    /// The addresses of a mapped part of the segment.
    fn addresses_in(&self, part: &Range<u64>) -> Range<u64> {
        let to_address = |offset| self.addresses.start + (offset - self.offset);
        to_address(part.start)..to_address(part.end)
    }
}

/// The segments of all processes by their id, the inode number.
#[derive(Debug, Default)]
pub(super) struct SharedSegments {
    segments: BTreeMap<u64, Vec<SegmentVma>>,
}

impl SharedSegments {
    /// Adds a mapping of a segment.
    pub(super) fn add(&mut self, pid: Pid, proc_tid: Tid, mapping: &Mapping, segment: u64) {
        self.segments.entry(segment).or_default().push(SegmentVma {
            pid,
            proc_tid,
            addresses: mapping.range.clone(),
            offset: mapping.offset,
        });
    }

    /// Plans the pages of every segment. Returns the number of present pages.
    pub(super) fn plan_pages(
        self,
        images: &mut ImageSetBuilder,
        cancel: &CancelToken<'_>,
        log: &mut DumpLog,
    ) -> Result<u64, Error> {
        let mut pages_scanned = 0;
        for (segment, vmas) in self.segments {
            cancel.check()?;
            let extents = match vmas.iter().find_map(|vma| segment_data_ranges(vma).ok()) {
                Some(extents) => extents,
                None => {
                    log.unsupported(format_args!(
                        "shared memory {segment}: pages that are in no page table of the container, if any (the \
                         memory's own map needs CAP_CHECKPOINT_RESTORE)"
                    ));
                    page_table_ranges(&vmas)?
                }
            };
            pages_scanned += page_count(&extents);
            let (ranges, runs) = mapped_ranges(&vmas, &extents);
            let unmapped_pages = page_count(&extents) - page_count(&ranges);
            if unmapped_pages > 0 {
                log.unsupported(format_args!(
                    "shared memory {segment}: {unmapped_pages} pages that no process maps any more"
                ));
            }
            let pages_id = images.next_pages_id();
            images.push(
                shmem_pagemap_file_name(segment),
                pagemap_image(pages_id, ranges.into_iter()),
            );
            images.pages.push(PagesFile {
                name: pages_file_name(pages_id),
                shared: true,
                runs,
                mapped_file: None,
            });
        }
        Ok(pages_scanned)
    }
}

fn page_count(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| (range.end - range.start) / PAGE_SIZE).sum()
}

/// The data ranges of a segment's file.
fn segment_data_ranges(vma: &SegmentVma) -> io::Result<Vec<Range<u64>>> {
    let Range { start, end } = vma.addresses;
    data_ranges(&File::open(format!(
        "/proc/{}/map_files/{start:x}-{end:x}",
        vma.proc_tid
    ))?)
}

/// The data ranges of a memory file, in whole pages.
pub(super) fn data_ranges(file: &File) -> io::Result<Vec<Range<u64>>> {
    let length = file.metadata()?.len() as i64;
    let seek = |offset: i64, whence| lseek(file, offset, whence);
    let mut extents = Vec::new();
    let mut offset = 0;
    while offset < length {
        let data = match seek(offset, Whence::SeekData) {
            Ok(data) => data,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        offset = seek(data, Whence::SeekHole)?;
        extents.push(data as u64 / PAGE_SIZE * PAGE_SIZE..(offset as u64).next_multiple_of(PAGE_SIZE));
    }
    Ok(extents)
}

/// The ranges of a segment that are present in the page tables of its processes.
fn page_table_ranges(vmas: &[SegmentVma]) -> Result<Vec<Range<u64>>, Error> {
    let mut extents = Vec::new();
    for vma in vmas {
        PageMap::open(vma.proc_tid)
            .and_then(|map| {
                map.scan(vma.addresses.clone(), |region| {
                    let offset = region.range.start - vma.addresses.start + vma.offset;
                    extents.push(offset..offset + (region.range.end - region.range.start));
                })
            })
            .map_err(|error| Error::capture(vma.pid, "page map", error))?;
    }
    extents.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in extents {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    Ok(merged)
}

/// The ranges that a mapping covers, and the runs through which they are read.
fn mapped_ranges(vmas: &[SegmentVma], extents: &[Range<u64>]) -> (Vec<Range<u64>>, Vec<PageRun>) {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut runs = Vec::new();
    for range in extents {
        let mut offset = range.start;
        while offset < range.end {
            let Some(vma) = vmas.iter().find(|vma| vma.segment_range().contains(&offset)) else {
                offset += PAGE_SIZE;
                continue;
            };
            let mapped = offset..range.end.min(vma.segment_range().end);
            runs.push(PageRun {
                pid: vma.pid,
                proc_tid: vma.proc_tid,
                range: vma.addresses_in(&mapped),
                not_forked: true,
            });
            offset = mapped.end;
            match ranges.last_mut() {
                Some(last) if last.end == mapped.start => last.end = mapped.end,
                _ => ranges.push(mapped),
            }
        }
    }
    (ranges, runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vma(pid: i32, start: u64, pages: u64, offset: u64) -> SegmentVma {
        SegmentVma {
            pid: Pid::from_raw(pid),
            proc_tid: Tid::from_raw(pid),
            addresses: start..start + pages * PAGE_SIZE,
            offset: offset * PAGE_SIZE,
        }
    }

    #[test]
    fn each_range_is_read_through_a_task_that_maps_it() {
        let vmas = [vma(1, 0x10_0000, 2, 0), vma(2, 0x20_0000, 3, 1)];
        let page = |from: u64, to: u64| from * PAGE_SIZE..to * PAGE_SIZE;
        let (ranges, runs) = mapped_ranges(&vmas, &[page(0, 3), page(5, 6)]);
        assert_eq!(ranges, [page(0, 3)]);
        let runs: Vec<_> = runs.into_iter().map(|run| (run.proc_tid.as_raw(), run.range)).collect();
        assert_eq!(runs, [(1, 0x10_0000..0x10_2000), (2, 0x20_1000..0x20_2000)]);
    }
}
