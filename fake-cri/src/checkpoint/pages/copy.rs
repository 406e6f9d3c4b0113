//! Copies process memory into the pages files of the archive, in one pass with up to two threads.
//!
//! ```text
//!   cursor: next chunk ------------> thread 1: /proc/PID/mem --> its buffer --> pwrite at the chunk's offset
//!      (behind a lock)         \----> thread 2: the same
//! ```
//!
//! Most of the large memory of a snapshot is spliced instead: [`crate::checkpoint::snapshot`].
//!
//! The page maps determine the offset of every page before the first page is read, so the threads need no order.
//! Reading memory needs access rights but not the tracer itself, so a thread that traces nothing can read. Ways to
//! fail: a process exited, the disk is full, the caller cancelled, the deadline passed. The first failure ends both
//! threads.

use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{PageRun, PagesFile};
use crate::{
    checkpoint::{
        archive::{Archive, ReservedMember},
        cancel::CancelToken,
        dump_log::DumpLog,
        error::Error,
        snapshot::MemorySource,
    },
    process::{Pid, Tid, memory::ProcMem, pagemap::PAGE_SIZE},
};

/// How much a thread reads before it writes, and before it checks for cancellation and the deadline. As fast as 1 MiB,
/// but with 1 MiB writers were throttled more often for their dirty pages. Reading ahead during the write of the other
/// thread brought no gain: the kernel lets one writer at a time write to a file.
const READ_CHUNK_BYTES: usize = 256 << 10;
/// The smallest amount of memory for which a second thread is started.
const MIN_PARALLEL_BYTES: u64 = 4 << 20;
/// The stack size of the second thread. Its buffer is on the heap.
const READER_STACK_BYTES: usize = 128 << 10;

/// A pages file and its reserved member in the archive.
#[derive(Debug)]
pub(crate) struct ReservedPages<'a> {
    pub(crate) file: &'a PagesFile,
    pub(crate) reserved: ReservedMember,
    /// Ranges of the file that are already written, in ascending order. No range spans two runs.
    pub(crate) spliced: Vec<Range<u64>>,
}

impl ReservedPages<'_> {
    /// The first spliced range that ends after `offset`.
    fn next_spliced(&self, offset: u64) -> Option<&Range<u64>> {
        let nth = self.spliced.partition_point(|range| range.end <= offset);
        self.spliced.get(nth)
    }
}

/// The time spent on pages. Of the time of two concurrent threads half is counted, so that the sum never exceeds the
/// elapsed time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PageTimes {
    pub(crate) read_time: Duration,
    pub(crate) write_time: Duration,
}

impl std::ops::AddAssign for PageTimes {
    fn add_assign(&mut self, other: Self) {
        self.read_time += other.read_time;
        self.write_time += other.write_time;
    }
}

/// Copies the pages of all parts that are not spliced yet.
///
/// # Errors
///
/// A process exited, the archive cannot be written, the caller cancelled, or the deadline passed.
pub(crate) fn copy_pages(
    parts: &[ReservedPages<'_>],
    source: MemorySource<'_>,
    archive: &Archive,
    cancel: &CancelToken<'_>,
    log: &mut DumpLog,
) -> Result<PageTimes, Error> {
    let runs = parts.iter().flat_map(|part| &part.file.runs);
    let copied_runs = runs.filter(|run| source.source_tid(run).is_some());
    let spliced = parts.iter().flat_map(|part| &part.spliced);
    let spliced: u64 = spliced.map(|range| range.end - range.start).sum();
    let bytes = copied_runs.map(PageRun::bytes).sum::<u64>() - spliced;
    if bytes == 0 {
        return Ok(PageTimes::default());
    }
    let copier = PageCopier {
        cursor: Mutex::new(PageCursor {
            source,
            parts,
            run_index: 0,
            run_offset: 0,
            offset: 0,
        }),
        archive,
        cancel,
        buffer: READ_CHUNK_BYTES.min(bytes as usize),
        failed: AtomicBool::new(false),
        unreadable: Mutex::default(),
    };
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let times = thread::scope(|scope| {
        let second = (bytes >= MIN_PARALLEL_BYTES && cpus > 1).then(|| {
            let builder = thread::Builder::new()
                .name("pages".to_owned())
                .stack_size(READER_STACK_BYTES);
            builder.spawn_scoped(scope, || copier.run())
        });
        let first = copier.run();
        match second {
            // If the second thread could not be started, this thread has copied all chunks.
            None | Some(Err(_)) => first,
            Some(Ok(second)) => {
                let (first, second) = (first, second.join().unwrap_or(Err(Error::TracerPanicked)));
                let (first, second) = (first?, second?);
                Ok(PageTimes {
                    read_time: (first.read_time + second.read_time) / 2,
                    write_time: (first.write_time + second.write_time) / 2,
                })
            }
        }
    })?;
    let mut unreadable = copier.unreadable.into_inner().unwrap_or_else(PoisonError::into_inner);
    unreadable.sort_unstable_by_key(|page| (page.pid, page.address));
    for page in unreadable {
        page.retry(archive, log)?;
    }
    Ok(times)
}

/// State shared by the threads.
struct PageCopier<'a> {
    cursor: Mutex<PageCursor<'a>>,
    archive: &'a Archive,
    cancel: &'a CancelToken<'a>,
    /// The size of each thread's buffer, in bytes.
    buffer: usize,
    failed: AtomicBool,
    unreadable: Mutex<Vec<UnreadablePage>>,
}

impl PageCopier<'_> {
    /// Copies chunks until none is left.
    fn run(&self) -> Result<PageTimes, Error> {
        let result = self.copy_chunks();
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn copy_chunks(&self) -> Result<PageTimes, Error> {
        let mut times = PageTimes::default();
        let mut storage = Vec::new();
        let buffer = page_aligned(&mut storage, self.buffer);
        let mut ranges = Vec::new();
        let mut memory = None::<ProcMem>;
        while !self.failed.load(Ordering::Relaxed) {
            self.cancel.check()?;
            let next = self.lock(&self.cursor).next_chunk(&mut ranges);
            let Some(chunk) = next else { break };
            let started = Instant::now();
            let memory = match &mut memory {
                Some(memory) if memory.tid() == chunk.source_tid => memory,
                other => other.insert(ProcMem::new(chunk.source_tid)),
            };
            memory
                .read(&ranges, &mut buffer[..chunk.bytes], |address| {
                    self.lock(&self.unreadable).push(UnreadablePage {
                        pid: chunk.pid,
                        source_tid: chunk.source_tid,
                        address,
                        reserved: chunk.reserved,
                        offset: chunk.offset + offset_in_ranges(&ranges, address),
                    });
                })
                .map_err(|error| Error::capture(chunk.pid, "memory", error))?;
            let read = Instant::now();
            self.archive
                .write_at(chunk.reserved, chunk.offset, &buffer[..chunk.bytes])?;
            times.read_time += read - started;
            times.write_time += read.elapsed();
        }
        Ok(times)
    }

    /// A poisoned lock is used: a panic of the other thread leaves no inconsistent state.
    fn lock<'m, T>(&self, mutex: &'m Mutex<T>) -> std::sync::MutexGuard<'m, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a page-aligned buffer. Copies to and from such a buffer are a sixth faster than at the offset of 16 bytes
/// that an allocation of this size has (measured: 160 against 190 ms per GiB).
fn page_aligned(memory: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    const PAGE_BYTES: usize = PAGE_SIZE as usize;
    memory.resize(bytes + PAGE_BYTES - 1, 0);
    let start = memory.as_ptr().align_offset(PAGE_BYTES);
    &mut memory[start..start + bytes]
}

/// The position of the next pages to copy.
struct PageCursor<'a> {
    source: MemorySource<'a>,
    parts: &'a [ReservedPages<'a>],
    run_index: usize,
    run_offset: u64,
    offset: u64,
}

/// The pages that one thread copies at once. The caller holds their address ranges.
struct PageChunk {
    pid: Pid,
    source_tid: Tid,
    reserved: ReservedMember,
    offset: u64,
    bytes: usize,
}

impl PageCursor<'_> {
    /// Advances by `bytes` within the current run.
    fn advance(&mut self, run: &PageRun, bytes: u64) {
        self.offset += bytes;
        self.run_offset += bytes;
        if self.run_offset == run.bytes() {
            self.run_index += 1;
            self.run_offset = 0;
        }
    }

    /// Returns the next runs of one process and one file, up to the size of a chunk.
    fn next_chunk(&mut self, ranges: &mut Vec<Range<u64>>) -> Option<PageChunk> {
        ranges.clear();
        let (part, source_tid) = loop {
            let part = self.parts.first()?;
            if let Some(run) = part.file.runs.get(self.run_index) {
                let source_tid = self.source.source_tid(run);
                let spliced = part
                    .next_spliced(self.offset)
                    .filter(|range| range.start <= self.offset);
                let skipped = match (source_tid, spliced) {
                    (Some(source_tid), None) => break (part, source_tid),
                    (Some(_), Some(spliced)) => spliced.end - self.offset,
                    (None, _) => run.bytes() - self.run_offset,
                };
                self.advance(run, skipped);
                continue;
            }
            *self = PageCursor {
                source: self.source,
                parts: &self.parts[1..],
                run_index: 0,
                run_offset: 0,
                offset: 0,
            };
        };
        let first = &part.file.runs[self.run_index];
        let (reserved, offset, mut bytes) = (part.reserved, self.offset, 0);
        while let Some(run) = part.file.runs.get(self.run_index)
            && self.source.source_tid(run) == Some(source_tid)
            && bytes < READ_CHUNK_BYTES as u64
        {
            let start = run.range.start + self.run_offset;
            let spliced = part.next_spliced(self.offset);
            let before = spliced.map_or(u64::MAX, |range| range.start - self.offset);
            let length = (run.range.end - start).min(READ_CHUNK_BYTES as u64 - bytes).min(before);
            if length == 0 {
                break;
            }
            ranges.push(start..start + length);
            bytes += length;
            self.advance(run, length);
        }
        Some(PageChunk {
            pid: first.pid,
            source_tid,
            reserved,
            offset,
            bytes: bytes as usize,
        })
    }
}

/// The offset of `address` from the start of the concatenated ranges.
fn offset_in_ranges(ranges: &[Range<u64>], address: u64) -> u64 {
    let before = ranges.iter().take_while(|range| !range.contains(&address));
    let behind = ranges.iter().find(|range| range.contains(&address));
    before.map(|range| range.end - range.start).sum::<u64>() + behind.map_or(0, |range| address - range.start)
}

/// A page that a thread could not read.
struct UnreadablePage {
    pid: Pid,
    source_tid: Tid,
    address: u64,
    reserved: ReservedMember,
    offset: u64,
}

impl UnreadablePage {
    /// Reads the page once more in the tracer thread. With `proc_mem.force_override=ptrace` the kernel shows memory
    /// that the process itself may not read to the tracer only. A page that is unreadable to the tracer too becomes
    /// zero.
    fn retry(&self, archive: &Archive, log: &mut DumpLog) -> Result<(), Error> {
        let mut page = [0; PAGE_SIZE as usize];
        let mut lost = false;
        let range = self.address..self.address + PAGE_SIZE;
        ProcMem::new(self.source_tid)
            .read(std::slice::from_ref(&range), &mut page, |_| lost = true)
            .map_err(|error| Error::capture(self.pid, "memory", error))?;
        if lost {
            log.unsupported(format_args!(
                "pid {}: the page at {:#x} cannot be read and is zero in the archive",
                self.pid, self.address
            ));
            return Ok(());
        }
        archive.write_at(self.reserved, self.offset, &page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pid: i32, start: u64, pages: u64) -> PageRun {
        PageRun {
            pid: Pid::from_raw(pid),
            proc_tid: Tid::from_raw(pid),
            range: start..start + pages * PAGE_SIZE,
            not_forked: false,
        }
    }

    #[test]
    fn buffer_is_page_aligned() {
        for bytes in [1, 4095, 4096, READ_CHUNK_BYTES] {
            let mut memory = Vec::new();
            let buffer = page_aligned(&mut memory, bytes);
            assert_eq!(buffer.len(), bytes);
            assert_eq!(buffer.as_ptr().addr() % PAGE_SIZE as usize, 0, "{bytes}");
        }
    }

    #[test]
    fn spliced_ranges_are_skipped() {
        let long_bytes = 3 * READ_CHUNK_BYTES as u64;
        let file = PagesFile {
            name: String::new(),
            shared: false,
            runs: vec![
                run(1, 0x10_0000, 2),
                run(1, 0x1000_0000, long_bytes / PAGE_SIZE),
                run(1, 0x2000_0000, 1),
                run(1, 0x3000_0000, 1),
            ],
            mapped_file: None,
        };
        let before = 2 * PAGE_SIZE;
        // A part in the middle of a run, the end of the run, and a whole run.
        let spliced = vec![
            before + PAGE_SIZE..before + READ_CHUNK_BYTES as u64,
            before + 2 * READ_CHUNK_BYTES as u64..before + long_bytes,
            before + long_bytes + PAGE_SIZE..before + long_bytes + 2 * PAGE_SIZE,
        ];
        let parts = [ReservedPages {
            file: &file,
            reserved: ReservedMember::from_offset(0),
            spliced: spliced.clone(),
        }];
        let mut cursor = PageCursor {
            source: MemorySource::Originals,
            parts: &parts,
            run_index: 0,
            run_offset: 0,
            offset: 0,
        };
        let (mut ranges, mut covered) = (Vec::new(), spliced);
        while let Some(chunk) = cursor.next_chunk(&mut ranges) {
            let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            assert_eq!(bytes, chunk.bytes as u64);
            covered.push(chunk.offset..chunk.offset + bytes);
            let (_, first) = file
                .runs
                .iter()
                .scan(0, |offset, run| {
                    let at = *offset;
                    *offset += run.bytes();
                    Some((at, run))
                })
                .map(|(at, run)| (at..at + run.bytes(), run.range.start.wrapping_sub(at)))
                .find(|(offsets, _)| offsets.contains(&chunk.offset))
                .expect("in a run");
            assert_eq!(ranges[0].start, first.wrapping_add(chunk.offset));
        }
        covered.sort_unstable_by_key(|range| range.start);
        assert!(
            covered.iter().is_sorted_by(|range, next| range.end == next.start),
            "{covered:?}"
        );
        assert_eq!(covered.last().map(|range| range.end), Some(file.bytes()));
        assert_eq!(covered[0].start, 0);
    }

    #[test]
    fn chunks_cover_every_run_once() {
        let file = |runs: Vec<PageRun>| PagesFile {
            name: String::new(),
            shared: false,
            runs,
            mapped_file: None,
        };
        // A run longer than a chunk, several runs in one chunk, a run of another process, an empty file, a second file.
        let long_run = READ_CHUNK_BYTES as u64 / PAGE_SIZE + 3;
        let files = [
            file(vec![
                run(1, 0x10_0000, long_run),
                run(1, 0x1000_0000, 1),
                run(2, 0x10_0000, 2),
            ]),
            file(Vec::new()),
            file(vec![run(1, 0x2000_0000, 1)]),
        ];
        let parts: Vec<_> = files
            .iter()
            .zip(0..)
            .map(|(file, at)| ReservedPages {
                file,
                reserved: ReservedMember::from_offset(at << 40),
                spliced: Vec::new(),
            })
            .collect();
        let mut cursor = PageCursor {
            source: MemorySource::Originals,
            parts: &parts,
            run_index: 0,
            run_offset: 0,
            offset: 0,
        };
        let mut ranges = Vec::new();
        let mut covered = Vec::new();
        while let Some(chunk) = cursor.next_chunk(&mut ranges) {
            assert!(chunk.bytes <= READ_CHUNK_BYTES);
            let mut offset = chunk.offset;
            for range in &ranges {
                assert_eq!(offset_in_ranges(&ranges, range.start), offset - chunk.offset);
                covered.push((chunk.source_tid, chunk.reserved, offset, range.clone()));
                offset += range.end - range.start;
            }
        }
        let mut expected = Vec::new();
        for part in &parts {
            let mut offset = 0;
            for run in &part.file.runs {
                let mut at = run.range.start;
                while at < run.range.end {
                    let until = run.range.end.min(at + READ_CHUNK_BYTES as u64);
                    expected.push((run.proc_tid, part.reserved, offset, at..until));
                    offset += until - at;
                    at = until;
                }
            }
        }
        assert_eq!(covered, expected);
    }
}
