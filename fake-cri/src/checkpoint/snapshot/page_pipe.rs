//! Moves large memory from a snapshot into the archive with `vmsplice` and `splice`, which copies each page once.
//!
//! ```text
//!   snapshot, by syscall lists                               this thread
//!     vmsplice chunk 0 --> pipe 0 --\
//!     vmsplice chunk 1 --> pipe 1 ---\------- splice --> at the chunk's offset in the archive
//!     vmsplice chunk 2 --> pipe 0 ----/       (pipe 0, pipe 1, pipe 0, ...)
//!     madvise  chunk 0   ...
//! ```
//!
//! When a process writes its own memory to a pipe with vmsplice(2), the pipe holds the pages themselves. splice(2)
//! copies them once, from the pipe into the file. Memory that another process reads is copied twice before it is
//! written: [`crate::checkpoint::pages`] reads `/proc/PID/mem`, which copies through a page of its own. The kernel lets one writer
//! at a time write to a file, so one thread drains the pipes. There are two pipes, so that this thread finds the next
//! pipe full. The snapshot discards each chunk after the chunk has left its pipe; the memory must be discarded anyway.
//!
//! Measured on two processors with 1 GiB in 4 KiB pages: 190 ms including the discard. Reading takes 250 ms, plus 22 ms
//! for the discard.
//!
//! A pipe holds exactly one chunk, so a chunk has left its pipe when a later chunk fits into this pipe. Never discard a
//! chunk that may still be in a pipe: on older kernels the original could then write to the shared page.
//!
//! The snapshot creates the pipes, so its original never has them, and they disappear with the snapshot. Memory that
//! the snapshot itself may not read is copied instead. All memory is copied if pipes of this size or autonomous syscall
//! lists are not available, or if the archive's filesystem does not support splice. The first chunk is sent alone to
//! find out.

use std::{
    io,
    ops::Range,
    os::fd::{AsFd as _, OwnedFd},
    time::Instant,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{SnapshotSet, snapshot_error};
use crate::{
    checkpoint::{
        archive::ReservedMember,
        archive_writer::ArchiveWriter,
        dump::DeferredMm,
        dump_log::DumpLog,
        error::Error,
        pages::{PageTimes, ReservedPages},
    },
    process::{
        Pid, ProcessId, RemoteFd, Tid,
        pidfd::PidFd,
        remote_syscalls::{PendingList, RemoteSyscallError, RemoteSyscalls, Syscall, SyscallBuffer},
    },
};

/// The pipe capacity. An unprivileged process may set it, as it is the default of `/proc/sys/fs/pipe-max-size`.
const PIPE_CHUNK_BYTES: u64 = 1 << 20;
/// The smallest run of pages that is spliced.
const MIN_RUN_BYTES: u64 = 4 << 20;
/// With fewer chunks than this, memory is copied.
const MIN_CHUNKS: usize = 8;
/// The number of chunks in one syscall list. Each chunk takes up to two system calls.
const MAX_LIST_CHUNKS: usize = 120;
const _: () = assert!(MAX_LIST_CHUNKS * 2 <= SyscallBuffer::CAPACITY);
/// Memory is discarded in units of a huge page, so that no huge page is split.
const DISCARD_ALIGN: u64 = 2 << 20;
/// After a pipe was empty for this time, in milliseconds, the cause is checked.
const EMPTY_PIPE_POLL_MS: u16 = 10;

/// Memory of one pipe's capacity, and its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SpliceChunk {
    address: u64,
    /// The start of the contiguous memory that the chunk is a part of.
    range_start: u64,
    part: usize,
    /// The offset in the pages file of the part.
    offset: u64,
}

/// Splices the large runs of a snapshot's memory into the archive, and records the spliced ranges in `parts`.
///
/// # Errors
///
/// The snapshot exited, the archive cannot be written, the caller cancelled, or the deadline passed.
pub(crate) fn splice_pages(
    parts: &mut [ReservedPages<'_>],
    deferred_mm: &DeferredMm,
    snapshots: &SnapshotSet<'_>,
    writer: &ArchiveWriter<'_>,
    log: &mut DumpLog,
) -> Result<PageTimes, Error> {
    let chunks = plan_chunks(parts, deferred_mm.proc_tid, &spliceable_ranges(deferred_mm, snapshots));
    if chunks.len() < MIN_CHUNKS {
        return Ok(PageTimes::default());
    }
    let pid = deferred_mm.pid;
    let mut times = PageTimes::default();
    let mut page_pipes = match PagePipes::open(snapshots, deferred_mm) {
        Ok(page_pipes) => page_pipes,
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
    // The first chunk is sent alone: a refusal of this chunk loses nothing.
    let mut batch_end = 1;
    let mut batch_start = 0;
    while batch_start < chunks.len() {
        let pending_list = page_pipes
            .begin_vmsplice(&chunks, batch_start..batch_end)
            .map_err(|error| snapshot_error(pid, error))?;
        let mut all_taken = true;
        for (nth, chunk) in (batch_start..batch_end).zip(&chunks[batch_start..batch_end]) {
            writer.cancel.check()?;
            let to = (parts[chunk.part].reserved, chunk.offset);
            if !page_pipes.drain_into(nth, to, &pending_list, writer, &mut times)? {
                all_taken = false;
                break;
            }
        }
        let refused = page_pipes
            .end_vmsplice(pending_list)
            .map_err(|error| snapshot_error(pid, error))?;
        match refused {
            None if all_taken => {}
            // No chunk was discarded yet, so all memory can still be copied.
            refused if batch_start == 0 => {
                let unavailable = refused.map_or(SpliceUnavailable::UnsupportedFilesystem, SpliceUnavailable::Pipe);
                log.info(format_args!(
                    "pid {pid}: splice unavailable, copying memory: {unavailable}"
                ));
                return Ok(times);
            }
            // After a short vmsplice, later chunks in the pipe are not at their expected offsets.
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

/// The ranges that can be spliced, in ascending order: memory that the snapshot may read, without the pages that hold
/// an rseq area, because the kernel changes these pages while the snapshot executes remote syscalls.
fn spliceable_ranges(deferred_mm: &DeferredMm, snapshots: &SnapshotSet<'_>) -> Vec<Range<u64>> {
    let mut rseq_pages: Vec<_> = snapshots.rseq_pages(deferred_mm.proc_tid).collect();
    rseq_pages.sort_unstable_by_key(|range| range.start);
    deferred_mm
        .readable()
        .flat_map(|range| subtract_ranges(range.clone(), &rseq_pages))
        .collect()
}

/// Returns the parts of a range that are outside of `holes`, which are in ascending order.
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

/// Returns the chunks of all large runs of a process within the `spliceable` ranges, in the order of the pages files.
fn plan_chunks(parts: &[ReservedPages<'_>], proc_tid: Tid, spliceable: &[Range<u64>]) -> Vec<SpliceChunk> {
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

/// Returns the address and length that may be discarded once chunk `nth` is in its pipe. Chunk `nth - 1` may still be
/// in the other pipe, so the range ends before that chunk, rounded down to a whole huge page. It begins where the
/// previous discard ended, or at the start of the run.
fn discardable(chunks: &[SpliceChunk], nth: usize) -> Option<(u64, u64)> {
    let until = |nth: usize| {
        let in_pipe = chunks[nth.checked_sub(1)?];
        Some((
            in_pipe.range_start,
            (in_pipe.address / DISCARD_ALIGN * DISCARD_ALIGN).max(in_pipe.range_start),
        ))
    };
    let (start, end) = until(nth)?;
    // The end of the previous discard, if that discard was in the same range.
    let begin = until(nth - 1)
        .filter(|(of, _)| *of == start)
        .map_or(start, |(_, end)| end);
    (begin < end).then(|| (begin, end - begin))
}

/// Why memory cannot be spliced.
#[derive(Debug, thiserror::Error)]
enum SpliceUnavailable {
    #[error("{0}")]
    RemoteSyscall(#[from] RemoteSyscallError),
    #[error("no syscall stub in the snapshot")]
    NoSyscallStub,
    #[error("pipe of {PIPE_CHUNK_BYTES} bytes or vmsplice refused: {0}")]
    Pipe(Errno),
    #[error("the archive's filesystem does not support splice")]
    UnsupportedFilesystem,
}

/// A pipe from a snapshot to this process.
struct Pipe {
    /// The write end, in the snapshot.
    write_fd: RemoteFd,
    /// The read end, in this process.
    read_end: OwnedFd,
}

/// Two pipes from a snapshot, and the remote syscall session that fills them.
struct PagePipes {
    pid: Pid,
    remote: RemoteSyscalls,
    buffer: Option<SyscallBuffer>,
    pipes: Vec<Pipe>,
    /// The indexes of the vmsplice calls in the current syscall list.
    vmsplice_indexes: Vec<usize>,
}

impl PagePipes {
    /// Creates the pipes in the snapshot.
    fn open(snapshots: &SnapshotSet<'_>, deferred_mm: &DeferredMm) -> Result<Self, SpliceUnavailable> {
        let (mut remote, snapshot_pid) = snapshots.remote(deferred_mm.proc_tid)?;
        let buffer = SyscallBuffer::map(&mut remote)?.ok();
        let mut page_pipes = Self {
            pid: deferred_mm.pid,
            remote,
            buffer,
            pipes: Vec::new(),
            vmsplice_indexes: Vec::new(),
        };
        let Some(buffer) = page_pipes.buffer.as_mut().filter(|buffer| buffer.is_executable()) else {
            return Err(SpliceUnavailable::NoSyscallStub);
        };
        let flags = libc::O_CLOEXEC as u64;
        let calls = vec![Syscall::with_output(libc::SYS_pipe2, [0, flags, 0, 0, 0, 0], 0); 2];
        let pending_list = page_pipes.remote.begin_list(Some(&mut *buffer), calls, &[])?;
        let results = page_pipes.remote.finish_list(Some(buffer), pending_list)?;
        let snapshot_pidfd = ProcessId::from_pid(snapshot_pid).and_then(PidFd::open);
        let process = snapshot_pidfd.map_err(|_| RemoteSyscallError::Exited)?;
        for call in results {
            // pipe2 writes two fds: first the read end, then the write end.
            let [read_fd, write_fd] = [call.output[0] as i32, (call.output[0] >> 32) as i32].map(RemoteFd::from_raw);
            call.result.map_err(SpliceUnavailable::Pipe)?;
            let not_duplicated =
                |error: io::Error| SpliceUnavailable::Pipe(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
            let read_end = process.getfd(read_fd).map_err(not_duplicated)?;
            let size =
                fcntl(&read_end, FcntlArg::F_SETPIPE_SZ(PIPE_CHUNK_BYTES as i32)).map_err(SpliceUnavailable::Pipe)?;
            if size != PIPE_CHUNK_BYTES as i32 {
                return Err(SpliceUnavailable::Pipe(Errno::EOVERFLOW));
            }
            page_pipes.pipes.push(Pipe { write_fd, read_end });
        }
        Ok(page_pipes)
    }

    fn buffer(&mut self) -> &mut SyscallBuffer {
        self.buffer.as_mut().expect("the buffer is present until drop")
    }

    /// Starts a syscall list in the snapshot that writes these chunks to the pipes.
    fn begin_vmsplice(
        &mut self,
        chunks: &[SpliceChunk],
        which: Range<usize>,
    ) -> Result<PendingList, RemoteSyscallError> {
        let mut calls = Vec::new();
        self.vmsplice_indexes.clear();
        for nth in which {
            let write_fd = self.pipes[nth % 2].write_fd.as_raw() as u64;
            let chunk = [chunks[nth].address, PIPE_CHUNK_BYTES];
            self.vmsplice_indexes.push(calls.len());
            calls.push(Syscall::with_input(
                libc::SYS_vmsplice,
                [write_fd, 0, 1, 0, 0, 0],
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

    /// Moves chunk `nth` from its pipe into the archive. Returns false if the chunk did not arrive in full, or if the
    /// filesystem refuses to splice the first chunk.
    fn drain_into(
        &mut self,
        nth: usize,
        (reserved, mut offset): (ReservedMember, u64),
        pending_list: &PendingList,
        writer: &ArchiveWriter<'_>,
        times: &mut PageTimes,
    ) -> Result<bool, Error> {
        let mut remaining = PIPE_CHUNK_BYTES as usize;
        let mut list_is_done = false;
        while remaining > 0 {
            let started = Instant::now();
            let read = &self.pipes[nth % 2].read_end;
            let result = writer.archive.splice_from(read.as_fd(), reserved, offset, remaining);
            times.write_time += started.elapsed();
            match result {
                Ok(0) => return Err(Error::TaskExited { pid: self.pid }),
                Ok(bytes) => {
                    remaining -= bytes;
                    offset += bytes as u64;
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
                        writer.cancel.check()?;
                        list_is_done = RemoteSyscalls::list_is_done(self.buffer(), pending_list)
                            .map_err(|error| snapshot_error(self.pid, error))?;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EINVAL) if nth == 0 && remaining == PIPE_CHUNK_BYTES as usize => return Ok(false),
                Err(errno) => return Err(writer.archive.write_error(errno.into())),
            }
        }
        Ok(true)
    }

    /// Waits for the end of a syscall list. Returns the error of the first vmsplice that was refused or short.
    fn end_vmsplice(&mut self, pending_list: PendingList) -> Result<Option<Errno>, RemoteSyscallError> {
        let results = self.remote.finish_list(self.buffer.as_mut(), pending_list)?;
        let refused = self.vmsplice_indexes.iter().find_map(|nth| match results[*nth].result {
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
            // The snapshot is killed soon, and its mappings disappear with it.
            let _ = buffer.unmap(&mut self.remote);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::pages::{PageRun, PagesFile};

    fn run(pid: i32, range: Range<u64>) -> PageRun {
        PageRun {
            pid: Pid::from_raw(pid),
            proc_tid: Tid::from_raw(pid),
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
        // The second range begins in the middle of a run and ends in the middle of a chunk.
        let spliceable = [
            BASE..BASE + MIN_RUN_BYTES,
            BASE + 2 * MIN_RUN_BYTES + 4096..BASE + 3 * MIN_RUN_BYTES,
        ];
        let planned = plan_chunks(&parts(&files), Tid::from_raw(1), &spliceable);
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
            Tid::from_raw(1),
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
