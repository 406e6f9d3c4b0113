//! Large memory: from a copy into the archive, copied once.
//!
//! ```text
//!   the copy, by lists of calls                              this thread
//!     vmsplice piece 0 --> pipe 0 --\
//!     vmsplice piece 1 --> pipe 1 ---\------- splice --> at the piece's place in the archive
//!     vmsplice piece 2 --> pipe 0 ----/       (pipe 0, pipe 1, pipe 0, ...)
//!     madvise  piece 0   ...
//! ```
//!
//! A pipe that a process hands its own memory holds the pages themselves (vmsplice(2)), and they are copied when they are moved from
//! there into a file (splice(2)). Read by another process they are copied twice before ([`super::pages`]: `/proc/PID/mem` has a page
//! of its own in between), and then written. The kernel lets one writer at a time into a file, so one thread empties the pipes; there are
//! two, so that it finds the next one full. The copy lets each piece go when it has left its pipe, which it had to do anyway.
//!
//! Measured, two processors, 1 GiB in 4 KiB pages: 190 ms with all of it let go, by reading 250 ms and 22 ms to let go.
//!
//! A piece has left its pipe when a later one fits into it, since a pipe holds just one. What is let go is no piece that a pipe may
//! still hold: older kernels would let the original write into it.
//!
//! The pipes are made by the copy, so its original never has them, and go with it. Memory that the copy itself may not read is not
//! taken this way, nor anything where pipes of this size or lists of calls cannot be had; the first piece goes alone and shows it.

use std::{
    fs::File,
    io,
    ops::Range,
    os::fd::{AsFd as _, OwnedFd},
    time::Instant,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SpliceFFlags, fcntl, splice},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    archive::Archive,
    capture::Foreseen,
    error::Error,
    log::DumpLog,
    pages::{Part, Times},
    twin::{Twins, failed},
    watch::Watch,
};
use crate::process::{
    ProcessId, descriptor,
    inject::{Area, Call, InjectError, Injection, UnderWay},
    pidfd::PidFd,
};

/// What a pipe holds, which anyone may have it hold (`/proc/sys/fs/pipe-max-size`).
const PIECE: u64 = 1 << 20;
/// A run of pages of this size is worth it, in bytes.
const LARGE: u64 = 4 << 20;
/// How many pieces are worth it.
const WORTH: usize = 8;
/// How many pieces go in one list, by two calls each.
const MOST: usize = 120;
const _: () = assert!(MOST * 2 <= Area::ROOM);
/// Memory is let go of by as much as a huge page holds, so that none is split.
const LET_GO: u64 = 2 << 20;
/// How long a pipe may be empty before it is looked why, in milliseconds.
const EMPTY: u16 = 10;

/// So much memory at once, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    address: u64,
    /// Where the memory that it is a piece of begins.
    start: u64,
    part: usize,
    /// In the file of the part.
    offset: u64,
}

/// Moves what is large in the memory of a copy into the archive, as far as that can be had, and says in the parts how far.
///
/// # Errors
///
/// A copy that ended, a full disk, the caller or the deadline.
pub(crate) fn pour(
    parts: &mut [Part<'_>],
    foreseen: &Foreseen,
    twins: &Twins<'_>,
    archive: &Archive,
    watch: &Watch<'_>,
    log: &mut DumpLog,
) -> Result<Times, Error> {
    let pieces = pieces(parts, foreseen.window, &poured(foreseen, twins));
    let Some(file) = archive.file().filter(|_| pieces.len() >= WORTH) else {
        return Ok(Times::default());
    };
    let pid = foreseen.pid;
    let mut times = Times::default();
    let mut spouts = match Spouts::open(twins, foreseen.window) {
        Ok(spouts) => spouts,
        Err(Dry::Inject(error @ (InjectError::Ended | InjectError::Stuck(_)))) => return Err(failed(pid, error)),
        Err(dry) => {
            log.info(format_args!("pid {pid}: its memory is read, not poured: {dry}"));
            return Ok(times);
        }
    };
    // The first one goes alone.
    let mut until = 1;
    let mut from = 0;
    while from < pieces.len() {
        let under_way = spouts.begin(&pieces, from..until).map_err(|error| failed(pid, error))?;
        let mut whole = true;
        for (nth, piece) in (from..until).zip(&pieces[from..until]) {
            watch.check()?;
            let to = (file, archive.position(parts[piece.part].slab, piece.offset));
            if !spouts.empty(nth, to, &under_way, (pid, archive, watch), &mut times)? {
                whole = false;
                break;
            }
        }
        let refused = spouts.end(under_way).map_err(|error| failed(pid, error))?;
        match refused {
            None if whole => {}
            // Nothing was let go of yet.
            refused if from == 0 => {
                let dry = refused.map_or(Dry::File, Dry::Pipe);
                log.info(format_args!("pid {pid}: its memory is read, not poured: {dry}"));
                return Ok(times);
            }
            // What followed it in the pipe is not what it is taken for.
            refused => return Err(Error::capture(pid, "memory", refused.unwrap_or(Errno::EFAULT))),
        }
        for piece in &pieces[from..until] {
            let part = &mut parts[piece.part];
            let end = piece.offset + PIECE;
            match part.poured.last_mut() {
                Some(before) if before.end == piece.offset && piece.address != piece.start => before.end = end,
                _ => part.poured.push(piece.offset..end),
            }
        }
        (from, until) = (until, pieces.len().min(until + MOST));
    }
    log.info(format_args!("pid {pid}: poured {} MiB of its memory", pieces.len()));
    Ok(times)
}

/// The memory that is poured as far as it is there, in ascending order: what the copy may read, without what changes meanwhile.
fn poured(foreseen: &Foreseen, twins: &Twins<'_>) -> Vec<Range<u64>> {
    let mut unsettled: Vec<_> = twins.unsettled(foreseen.window).collect();
    unsettled.sort_unstable_by_key(|range| range.start);
    foreseen
        .readable()
        .flat_map(|range| without(range.clone(), &unsettled))
        .collect()
}

/// What is left of a range without these, which are in ascending order.
fn without(range: Range<u64>, holes: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    let mut start = range.start;
    for hole in holes
        .iter()
        .filter(|hole| hole.start < range.end && hole.end > range.start)
    {
        left.push(start..hole.start.max(start));
        start = start.max(hole.end);
    }
    left.push(start..range.end.max(start));
    left.retain(|range| !range.is_empty());
    left
}

/// The pieces of all large runs of a process, as far as they are in these ranges, in the order of the files.
fn pieces(parts: &[Part<'_>], window: i32, poured: &[Range<u64>]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (part, of) in parts.iter().enumerate() {
        let mut offset = 0;
        for run in &of.file.runs {
            let is_poured = run.window == window && !run.early && run.bytes() >= LARGE;
            for range in poured.iter().filter(|_| is_poured) {
                let (start, end) = (run.range.start.max(range.start), run.range.end.min(range.end));
                let count = end.saturating_sub(start) / PIECE;
                pieces.extend((0..count).map(|nth| Piece {
                    address: start + nth * PIECE,
                    start,
                    part,
                    offset: offset + (start - run.range.start) + nth * PIECE,
                }));
            }
            offset += run.bytes();
        }
    }
    pieces
}

/// What can be let go of when the nth piece is in its pipe: what lies before the one that may be in the other pipe, from where it was
/// let go of before, in the same run. Whole huge pages.
fn let_go(pieces: &[Piece], nth: usize) -> Option<(u64, u64)> {
    let until = |nth: usize| {
        let held = pieces[nth.checked_sub(1)?];
        Some((held.start, (held.address / LET_GO * LET_GO).max(held.start)))
    };
    let (start, end) = until(nth)?;
    // Before it was let go as far as that, in this run or another one.
    let begin = until(nth - 1)
        .filter(|(of, _)| *of == start)
        .map_or(start, |(_, end)| end);
    (begin < end).then(|| (begin, end - begin))
}

/// Why nothing is poured.
#[derive(Debug, thiserror::Error)]
enum Dry {
    #[error("{0}")]
    Inject(#[from] InjectError),
    #[error("it goes through no list of calls by itself")]
    Led,
    #[error("it can have no pipe that holds {PIECE} bytes, or hand none of its memory over: {0}")]
    Pipe(Errno),
    #[error("the file system of the archive takes nothing from a pipe")]
    File,
}

/// A pipe between a copy and this process.
struct Pipe {
    /// The number of the end that the copy writes to.
    writes: i32,
    /// What comes out here.
    read: OwnedFd,
}

/// Two pipes out of a copy, and what it is led by.
struct Spouts {
    injection: Injection,
    area: Option<Area>,
    pipes: Vec<Pipe>,
    /// Which calls of the list hand pieces over.
    handed: Vec<usize>,
}

impl Spouts {
    /// Has the copy make them.
    fn open(twins: &Twins<'_>, window: i32) -> Result<Self, Dry> {
        let (mut injection, copy) = twins.lead(window)?;
        let area = Area::map(&mut injection)?.ok();
        let mut spouts = Self {
            injection,
            area,
            pipes: Vec::new(),
            handed: Vec::new(),
        };
        let Some(area) = spouts.area.as_mut().filter(|area| area.runs()) else {
            return Err(Dry::Led);
        };
        let flags = libc::O_CLOEXEC as u64;
        let calls = vec![Call::answering(libc::SYS_pipe2, [0, flags, 0, 0, 0, 0], 0); 2];
        let under_way = spouts.injection.begin(Some(&mut *area), calls, &[])?;
        let answers = spouts.injection.end(Some(area), under_way)?;
        let process = ProcessId::of(copy).and_then(PidFd::open);
        let process = process.map_err(|_| InjectError::Ended)?;
        for answer in answers {
            // Two numbers: that of the end to read from, and the other one.
            let [read, writes] = [answer.words[0] as i32, (answer.words[0] >> 32) as i32];
            answer.result.map_err(Dry::Pipe)?;
            let unseen = |error: io::Error| Dry::Pipe(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
            let read = descriptor::copy(&process, read).map_err(unseen)?;
            let size = fcntl(&read, FcntlArg::F_SETPIPE_SZ(PIECE as i32)).map_err(Dry::Pipe)?;
            if size != PIECE as i32 {
                return Err(Dry::Pipe(Errno::EOVERFLOW));
            }
            spouts.pipes.push(Pipe { writes, read });
        }
        Ok(spouts)
    }

    fn area(&mut self) -> &mut Area {
        self.area.as_mut().expect("it has one until it is dropped")
    }

    /// Has the copy hand these pieces over.
    fn begin(&mut self, pieces: &[Piece], which: Range<usize>) -> Result<UnderWay, InjectError> {
        let mut calls = Vec::new();
        self.handed.clear();
        for nth in which {
            let writes = self.pipes[nth % 2].writes as u64;
            let piece = [pieces[nth].address, PIECE];
            self.handed.push(calls.len());
            calls.push(Call::given(libc::SYS_vmsplice, [writes, 0, 1, 0, 0, 0], 1, piece));
            if let Some((start, length)) = let_go(pieces, nth) {
                let advice = libc::MADV_DONTNEED as u64;
                calls.push(Call::new(libc::SYS_madvise, [start, length, advice, 0, 0, 0]));
            }
        }
        let area = self.area.as_mut();
        self.injection.begin(area, calls, &[])
    }

    /// Moves the nth piece out of its pipe to a place of the file; whether all of it came, and the first one was taken.
    fn empty(
        &mut self,
        nth: usize,
        (file, mut to): (&File, u64),
        under_way: &UnderWay,
        (pid, archive, watch): (i32, &Archive, &Watch<'_>),
        times: &mut Times,
    ) -> Result<bool, Error> {
        let mut left = PIECE as usize;
        let mut no_more = false;
        while left > 0 {
            let started = Instant::now();
            let read = &self.pipes[nth % 2].read;
            let mut place = to.cast_signed();
            let moved = splice(
                read,
                None,
                file,
                Some(&mut place),
                left,
                SpliceFFlags::SPLICE_F_NONBLOCK,
            );
            times.writing += started.elapsed();
            match moved {
                Ok(0) => return Err(Error::Ended { pid }),
                Ok(bytes) => {
                    left -= bytes;
                    to += bytes as u64;
                }
                Err(Errno::EAGAIN) if no_more => return Ok(false),
                Err(Errno::EAGAIN) => {
                    let started = Instant::now();
                    let ready = poll(
                        &mut [PollFd::new(read.as_fd(), PollFlags::POLLIN)],
                        PollTimeout::from(EMPTY),
                    );
                    times.reading += started.elapsed();
                    if ready == Ok(0) {
                        watch.check()?;
                        no_more = Injection::is_through(self.area(), under_way).map_err(|error| failed(pid, error))?;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EINVAL) if nth == 0 && left == PIECE as usize => return Ok(false),
                Err(errno) => return Err(archive.not_written(errno.into())),
            }
        }
        Ok(true)
    }

    /// Waits for the end of a list; why a piece was not taken whole.
    fn end(&mut self, under_way: UnderWay) -> Result<Option<Errno>, InjectError> {
        let answers = self.injection.end(self.area.as_mut(), under_way)?;
        let refused = self.handed.iter().find_map(|nth| match answers[*nth].result {
            Ok(PIECE) => None,
            Ok(_) => Some(Errno::EFAULT),
            Err(errno) => Some(errno),
        });
        Ok(refused)
    }
}

impl Drop for Spouts {
    fn drop(&mut self) {
        if let Some(area) = self.area.take() {
            // The copy goes soon, with whatever it has.
            let _ = area.unmap(&mut self.injection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{
        archive::Slab,
        pages::{PagesFile, Run},
    };

    fn run(window: i32, range: Range<u64>) -> Run {
        Run {
            pid: window,
            window,
            range,
            early: false,
        }
    }

    fn file(runs: Vec<Run>) -> PagesFile {
        PagesFile {
            name: String::new(),
            shared: false,
            runs,
            view: None,
        }
    }

    fn parts(files: &[PagesFile]) -> Vec<Part<'_>> {
        let part = |file| Part {
            file,
            slab: Slab::at(0),
            poured: Vec::new(),
        };
        files.iter().map(part).collect()
    }

    const BASE: u64 = 0x7f00_0000_3000;

    #[test]
    fn pieces_are_what_is_large_and_readable() {
        let early = Run {
            early: true,
            ..run(1, BASE..BASE + LARGE)
        };
        let files = [
            file(vec![run(2, BASE..BASE + LARGE)]),
            file(vec![
                early,
                run(1, BASE + LARGE..BASE + LARGE + PIECE),
                run(1, BASE + 2 * LARGE..BASE + 4 * LARGE),
            ]),
        ];
        // It begins in the middle of a run, and ends in the middle of a piece of it.
        let poured = [BASE..BASE + LARGE, BASE + 2 * LARGE + 4096..BASE + 3 * LARGE];
        let found = pieces(&parts(&files), 1, &poured);
        let start = BASE + 2 * LARGE + 4096;
        let expected = (0..LARGE / PIECE - 1).map(|nth| Piece {
            address: start + nth * PIECE,
            start,
            part: 1,
            offset: LARGE + PIECE + 4096 + nth * PIECE,
        });
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_let_go_of_that_a_pipe_may_hold() {
        let far = BASE + (1 << 30);
        let files = [file(vec![
            run(1, BASE..BASE + 9 * PIECE + 4096),
            run(1, far..far + 5 * PIECE),
        ])];
        let pieces = pieces(&parts(&files), 1, std::slice::from_ref(&(BASE..far + 5 * PIECE)));
        assert_eq!(pieces.len(), 14);
        let mut until = BASE;
        for nth in 0..pieces.len() {
            let Some((start, length)) = let_go(&pieces, nth) else {
                continue;
            };
            let held = pieces[nth - 1];
            if start != until {
                assert_eq!(start, far, "the next run");
            }
            until = start + length;
            assert!(until <= held.address && start >= held.start, "{nth}");
            assert_eq!(until % LET_GO, 0);
        }
        assert!(until > far, "{until:#x}");
    }

    #[test]
    fn holes_are_left_out() {
        let holes = [0..2, 4..5, 7..9, 20..21];
        assert_eq!(without(1..8, &holes), [2..4, 5..7]);
        assert_eq!(without(10..20, &holes), [Range { start: 10, end: 20 }]);
        assert_eq!(without(4..5, &holes), []);
    }
}
