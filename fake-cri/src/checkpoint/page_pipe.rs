//! Large memory: from a copy into the archive, copied once.
//!
//! ```text
//!   the copy, by lists of calls                              this thread
//!     vmsplice chunk 0 --> pipe 0 --\
//!     vmsplice chunk 1 --> pipe 1 ---\------- splice --> at the chunk's place in the archive
//!     vmsplice chunk 2 --> pipe 0 ----/       (pipe 0, pipe 1, pipe 0, ...)
//!     madvise  chunk 0   ...
//! ```
//!
//! A pipe that a process hands its own memory holds the pages themselves (vmsplice(2)), and they are copied when they are moved from
//! there into a file (splice(2)). Read by another process they are copied twice before ([`super::pages`]: `/proc/PID/mem` has a page
//! of its own in between), and then written. The kernel lets one writer at a time into a file, so one thread empties the pipes; there are
//! two, so that it finds the next one full. The copy lets each chunk go when it has left its pipe, which it had to do anyway.
//!
//! Measured, two processors, 1 GiB in 4 KiB pages: 190 ms with all of it let go, by reading 250 ms and 22 ms to let go.
//!
//! A chunk has left its pipe when a later one fits into it, since a pipe holds just one. What is let go is no chunk that a pipe may
//! still hold: older kernels would let the original write into it.
//!
//! The pipes are made by the copy, so its original never has them, and go with it. Memory that the copy itself may not read is not
//! taken this way, nor anything where pipes of this size or lists of calls cannot be had; the first chunk goes alone and shows it.

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
    cancel::CancelToken,
    dump::DeferredMm,
    dump_log::DumpLog,
    error::Error,
    pages::{PageTimes, ReservedPages},
    snapshot::{SnapshotSet, snapshot_error},
};
use crate::process::{
    ProcessId, descriptor,
    pidfd::PidFd,
    remote_syscalls::{PendingList, RemoteSyscallError, RemoteSyscalls, Syscall, SyscallBuffer},
};

/// What a pipe holds, which anyone may have it hold (`/proc/sys/fs/pipe-max-size`).
const PIPE_CHUNK_BYTES: u64 = 1 << 20;
/// A run of pages of this size is worth it, in bytes.
const MIN_RUN_BYTES: u64 = 4 << 20;
/// How many chunks are worth it.
const MIN_CHUNKS: usize = 8;
/// How many chunks go in one list, by two calls each.
const MAX_LIST_CHUNKS: usize = 120;
const _: () = assert!(MAX_LIST_CHUNKS * 2 <= SyscallBuffer::CAPACITY);
/// Memory is let go of by as much as a huge page holds, so that none is split.
const DISCARD_ALIGN: u64 = 2 << 20;
/// How long a pipe may be empty before it is looked why, in milliseconds.
const EMPTY_PIPE_POLL_MS: u16 = 10;

/// So much memory at once, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SpliceChunk {
    address: u64,
    /// Where the memory that it is a chunk of begins.
    range_start: u64,
    part: usize,
    /// In the file of the part.
    offset: u64,
}

/// Moves what is large in the memory of a copy into the archive, as far as that can be had, and says in the parts how far.
///
/// # Errors
///
/// A copy that ended, a full disk, the caller or the deadline.
pub(crate) fn splice_pages(
    parts: &mut [ReservedPages<'_>],
    deferred_mm: &DeferredMm,
    snapshots: &SnapshotSet<'_>,
    archive: &Archive,
    cancel: &CancelToken<'_>,
    log: &mut DumpLog,
) -> Result<PageTimes, Error> {
    let chunks = plan_chunks(parts, deferred_mm.proc_tid, &spliceable_ranges(deferred_mm, snapshots));
    let Some(file) = archive.splice_target().filter(|_| chunks.len() >= MIN_CHUNKS) else {
        return Ok(PageTimes::default());
    };
    let pid = deferred_mm.pid;
    let mut times = PageTimes::default();
    let mut page_pipes = match PagePipes::open(snapshots, deferred_mm.proc_tid) {
        Ok(spouts) => spouts,
        Err(SpliceUnavailable::RemoteSyscall(
            error @ (RemoteSyscallError::Exited | RemoteSyscallError::TimedOut(_)),
        )) => return Err(snapshot_error(pid, error)),
        Err(unavailable) => {
            log.info(format_args!(
                "pid {pid}: splice unavailable, copying memory: {unavailable}"
            ));
            return Ok(times);
        }
    };
    // The first one goes alone.
    let mut batch_end = 1;
    let mut batch_start = 0;
    while batch_start < chunks.len() {
        let pending_list = page_pipes
            .begin_vmsplice(&chunks, batch_start..batch_end)
            .map_err(|error| snapshot_error(pid, error))?;
        let mut all_taken = true;
        for (nth, chunk) in (batch_start..batch_end).zip(&chunks[batch_start..batch_end]) {
            cancel.check()?;
            let to = (file, archive.file_offset(parts[chunk.part].reserved, chunk.offset));
            if !page_pipes.drain_into(nth, to, &pending_list, (pid, archive, cancel), &mut times)? {
                all_taken = false;
                break;
            }
        }
        let refused = page_pipes
            .end_vmsplice(pending_list)
            .map_err(|error| snapshot_error(pid, error))?;
        match refused {
            None if all_taken => {}
            // Nothing was let go of yet.
            refused if batch_start == 0 => {
                let unavailable = refused.map_or(SpliceUnavailable::UnsupportedFilesystem, SpliceUnavailable::Pipe);
                log.info(format_args!(
                    "pid {pid}: splice unavailable, copying memory: {unavailable}"
                ));
                return Ok(times);
            }
            // What followed it in the pipe is not what it is taken for.
            refused => return Err(Error::capture(pid, "memory", refused.unwrap_or(Errno::EFAULT))),
        }
        for chunk in &chunks[batch_start..batch_end] {
            let part = &mut parts[chunk.part];
            let end = chunk.offset + PIPE_CHUNK_BYTES;
            match part.spliced.last_mut() {
                Some(before) if before.end == chunk.offset && chunk.address != chunk.range_start => before.end = end,
                _ => part.spliced.push(chunk.offset..end),
            }
        }
        (batch_start, batch_end) = (batch_end, chunks.len().min(batch_end + MAX_LIST_CHUNKS));
    }
    log.info(format_args!("pid {pid}: spliced {} MiB of memory", chunks.len()));
    Ok(times)
}

/// The memory that is spliceable as far as it is there, in ascending order: what the copy may read, without what changes meanwhile.
fn spliceable_ranges(deferred_mm: &DeferredMm, snapshots: &SnapshotSet<'_>) -> Vec<Range<u64>> {
    let mut unsettled: Vec<_> = snapshots.rseq_pages(deferred_mm.proc_tid).collect();
    unsettled.sort_unstable_by_key(|range| range.start);
    deferred_mm
        .readable()
        .flat_map(|range| subtract_ranges(range.clone(), &unsettled))
        .collect()
}

/// What is left of a range without these, which are in ascending order.
fn subtract_ranges(range: Range<u64>, holes: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut remaining = Vec::new();
    let mut start = range.start;
    for hole in holes
        .iter()
        .filter(|hole| hole.start < range.end && hole.end > range.start)
    {
        remaining.push(start..hole.start.max(start));
        start = start.max(hole.end);
    }
    remaining.push(start..range.end.max(start));
    remaining.retain(|range| !range.is_empty());
    remaining
}

/// The chunks of all large runs of a process, as far as they are in these ranges, in the order of the files.
fn plan_chunks(parts: &[ReservedPages<'_>], proc_tid: i32, spliceable: &[Range<u64>]) -> Vec<SpliceChunk> {
    let mut chunks = Vec::new();
    for (part, member) in parts.iter().enumerate() {
        let mut offset = 0;
        for run in &member.file.runs {
            let is_spliceable = run.proc_tid == proc_tid && !run.not_forked && run.bytes() >= MIN_RUN_BYTES;
            for range in spliceable.iter().filter(|_| is_spliceable) {
                let (start, end) = (run.range.start.max(range.start), run.range.end.min(range.end));
                let count = end.saturating_sub(start) / PIPE_CHUNK_BYTES;
                chunks.extend((0..count).map(|nth| SpliceChunk {
                    address: start + nth * PIPE_CHUNK_BYTES,
                    range_start: start,
                    part,
                    offset: offset + (start - run.range.start) + nth * PIPE_CHUNK_BYTES,
                }));
            }
            offset += run.bytes();
        }
    }
    chunks
}

/// What can be let go of when the nth chunk is in its pipe: what lies before the one that may be in the other pipe, from where it was
/// let go of before, in the same run. Whole huge pages.
fn discardable(chunks: &[SpliceChunk], nth: usize) -> Option<(u64, u64)> {
    let until = |nth: usize| {
        let in_pipe = chunks[nth.checked_sub(1)?];
        Some((
            in_pipe.range_start,
            (in_pipe.address / DISCARD_ALIGN * DISCARD_ALIGN).max(in_pipe.range_start),
        ))
    };
    let (start, end) = until(nth)?;
    // Before it was let go as far as that, in this run or another one.
    let begin = until(nth - 1)
        .filter(|(of, _)| *of == start)
        .map_or(start, |(_, end)| end);
    (begin < end).then(|| (begin, end - begin))
}

/// Why nothing is spliceable.
#[derive(Debug, thiserror::Error)]
enum SpliceUnavailable {
    #[error("{0}")]
    RemoteSyscall(#[from] RemoteSyscallError),
    #[error("it goes through no list of calls by itself")]
    NoSyscallStub,
    #[error("it can have no pipe that holds {PIPE_CHUNK_BYTES} bytes, or hand none of its memory over: {0}")]
    Pipe(Errno),
    #[error("the file system of the archive takes nothing from a pipe")]
    UnsupportedFilesystem,
}

/// A pipe between a copy and this process.
struct Pipe {
    /// The number of the end that the copy writes to.
    write_fd: i32,
    /// What comes out here.
    read_end: OwnedFd,
}

/// Two pipes out of a copy, and what it is led by.
struct PagePipes {
    remote: RemoteSyscalls,
    buffer: Option<SyscallBuffer>,
    pipes: Vec<Pipe>,
    /// Which calls of the list hand chunks over.
    vmsplice_indexes: Vec<usize>,
}

impl PagePipes {
    /// Has the copy make them.
    fn open(snapshots: &SnapshotSet<'_>, proc_tid: i32) -> Result<Self, SpliceUnavailable> {
        let (mut remote, snapshot_pid) = snapshots.remote(proc_tid)?;
        let buffer = SyscallBuffer::map(&mut remote)?.ok();
        let mut spouts = Self {
            remote,
            buffer,
            pipes: Vec::new(),
            vmsplice_indexes: Vec::new(),
        };
        let Some(buffer) = spouts.buffer.as_mut().filter(|buffer| buffer.is_executable()) else {
            return Err(SpliceUnavailable::NoSyscallStub);
        };
        let flags = libc::O_CLOEXEC as u64;
        let calls = vec![Syscall::with_output(libc::SYS_pipe2, [0, flags, 0, 0, 0, 0], 0); 2];
        let pending_list = spouts.remote.begin_list(Some(&mut *buffer), calls, &[])?;
        let answers = spouts.remote.finish_list(Some(buffer), pending_list)?;
        let snapshot_pidfd = ProcessId::from_pid(snapshot_pid).and_then(PidFd::open);
        let process = snapshot_pidfd.map_err(|_| RemoteSyscallError::Exited)?;
        for answer in answers {
            // Two numbers: that of the end to read from, and the other one.
            let [read, writes] = [answer.output[0] as i32, (answer.output[0] >> 32) as i32];
            answer.result.map_err(SpliceUnavailable::Pipe)?;
            let not_duplicated =
                |error: io::Error| SpliceUnavailable::Pipe(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
            let read = descriptor::pidfd_getfd(&process, read).map_err(not_duplicated)?;
            let size =
                fcntl(&read, FcntlArg::F_SETPIPE_SZ(PIPE_CHUNK_BYTES as i32)).map_err(SpliceUnavailable::Pipe)?;
            if size != PIPE_CHUNK_BYTES as i32 {
                return Err(SpliceUnavailable::Pipe(Errno::EOVERFLOW));
            }
            spouts.pipes.push(Pipe {
                write_fd: writes,
                read_end: read,
            });
        }
        Ok(spouts)
    }

    fn buffer(&mut self) -> &mut SyscallBuffer {
        self.buffer.as_mut().expect("it has one until it is dropped")
    }

    /// Has the copy hand these chunks over.
    fn begin_vmsplice(
        &mut self,
        chunks: &[SpliceChunk],
        which: Range<usize>,
    ) -> Result<PendingList, RemoteSyscallError> {
        let mut calls = Vec::new();
        self.vmsplice_indexes.clear();
        for nth in which {
            let writes = self.pipes[nth % 2].write_fd as u64;
            let chunk = [chunks[nth].address, PIPE_CHUNK_BYTES];
            self.vmsplice_indexes.push(calls.len());
            calls.push(Syscall::with_input(
                libc::SYS_vmsplice,
                [writes, 0, 1, 0, 0, 0],
                1,
                chunk,
            ));
            if let Some((start, length)) = discardable(chunks, nth) {
                let advice = libc::MADV_DONTNEED as u64;
                calls.push(Syscall::new(libc::SYS_madvise, [start, length, advice, 0, 0, 0]));
            }
        }
        let buffer = self.buffer.as_mut();
        self.remote.begin_list(buffer, calls, &[])
    }

    /// Moves the nth chunk out of its pipe to a place of the file; whether all of it came, and the first one was taken.
    fn drain_into(
        &mut self,
        nth: usize,
        (file, mut to): (&File, u64),
        pending_list: &PendingList,
        (pid, archive, cancel): (i32, &Archive, &CancelToken<'_>),
        times: &mut PageTimes,
    ) -> Result<bool, Error> {
        let mut remaining = PIPE_CHUNK_BYTES as usize;
        let mut list_is_done = false;
        while remaining > 0 {
            let started = Instant::now();
            let read = &self.pipes[nth % 2].read_end;
            let mut file_position = to.cast_signed();
            let result = splice(
                read,
                None,
                file,
                Some(&mut file_position),
                remaining,
                SpliceFFlags::SPLICE_F_NONBLOCK,
            );
            times.write_time += started.elapsed();
            match result {
                Ok(0) => return Err(Error::TaskExited { pid }),
                Ok(bytes) => {
                    remaining -= bytes;
                    to += bytes as u64;
                }
                Err(Errno::EAGAIN) if list_is_done => return Ok(false),
                Err(Errno::EAGAIN) => {
                    let started = Instant::now();
                    let ready = poll(
                        &mut [PollFd::new(read.as_fd(), PollFlags::POLLIN)],
                        PollTimeout::from(EMPTY_PIPE_POLL_MS),
                    );
                    times.read_time += started.elapsed();
                    if ready == Ok(0) {
                        cancel.check()?;
                        list_is_done = RemoteSyscalls::list_is_done(self.buffer(), pending_list)
                            .map_err(|error| snapshot_error(pid, error))?;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EINVAL) if nth == 0 && remaining == PIPE_CHUNK_BYTES as usize => return Ok(false),
                Err(errno) => return Err(archive.write_error(errno.into())),
            }
        }
        Ok(true)
    }

    /// Waits for the end of a list; why a chunk was not taken whole.
    fn end_vmsplice(&mut self, pending_list: PendingList) -> Result<Option<Errno>, RemoteSyscallError> {
        let answers = self.remote.finish_list(self.buffer.as_mut(), pending_list)?;
        let refused = self.vmsplice_indexes.iter().find_map(|nth| match answers[*nth].result {
            Ok(PIPE_CHUNK_BYTES) => None,
            Ok(_) => Some(Errno::EFAULT),
            Err(errno) => Some(errno),
        });
        Ok(refused)
    }
}

impl Drop for PagePipes {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // The copy goes soon, with whatever it has.
            let _ = buffer.unmap(&mut self.remote);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{
        archive::ReservedMember,
        pages::{PageRun, PagesFile},
    };

    fn run(proc_tid: i32, range: Range<u64>) -> PageRun {
        PageRun {
            pid: proc_tid,
            proc_tid,
            range,
            not_forked: false,
        }
    }

    fn file(runs: Vec<PageRun>) -> PagesFile {
        PagesFile {
            name: String::new(),
            shared: false,
            runs,
            mapped_file: None,
        }
    }

    fn parts(files: &[PagesFile]) -> Vec<ReservedPages<'_>> {
        let part = |file| ReservedPages {
            file,
            reserved: ReservedMember::from_offset(0),
            spliced: Vec::new(),
        };
        files.iter().map(part).collect()
    }

    const BASE: u64 = 0x7f00_0000_3000;

    #[test]
    fn chunks_are_large_and_readable() {
        let not_forked_run = PageRun {
            not_forked: true,
            ..run(1, BASE..BASE + MIN_RUN_BYTES)
        };
        let files = [
            file(vec![run(2, BASE..BASE + MIN_RUN_BYTES)]),
            file(vec![
                not_forked_run,
                run(1, BASE + MIN_RUN_BYTES..BASE + MIN_RUN_BYTES + PIPE_CHUNK_BYTES),
                run(1, BASE + 2 * MIN_RUN_BYTES..BASE + 4 * MIN_RUN_BYTES),
            ]),
        ];
        // It begins in the middle of a run, and ends in the middle of a chunk of it.
        let spliceable = [
            BASE..BASE + MIN_RUN_BYTES,
            BASE + 2 * MIN_RUN_BYTES + 4096..BASE + 3 * MIN_RUN_BYTES,
        ];
        let planned = plan_chunks(&parts(&files), 1, &spliceable);
        let start = BASE + 2 * MIN_RUN_BYTES + 4096;
        let expected = (0..MIN_RUN_BYTES / PIPE_CHUNK_BYTES - 1).map(|nth| SpliceChunk {
            address: start + nth * PIPE_CHUNK_BYTES,
            range_start: start,
            part: 1,
            offset: MIN_RUN_BYTES + PIPE_CHUNK_BYTES + 4096 + nth * PIPE_CHUNK_BYTES,
        });
        assert_eq!(planned, expected.collect::<Vec<_>>());
    }

    #[test]
    fn chunks_in_a_pipe_are_not_discarded() {
        let far_run = BASE + (1 << 30);
        let files = [file(vec![
            run(1, BASE..BASE + 9 * PIPE_CHUNK_BYTES + 4096),
            run(1, far_run..far_run + 5 * PIPE_CHUNK_BYTES),
        ])];
        let chunks = plan_chunks(
            &parts(&files),
            1,
            std::slice::from_ref(&(BASE..far_run + 5 * PIPE_CHUNK_BYTES)),
        );
        assert_eq!(chunks.len(), 14);
        let mut until = BASE;
        for nth in 0..chunks.len() {
            let Some((start, length)) = discardable(&chunks, nth) else {
                continue;
            };
            let in_pipe = chunks[nth - 1];
            if start != until {
                assert_eq!(start, far_run, "the next run");
            }
            until = start + length;
            assert!(until <= in_pipe.address && start >= in_pipe.range_start, "{nth}");
            assert_eq!(until % DISCARD_ALIGN, 0);
        }
        assert!(until > far_run, "{until:#x}");
    }

    #[test]
    fn subtract_leaves_out_holes() {
        let holes = [0..2, 4..5, 7..9, 20..21];
        assert_eq!(subtract_ranges(1..8, &holes), [2..4, 5..7]);
        assert_eq!(subtract_ranges(10..20, &holes), [Range { start: 10, end: 20 }]);
        assert_eq!(subtract_ranges(4..5, &holes), []);
    }
}
