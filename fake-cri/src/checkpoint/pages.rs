//! Pages files: from a process's memory into the archive, in one pass and by two threads at once.
//!
//! ```text
//!   cursor: next chunk ------------> thread 1: /proc/PID/mem --> its buffer --> pwrite at the chunk's place
//!      (behind a lock)         \----> thread 2: the same
//! ```
//!
//! Most of what is large in a copy comes another way: [`super::pour`].
//!
//! The page maps tell where every page goes before one is read, so the threads need no order among them. Reading takes access
//! rights, not the tracer itself, which is why a thread that traces nothing can do it. Ways to fail: a process that ended, a full
//! disk, the caller, the deadline; the first failure ends both.

use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    archive::{Archive, ReservedMember},
    cancel::CancelToken,
    dump_log::DumpLog,
    error::Error,
    fault::ZeroedRegions,
    snapshot::SnapshotSet,
};
use crate::process::{file_mapping::FileMapping, memory::ProcMem, pagemap::PAGE_SIZE};

/// How much a thread reads before it writes it, and before the caller and the deadline are looked at again. As fast as
/// 1 MiB, with which writers were seen to be halted more often for the pages that they had made dirty. To read ahead while the
/// other thread writes gained nothing: the kernel lets one writer at a time into a file.
const READ_CHUNK_BYTES: usize = 256 << 10;
/// What is worth a second thread.
const MIN_PARALLEL_BYTES: u64 = 4 << 20;
/// The stack of a second thread, whose buffer is on the heap.
const READER_STACK_BYTES: usize = 128 << 10;

/// The content of one `pages-N.img`: which memory, in its order.
#[derive(Debug)]
pub(crate) struct PagesFile {
    /// Its name.
    pub(crate) name: String,
    /// Whether it holds the shared memory of several.
    pub(crate) shared: bool,
    /// Where its pages are.
    pub(crate) runs: Vec<PageRun>,
    /// What of a file is mapped here to be read; it has to stay until it is.
    #[expect(dead_code, reason = "held, never looked at")]
    pub(crate) mapped_file: Option<FileMapping>,
}

/// Neighbouring pages of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageRun {
    /// The process, for the log.
    pub(crate) pid: i32,
    /// A thread that sees them.
    pub(crate) proc_tid: i32,
    /// Their addresses.
    pub(crate) range: Range<u64>,
    /// Whether a copy of the process does not hold them, so that they are read before the process runs on.
    pub(crate) not_forked: bool,
}

impl PageRun {
    pub(crate) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

impl PagesFile {
    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.runs.iter().map(PageRun::bytes).sum()
    }

    /// How many pages it has.
    pub(crate) fn pages(&self) -> u64 {
        self.bytes() / PAGE_SIZE
    }
}

/// A pages file and its place in the archive.
#[derive(Debug)]
pub(crate) struct ReservedPages<'a> {
    /// What is in it.
    pub(crate) file: &'a PagesFile,
    /// Where it goes.
    pub(crate) reserved: ReservedMember,
    /// What of the file is there already, by offsets in their order; none lies in two runs.
    pub(crate) spliced: Vec<Range<u64>>,
}

impl ReservedPages<'_> {
    /// The first of what is there already that ends behind an offset.
    fn next_spliced(&self, offset: u64) -> Option<&Range<u64>> {
        let nth = self.spliced.partition_point(|range| range.end <= offset);
        self.spliced.get(nth)
    }
}

/// Which pages are moved, and whose memory they are read from.
#[derive(Clone, Copy)]
pub(crate) enum PageSource<'a> {
    /// All, of the processes themselves, which stand still.
    Originals,
    /// Those that copies hold, of these.
    Snapshots(&'a SnapshotSet<'a>),
}

impl PageSource<'_> {
    /// A thread through which these pages are read; `None` when they are not moved.
    fn source_tid(self, run: &PageRun) -> Option<i32> {
        match self {
            Self::Originals => Some(run.proc_tid),
            Self::Snapshots(_) if run.not_forked => None,
            Self::Snapshots(snapshots) => snapshots.pid_of(run.proc_tid),
        }
    }
}

/// What moving pages took. Of what two threads do at once half is counted, so that the two never exceed the time that passed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PageTimes {
    /// Reading memory.
    pub(crate) read_time: Duration,
    /// Writing the archive.
    pub(crate) write_time: Duration,
}

impl std::ops::AddAssign for PageTimes {
    fn add_assign(&mut self, other: Self) {
        self.read_time += other.read_time;
        self.write_time += other.write_time;
    }
}

/// Writes the pages of all parts.
///
/// # Errors
///
/// A process that ended, a full disk, the caller or the deadline.
pub(crate) fn copy_pages(
    parts: &[ReservedPages<'_>],
    source: PageSource<'_>,
    archive: &Archive,
    zeroed: &ZeroedRegions,
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
        zeroed,
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
            // Where no thread can be started, this one did it all.
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

/// What the threads share.
struct PageCopier<'a> {
    cursor: Mutex<PageCursor<'a>>,
    archive: &'a Archive,
    zeroed: &'a ZeroedRegions,
    cancel: &'a CancelToken<'a>,
    /// The size of each thread's buffer.
    buffer: usize,
    failed: AtomicBool,
    unreadable: Mutex<Vec<UnreadablePage>>,
}

impl PageCopier<'_> {
    /// Moves chunks until there are none left.
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
            self.zeroed
                .zero(chunk.proc_tid, chunk.shared, &ranges, &mut buffer[..chunk.bytes]);
            self.archive
                .write_at(chunk.reserved, chunk.offset, &buffer[..chunk.bytes])?;
            times.read_time += read - started;
            times.write_time += read.elapsed();
        }
        Ok(times)
    }

    /// Nothing is left half done by a panic of the other thread.
    fn lock<'m, T>(&self, mutex: &'m Mutex<T>) -> std::sync::MutexGuard<'m, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for so many bytes that begins where a page does. Pages are copied to and from such a place a sixth faster than to one
/// sixteen bytes behind it, which is where an allocation of this size lies (measured: 160 against 190 ms a GiB).
fn page_aligned(memory: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    const PAGE_BYTES: usize = PAGE_SIZE as usize;
    memory.resize(bytes + PAGE_BYTES - 1, 0);
    let start = memory.as_ptr().align_offset(PAGE_BYTES);
    &mut memory[start..start + bytes]
}

/// Which pages come next.
struct PageCursor<'a> {
    source: PageSource<'a>,
    parts: &'a [ReservedPages<'a>],
    run_index: usize,
    run_offset: u64,
    offset: u64,
}

/// Pages that one thread moves at once; their addresses stand beside it.
struct PageChunk {
    pid: i32,
    proc_tid: i32,
    source_tid: i32,
    shared: bool,
    reserved: ReservedMember,
    offset: u64,
    bytes: usize,
}

impl PageCursor<'_> {
    /// Goes on by so many bytes of the run that it is at.
    fn advance(&mut self, run: &PageRun, bytes: u64) {
        self.offset += bytes;
        self.run_offset += bytes;
        if self.run_offset == run.bytes() {
            self.run_index += 1;
            self.run_offset = 0;
        }
    }

    /// As many runs of one process and one file as a chunk takes.
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
            proc_tid: first.proc_tid,
            source_tid,
            shared: part.file.shared,
            reserved,
            offset,
            bytes: bytes as usize,
        })
    }
}

/// How far behind the beginning of the ranges an address lies that is in one of them.
fn offset_in_ranges(ranges: &[Range<u64>], address: u64) -> u64 {
    let before = ranges.iter().take_while(|range| !range.contains(&address));
    let behind = ranges.iter().find(|range| range.contains(&address));
    before.map(|range| range.end - range.start).sum::<u64>() + behind.map_or(0, |range| address - range.start)
}

/// A page that a thread could not read, and its place.
struct UnreadablePage {
    pid: i32,
    source_tid: i32,
    address: u64,
    reserved: ReservedMember,
    offset: u64,
}

impl UnreadablePage {
    /// The kernel can be told (`proc_mem.force_override=ptrace`) to show what a process itself may not read to its tracer alone,
    /// which is this thread. What it does not see either is zero.
    fn retry(&self, archive: &Archive, log: &mut DumpLog) -> Result<(), Error> {
        let mut page = [0; PAGE_SIZE as usize];
        let mut lost = false;
        let range = self.address..self.address + PAGE_SIZE;
        ProcMem::new(self.source_tid)
            .read(std::slice::from_ref(&range), &mut page, |_| lost = true)
            .map_err(|error| Error::capture(self.pid, "memory", error))?;
        if lost {
            log.unsupported(format_args!(
                "pid {}: the page at {:#x} cannot be read and is zero here",
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

    fn run(proc_tid: i32, start: u64, pages: u64) -> PageRun {
        PageRun {
            pid: proc_tid,
            proc_tid,
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
        // In the middle of a run and at its end, and a whole one.
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
            source: PageSource::Originals,
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
        // One run longer than a chunk, several in one chunk, another process's, an empty file, another file.
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
            source: PageSource::Originals,
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
                covered.push((chunk.proc_tid, chunk.reserved, offset, range.clone()));
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
