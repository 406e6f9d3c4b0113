//! Pages files: from a process's memory into the archive, in one pass.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::{archive::Archive, error::Error, fault::Blanks, log::DumpLog, watch::Watch};
use crate::process::{memory::Memory, pagemap::PAGE_SIZE};

/// How much is read before the caller and the deadline are looked at again.
const PIECE: u64 = 1 << 20;

/// The content of one `pages-N.img`: which memory, in its order.
#[derive(Debug)]
pub(crate) struct PagesFile {
    /// Its name.
    pub(crate) name: String,
    /// Whether it holds the shared memory of several.
    pub(crate) shared: bool,
    /// Where its pages are.
    pub(crate) runs: Vec<Run>,
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
}

impl PagesFile {
    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.range.end - run.range.start).sum()
    }

    /// How many pages it has.
    pub(crate) fn pages(&self) -> u64 {
        self.bytes() / PAGE_SIZE
    }
}

/// Writes the pages into the member under way; the time spent in reading them.
///
/// # Errors
///
/// A process that ended, a full disk, the caller or the deadline.
pub(crate) fn write(
    file: &PagesFile,
    archive: &mut Archive,
    blanks: &Blanks,
    watch: &Watch<'_>,
    log: &mut DumpLog,
) -> Result<Duration, Error> {
    let mut reading = Duration::ZERO;
    let mut pieces: Vec<Range<u64>> = Vec::new();
    let mut runs = file.runs.iter().peekable();
    let mut into_run = 0;
    while let Some(first) = runs.peek() {
        let (pid, window) = (first.pid, first.window);
        watch.check()?;
        let room = archive.room(PIECE as usize)?;
        // As many runs of the same process as the room takes.
        pieces.clear();
        let mut gathered = 0;
        while let Some(run) = runs.peek()
            && run.window == window
            && gathered < room.len() as u64
        {
            let start = run.range.start + into_run;
            let length = (run.range.end - start).min(room.len() as u64 - gathered);
            pieces.push(start..start + length);
            gathered += length;
            into_run += length;
            if start + length == run.range.end {
                runs.next();
                into_run = 0;
            }
        }
        let started = Instant::now();
        Memory::of(window)
            .read(&pieces, &mut room[..gathered as usize], |address| {
                log.lost(format_args!(
                    "pid {pid}: the page at {address:#x} cannot be read and is zero here"
                ));
            })
            .map_err(|error| Error::capture(pid, "memory", error))?;
        reading += started.elapsed();
        blanks.blank(window, file.shared, &pieces, &mut room[..gathered as usize]);
        archive.advance(gathered as usize);
    }
    Ok(reading)
}
