//! Shared anonymous memory: `pagemap-shmem-ID.img` and the plan of its pages.
//!
//! No page table need know a page that is held: a fork copies none for shared memory, and who wrote it may have unmapped it.
//! So the memory's own map is asked (`SEEK_DATA` on its file in `/proc/PID/map_files`), which takes privileges
//! (`CAP_CHECKPOINT_RESTORE`). Without them the page tables of all who map it are put together, and `dump.log` says that a page
//! which none of them knows would be missing.

use std::{collections::BTreeMap, fs::File, io, ops::Range};

use nix::unistd::{Whence, lseek};

use super::{Images, page_map::page_map};
use crate::{
    checkpoint::{
        error::Error,
        log::DumpLog,
        pages::{PagesFile, Run},
        watch::Watch,
    },
    process::{
        pagemap::{PAGE_SIZE, PageMap},
        proc::Mapping,
    },
};

/// One mapping of a segment.
#[derive(Clone, Debug)]
struct View {
    pid: i32,
    window: i32,
    addresses: Range<u64>,
    offset: u64,
}

impl View {
    /// Which part of the segment it shows.
    fn offsets(&self) -> Range<u64> {
        self.offset..self.offset + (self.addresses.end - self.addresses.start)
    }

    /// The addresses of a part of the segment that it shows.
    fn addresses_of(&self, part: &Range<u64>) -> Range<u64> {
        let to_address = |offset| self.addresses.start + (offset - self.offset);
        to_address(part.start)..to_address(part.end)
    }
}

/// The segments of all processes by their number, which is their inode's.
#[derive(Debug, Default)]
pub(super) struct SharedMemory {
    segments: BTreeMap<u64, Vec<View>>,
}

impl SharedMemory {
    /// A process maps a segment.
    pub(super) fn add(&mut self, pid: i32, window: i32, mapping: &Mapping, segment: u64) {
        self.segments.entry(segment).or_default().push(View {
            pid,
            window,
            addresses: mapping.range.clone(),
            offset: mapping.offset,
        });
    }

    /// Plans the pages of every segment; how many are held.
    pub(super) fn capture(self, images: &mut Images, watch: &Watch<'_>, log: &mut DumpLog) -> Result<u64, Error> {
        let mut scanned = 0;
        for (segment, views) in self.segments {
            watch.check()?;
            let held = match views.iter().find_map(|view| held_by_file(view).ok()) {
                Some(held) => held,
                None => {
                    log.lost(format_args!(
                        "shared memory {segment}: pages that no page table of the container knows, if there are any (the \
                         memory's own map takes CAP_CHECKPOINT_RESTORE)"
                    ));
                    held_by_tables(&views)?
                }
            };
            scanned += pages(&held);
            let (ranges, runs) = reachable(&views, &held);
            let missing = pages(&held) - pages(&ranges);
            if missing > 0 {
                log.lost(format_args!(
                    "shared memory {segment}: {missing} pages that no process maps any more"
                ));
            }
            let pages_id = images.next_pages_id();
            images.push(
                format!("pagemap-shmem-{segment}.img"),
                page_map(pages_id, ranges.into_iter()),
            );
            images.pages.push(PagesFile {
                name: cri_proto::criu::pages_file(pages_id),
                shared: true,
                runs,
                view: None,
            });
        }
        Ok(scanned)
    }
}

fn pages(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| (range.end - range.start) / PAGE_SIZE).sum()
}

/// The parts of a segment that its file holds.
fn held_by_file(view: &View) -> io::Result<Vec<Range<u64>>> {
    let Range { start, end } = view.addresses;
    held(&File::open(format!(
        "/proc/{}/map_files/{start:x}-{end:x}",
        view.window
    ))?)
}

/// The parts that a file in memory holds, in whole pages.
pub(super) fn held(file: &File) -> io::Result<Vec<Range<u64>>> {
    let length = file.metadata()?.len() as i64;
    let seek = |offset: i64, whence| lseek(file, offset, whence);
    let mut held = Vec::new();
    let mut at = 0;
    while at < length {
        let data = match seek(at, Whence::SeekData) {
            Ok(data) => data,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        at = seek(data, Whence::SeekHole)?;
        held.push(data as u64 / PAGE_SIZE * PAGE_SIZE..(at as u64).next_multiple_of(PAGE_SIZE));
    }
    Ok(held)
}

/// The parts of a segment that the page tables of its processes know.
fn held_by_tables(views: &[View]) -> Result<Vec<Range<u64>>, Error> {
    let mut held = Vec::new();
    for view in views {
        PageMap::of(view.window)
            .and_then(|map| {
                map.scan(view.addresses.clone(), |region| {
                    let offset = region.range.start - view.addresses.start + view.offset;
                    held.push(offset..offset + (region.range.end - region.range.start));
                })
            })
            .map_err(|error| Error::capture(view.pid, "page map", error))?;
    }
    held.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in held {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    Ok(merged)
}

/// The parts that can be reached through a mapping, and through which.
fn reachable(views: &[View], held: &[Range<u64>]) -> (Vec<Range<u64>>, Vec<Run>) {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut runs = Vec::new();
    for part in held {
        let mut at = part.start;
        while at < part.end {
            let Some(view) = views.iter().find(|view| view.offsets().contains(&at)) else {
                at += PAGE_SIZE;
                continue;
            };
            let shown = at..part.end.min(view.offsets().end);
            runs.push(Run {
                pid: view.pid,
                window: view.window,
                range: view.addresses_of(&shown),
                early: true,
            });
            at = shown.end;
            match ranges.last_mut() {
                Some(last) if last.end == shown.start => last.end = shown.end,
                _ => ranges.push(shown),
            }
        }
    }
    (ranges, runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(window: i32, start: u64, pages: u64, offset: u64) -> View {
        View {
            pid: window,
            window,
            addresses: start..start + pages * PAGE_SIZE,
            offset: offset * PAGE_SIZE,
        }
    }

    #[test]
    fn a_part_is_read_through_whoever_maps_it() {
        let views = [view(1, 0x10_0000, 2, 0), view(2, 0x20_0000, 3, 1)];
        let page = |from: u64, to: u64| from * PAGE_SIZE..to * PAGE_SIZE;
        let (ranges, runs) = reachable(&views, &[page(0, 3), page(5, 6)]);
        assert_eq!(ranges, [page(0, 3)]);
        let runs: Vec<_> = runs.into_iter().map(|run| (run.window, run.range)).collect();
        assert_eq!(runs, [(1, 0x10_0000..0x10_2000), (2, 0x20_1000..0x20_2000)]);
    }
}
