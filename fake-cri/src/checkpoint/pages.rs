//! Pages files: from a process's memory into the archive, in one pass and by two threads at once.
//!
//! ```text
//!   cursor: next piece ------------> thread 1: /proc/PID/mem --> its buffer --> pwrite at the piece's place
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
    archive::{Archive, Slab},
    error::Error,
    fault::Blanks,
    log::DumpLog,
    twin::Twins,
    watch::Watch,
};
use crate::process::{memory::Memory, pagemap::PAGE_SIZE, view::View};

/// How much a thread reads before it writes it, and before the caller and the deadline are looked at again. As fast as
/// 1 MiB, with which writers were seen to be halted more often for the pages that they had made dirty. To read ahead while the
/// other thread writes gained nothing: the kernel lets one writer at a time into a file.
const PIECE: usize = 256 << 10;
/// What is worth a second thread.
const LARGE: u64 = 4 << 20;
/// The stack of a second thread, whose buffer is on the heap.
const STACK: usize = 128 << 10;

/// The content of one `pages-N.img`: which memory, in its order.
#[derive(Debug)]
pub(crate) struct PagesFile {
    /// Its name.
    pub(crate) name: String,
    /// Whether it holds the shared memory of several.
    pub(crate) shared: bool,
    /// Where its pages are.
    pub(crate) runs: Vec<Run>,
    /// What of a file is mapped here to be read; it has to stay until it is.
    #[expect(dead_code, reason = "held, never looked at")]
    pub(crate) view: Option<View>,
}

/// Neighbouring pages of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The process, for the log.
    pub(crate) pid: i32,
    /// A thread that sees them.
    pub(crate) window: i32,
    /// Their addresses.
    pub(crate) range: Range<u64>,
    /// Whether a copy of the process does not hold them, so that they are read before the process runs on.
    pub(crate) early: bool,
}

impl Run {
    pub(crate) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

impl PagesFile {
    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.runs.iter().map(Run::bytes).sum()
    }

    /// How many pages it has.
    pub(crate) fn pages(&self) -> u64 {
        self.bytes() / PAGE_SIZE
    }
}

/// A pages file and its place in the archive.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    /// What is in it.
    pub(crate) file: &'a PagesFile,
    /// Where it goes.
    pub(crate) slab: Slab,
    /// What of the file is there already, by offsets in their order; none lies in two runs.
    pub(crate) poured: Vec<Range<u64>>,
}

impl Part<'_> {
    /// The first of what is there already that ends behind an offset.
    fn poured_behind(&self, offset: u64) -> Option<&Range<u64>> {
        let nth = self.poured.partition_point(|range| range.end <= offset);
        self.poured.get(nth)
    }
}

/// Which pages are moved, and whose memory they are read from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// All, of the processes themselves, which stand still.
    Originals,
    /// Those that copies hold, of these.
    Copies(&'a Twins<'a>),
}

impl Source<'_> {
    /// A thread through which these pages are read; `None` when they are not moved.
    fn reader(self, run: &Run) -> Option<i32> {
        match self {
            Self::Originals => Some(run.window),
            Self::Copies(_) if run.early => None,
            Self::Copies(twins) => twins.of(run.window),
        }
    }
}

/// What moving pages took. Of what two threads do at once half is counted, so that the two never exceed the time that passed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// Reading memory.
    pub(crate) reading: Duration,
    /// Writing the archive.
    pub(crate) writing: Duration,
}

impl std::ops::AddAssign for Times {
    fn add_assign(&mut self, other: Self) {
        self.reading += other.reading;
        self.writing += other.writing;
    }
}

/// Writes the pages of all parts.
///
/// # Errors
///
/// A process that ended, a full disk, the caller or the deadline.
pub(crate) fn write(
    parts: &[Part<'_>],
    from: Source<'_>,
    archive: &Archive,
    blanks: &Blanks,
    watch: &Watch<'_>,
    log: &mut DumpLog,
) -> Result<Times, Error> {
    let runs = parts.iter().flat_map(|part| &part.file.runs);
    let moved = runs.filter(|run| from.reader(run).is_some());
    let poured = parts.iter().flat_map(|part| &part.poured);
    let poured: u64 = poured.map(|range| range.end - range.start).sum();
    let bytes = moved.map(Run::bytes).sum::<u64>() - poured;
    if bytes == 0 {
        return Ok(Times::default());
    }
    let work = Work {
        cursor: Mutex::new(Cursor {
            from,
            parts,
            run: 0,
            into_run: 0,
            offset: 0,
        }),
        archive,
        blanks,
        watch,
        buffer: PIECE.min(bytes as usize),
        failed: AtomicBool::new(false),
        unreadable: Mutex::default(),
    };
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let times = thread::scope(|scope| {
        let second = (bytes >= LARGE && cpus > 1).then(|| {
            let builder = thread::Builder::new().name("pages".to_owned()).stack_size(STACK);
            builder.spawn_scoped(scope, || work.run())
        });
        let first = work.run();
        match second {
            // Where no thread can be started, this one did it all.
            None | Some(Err(_)) => first,
            Some(Ok(second)) => {
                let (first, second) = (first, second.join().unwrap_or(Err(Error::Panicked)));
                let (first, second) = (first?, second?);
                Ok(Times {
                    reading: (first.reading + second.reading) / 2,
                    writing: (first.writing + second.writing) / 2,
                })
            }
        }
    })?;
    let mut unreadable = work.unreadable.into_inner().unwrap_or_else(PoisonError::into_inner);
    unreadable.sort_unstable_by_key(|page| (page.pid, page.address));
    for page in unreadable {
        page.retry(archive, log)?;
    }
    Ok(times)
}

/// What the threads share.
struct Work<'a> {
    cursor: Mutex<Cursor<'a>>,
    archive: &'a Archive,
    blanks: &'a Blanks,
    watch: &'a Watch<'a>,
    /// The size of each thread's buffer.
    buffer: usize,
    failed: AtomicBool,
    unreadable: Mutex<Vec<Unreadable>>,
}

impl Work<'_> {
    /// Moves pieces until there are none left.
    fn run(&self) -> Result<Times, Error> {
        let result = self.move_pieces();
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn move_pieces(&self) -> Result<Times, Error> {
        let mut times = Times::default();
        let mut room = Vec::new();
        let buffer = on_a_page(&mut room, self.buffer);
        let mut ranges = Vec::new();
        let mut memory = None::<Memory>;
        while !self.failed.load(Ordering::Relaxed) {
            self.watch.check()?;
            let next = self.lock(&self.cursor).next(&mut ranges);
            let Some(piece) = next else { break };
            let started = Instant::now();
            let memory = match &mut memory {
                Some(memory) if memory.tid() == piece.reader => memory,
                other => other.insert(Memory::of(piece.reader)),
            };
            memory
                .read(&ranges, &mut buffer[..piece.bytes], |address| {
                    self.lock(&self.unreadable).push(Unreadable {
                        pid: piece.pid,
                        reader: piece.reader,
                        address,
                        slab: piece.slab,
                        offset: piece.offset + offset_of(&ranges, address),
                    });
                })
                .map_err(|error| Error::capture(piece.pid, "memory", error))?;
            let read = Instant::now();
            self.blanks
                .blank(piece.window, piece.shared, &ranges, &mut buffer[..piece.bytes]);
            self.archive.fill(piece.slab, piece.offset, &buffer[..piece.bytes])?;
            times.reading += read - started;
            times.writing += read.elapsed();
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
fn on_a_page(memory: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    const PAGE: usize = PAGE_SIZE as usize;
    memory.resize(bytes + PAGE - 1, 0);
    let start = memory.as_ptr().align_offset(PAGE);
    &mut memory[start..start + bytes]
}

/// Which pages come next.
struct Cursor<'a> {
    from: Source<'a>,
    parts: &'a [Part<'a>],
    run: usize,
    into_run: u64,
    offset: u64,
}

/// Pages that one thread moves at once; their addresses stand beside it.
struct Piece {
    pid: i32,
    window: i32,
    reader: i32,
    shared: bool,
    slab: Slab,
    offset: u64,
    bytes: usize,
}

impl Cursor<'_> {
    /// Goes on by so many bytes of the run that it is at.
    fn pass(&mut self, run: &Run, bytes: u64) {
        self.offset += bytes;
        self.into_run += bytes;
        if self.into_run == run.bytes() {
            self.run += 1;
            self.into_run = 0;
        }
    }

    /// As many runs of one process and one file as a piece takes.
    fn next(&mut self, ranges: &mut Vec<Range<u64>>) -> Option<Piece> {
        ranges.clear();
        let (part, reader) = loop {
            let part = self.parts.first()?;
            if let Some(run) = part.file.runs.get(self.run) {
                let reader = self.from.reader(run);
                let poured = part
                    .poured_behind(self.offset)
                    .filter(|range| range.start <= self.offset);
                let passed = match (reader, poured) {
                    (Some(reader), None) => break (part, reader),
                    (Some(_), Some(poured)) => poured.end - self.offset,
                    (None, _) => run.bytes() - self.into_run,
                };
                self.pass(run, passed);
                continue;
            }
            *self = Cursor {
                from: self.from,
                parts: &self.parts[1..],
                run: 0,
                into_run: 0,
                offset: 0,
            };
        };
        let first = &part.file.runs[self.run];
        let (slab, offset, mut bytes) = (part.slab, self.offset, 0);
        while let Some(run) = part.file.runs.get(self.run)
            && self.from.reader(run) == Some(reader)
            && bytes < PIECE as u64
        {
            let start = run.range.start + self.into_run;
            let poured = part.poured_behind(self.offset);
            let before = poured.map_or(u64::MAX, |range| range.start - self.offset);
            let length = (run.range.end - start).min(PIECE as u64 - bytes).min(before);
            if length == 0 {
                break;
            }
            ranges.push(start..start + length);
            bytes += length;
            self.pass(run, length);
        }
        Some(Piece {
            pid: first.pid,
            window: first.window,
            reader,
            shared: part.file.shared,
            slab,
            offset,
            bytes: bytes as usize,
        })
    }
}

/// How far behind the beginning of the ranges an address lies that is in one of them.
fn offset_of(ranges: &[Range<u64>], address: u64) -> u64 {
    let before = ranges.iter().take_while(|range| !range.contains(&address));
    let behind = ranges.iter().find(|range| range.contains(&address));
    before.map(|range| range.end - range.start).sum::<u64>() + behind.map_or(0, |range| address - range.start)
}

/// A page that a thread could not read, and its place.
struct Unreadable {
    pid: i32,
    reader: i32,
    address: u64,
    slab: Slab,
    offset: u64,
}

impl Unreadable {
    /// The kernel can be told (`proc_mem.force_override=ptrace`) to show what a process itself may not read to its tracer alone,
    /// which is this thread. What it does not see either is zero.
    fn retry(&self, archive: &Archive, log: &mut DumpLog) -> Result<(), Error> {
        let mut page = [0; PAGE_SIZE as usize];
        let mut lost = false;
        let range = self.address..self.address + PAGE_SIZE;
        Memory::of(self.reader)
            .read(std::slice::from_ref(&range), &mut page, |_| lost = true)
            .map_err(|error| Error::capture(self.pid, "memory", error))?;
        if lost {
            log.lost(format_args!(
                "pid {}: the page at {:#x} cannot be read and is zero here",
                self.pid, self.address
            ));
            return Ok(());
        }
        archive.fill(self.slab, self.offset, &page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(window: i32, start: u64, pages: u64) -> Run {
        Run {
            pid: window,
            window,
            range: start..start + pages * PAGE_SIZE,
            early: false,
        }
    }

    #[test]
    fn a_buffer_begins_where_a_page_does() {
        for bytes in [1, 4095, 4096, PIECE] {
            let mut memory = Vec::new();
            let buffer = on_a_page(&mut memory, bytes);
            assert_eq!(buffer.len(), bytes);
            assert_eq!(buffer.as_ptr().addr() % PAGE_SIZE as usize, 0, "{bytes}");
        }
    }

    #[test]
    fn what_was_poured_is_passed_over() {
        let large = 3 * PIECE as u64;
        let file = PagesFile {
            name: String::new(),
            shared: false,
            runs: vec![
                run(1, 0x10_0000, 2),
                run(1, 0x1000_0000, large / PAGE_SIZE),
                run(1, 0x2000_0000, 1),
                run(1, 0x3000_0000, 1),
            ],
            view: None,
        };
        let before = 2 * PAGE_SIZE;
        // In the middle of a run and at its end, and a whole one.
        let poured = vec![
            before + PAGE_SIZE..before + PIECE as u64,
            before + 2 * PIECE as u64..before + large,
            before + large + PAGE_SIZE..before + large + 2 * PAGE_SIZE,
        ];
        let parts = [Part {
            file: &file,
            slab: Slab::at(0),
            poured: poured.clone(),
        }];
        let mut cursor = Cursor {
            from: Source::Originals,
            parts: &parts,
            run: 0,
            into_run: 0,
            offset: 0,
        };
        let (mut ranges, mut seen) = (Vec::new(), poured);
        while let Some(piece) = cursor.next(&mut ranges) {
            let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            assert_eq!(bytes, piece.bytes as u64);
            seen.push(piece.offset..piece.offset + bytes);
            let (_, first) = file
                .runs
                .iter()
                .scan(0, |offset, run| {
                    let at = *offset;
                    *offset += run.bytes();
                    Some((at, run))
                })
                .map(|(at, run)| (at..at + run.bytes(), run.range.start.wrapping_sub(at)))
                .find(|(offsets, _)| offsets.contains(&piece.offset))
                .expect("in a run");
            assert_eq!(ranges[0].start, first.wrapping_add(piece.offset));
        }
        seen.sort_unstable_by_key(|range| range.start);
        assert!(
            seen.iter().is_sorted_by(|range, next| range.end == next.start),
            "{seen:?}"
        );
        assert_eq!(seen.last().map(|range| range.end), Some(file.bytes()));
        assert_eq!(seen[0].start, 0);
    }

    #[test]
    fn pieces_cover_every_run_once_and_in_its_place() {
        let file = |runs: Vec<Run>| PagesFile {
            name: String::new(),
            shared: false,
            runs,
            view: None,
        };
        // One run longer than a piece, several in one piece, another process's, an empty file, another file.
        let long = PIECE as u64 / PAGE_SIZE + 3;
        let files = [
            file(vec![
                run(1, 0x10_0000, long),
                run(1, 0x1000_0000, 1),
                run(2, 0x10_0000, 2),
            ]),
            file(Vec::new()),
            file(vec![run(1, 0x2000_0000, 1)]),
        ];
        let parts: Vec<_> = files
            .iter()
            .zip(0..)
            .map(|(file, at)| Part {
                file,
                slab: Slab::at(at << 40),
                poured: Vec::new(),
            })
            .collect();
        let mut cursor = Cursor {
            from: Source::Originals,
            parts: &parts,
            run: 0,
            into_run: 0,
            offset: 0,
        };
        let mut ranges = Vec::new();
        let mut seen = Vec::new();
        while let Some(piece) = cursor.next(&mut ranges) {
            assert!(piece.bytes <= PIECE);
            let mut offset = piece.offset;
            for range in &ranges {
                assert_eq!(offset_of(&ranges, range.start), offset - piece.offset);
                seen.push((piece.window, piece.slab, offset, range.clone()));
                offset += range.end - range.start;
            }
        }
        let mut expected = Vec::new();
        for part in &parts {
            let mut offset = 0;
            for run in &part.file.runs {
                let mut at = run.range.start;
                while at < run.range.end {
                    let until = run.range.end.min(at + PIECE as u64);
                    expected.push((run.window, part.slab, offset, at..until));
                    offset += until - at;
                    at = until;
                }
            }
        }
        assert_eq!(seen, expected);
    }
}
