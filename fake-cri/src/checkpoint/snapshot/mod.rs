//! Snapshots: stopped copy-on-write children of the container's processes, which are dumped instead of the originals.
//!
//! ```text
//!   original (stopped) --clone--> snapshot, traced from its start: closes its fds, unmaps shared memory
//!        |                              |
//!     keeps running                  is read or spliced, discards dumped memory, never runs
//!        |                              |
//!        |                           is killed, and reaped by the tracer
//!        |
//!   is stopped again briefly, if the snapshot is its child: wait4(snapshot)
//!        |
//!     keeps running
//! ```
//!
//! A snapshot is a child as fork(2) makes it: it holds all memory as it was at the fork, and costs a page only where
//! the original writes afterwards. If the original is a child of this process, `CLONE_PARENT` makes the snapshot a
//! child of this process too, and the tracer reaps it. Otherwise the snapshot is a child of its original. It has no
//! exit signal: no wait call without `__WALL` or `__WCLONE` sees the snapshot, and no SIGCHLD is sent. Only the
//! original can reap it, hence the second stop. [`fork`] makes the snapshots.
//!
//! Memory that fork does not preserve (shared memory, `MADV_DONTFORK`, `MADV_WIPEONFORK`, hugetlbfs pages) is read from
//! the original before the original resumes, see [`PageRun::not_forked`](super::pages::PageRun::not_forked). Private memory of this kind is
//! kept in memory until it is written.
//!
//! A process that looks closely can still notice: a pid that is in use for a while and appears in `/proc`, and system
//! calls that a stop interrupts (`epoll_wait`). An original whose snapshot is its own child may also see the snapshot's
//! CPU time and peak memory in `RUSAGE_CHILDREN`, and the second stop. If such an original calls exec during the dump,
//! it receives a SIGCHLD for the end of the snapshot: after an exec of the parent, the kernel sends SIGCHLD in place of
//! the child's exit signal. If the original exits during the dump, the process that inherits its children receives the
//! SIGCHLD.
//!
//! `PTRACE_O_EXITKILL` kills a snapshot when the tracer exits.

mod dump;
mod fork;
mod page_pipe;
mod plan;
mod prescan;
mod resources;
mod stopped_thread;

use std::{
    ops::Range,
    slice, thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
};

pub(super) use self::{
    dump::dump,
    fork::{ForkOutcome, SnapshotBuilder},
    plan::{SnapshotPlan, SnapshotRefused, plan},
    prescan::Prescan,
};
use super::{Host, dump_log::DumpLog, error::Error, pages::PageRun};
use crate::process::{
    NsPid, Pid, ProcessId, Tid,
    memory::ProcMem,
    pagemap::PAGE_SIZE,
    proc_files,
    ptrace::{self, WaitEvent},
    remote_syscalls::{RemoteSyscallError, RemoteSyscalls, SyscallBuffer, SyscallInsn},
};

/// How long to wait for the exit of a killed snapshot: the kernel frees all of its page tables first.
const EXIT_TIMEOUT: Duration = Duration::from_secs(60);
/// The stack size of the thread that makes an original reap its snapshot.
const REAPER_STACK_BYTES: usize = 128 << 10;
/// The size of one discard, small enough for the timeout of a remote syscall.
const DISCARD_CHUNK_BYTES: u64 = 1 << 30;

/// Whether memory and state are read from the frozen processes or from their snapshots.
#[derive(Clone, Copy)]
pub(crate) enum MemorySource<'a> {
    /// The frozen processes, with all pages.
    Originals,
    /// The snapshots, with the pages that fork preserves.
    Snapshots(&'a SnapshotSet<'a>),
}

impl MemorySource<'_> {
    /// The thread through which pages are read; `None` if the source does not have them.
    pub(crate) fn source_tid(self, run: &PageRun) -> Option<Tid> {
        match self {
            Self::Originals => Some(run.proc_tid),
            Self::Snapshots(_) if run.not_forked => None,
            Self::Snapshots(snapshots) => snapshots.pid_of(run.proc_tid).map(Pid::main_thread),
        }
    }
}

/// A snapshot and its original.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) original: ProcessId,
    /// The thread that made the snapshot, and that identifies the original in `/proc`.
    pub(super) proc_tid: Tid,
    pub(super) syscall_insn: SyscallInsn,
    /// The snapshot's pid in this namespace; `ns_pid` is its pid in the original's namespace.
    pub(super) pid: Pid,
    pub(super) ns_pid: Option<NsPid>,
    /// The contents of the rseq areas of the original's threads before the first remote syscall.
    pub(super) saved_rseqs: Vec<SavedRseq>,
    /// The syscall buffer that the snapshot inherited from its original.
    pub(super) buffer: Option<SyscallBuffer>,
}

/// Snapshots of processes of the container. Drop kills and reaps them.
pub(crate) struct SnapshotSet<'a> {
    host: &'a dyn Host,
    freeze_timeout: Duration,
    snapshots: Vec<Snapshot>,
    /// Whether the originals are still stopped.
    originals_stopped: bool,
}

impl<'a> SnapshotSet<'a> {
    /// Makes an empty set. An original that runs again must stop within `bound` to reap its snapshot.
    pub(super) fn new(host: &'a dyn Host, bound: Duration) -> Self {
        Self {
            host,
            freeze_timeout: bound,
            snapshots: Vec::new(),
            originals_stopped: true,
        }
    }

    pub(super) fn register(&mut self, snapshot: Snapshot) -> &mut Snapshot {
        self.snapshots.push(snapshot);
        self.snapshots.last_mut().expect("just pushed")
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Snapshot> {
        self.snapshots.iter_mut()
    }

    /// The pid of the snapshot of the process that `proc_tid` belongs to.
    pub(crate) fn pid_of(&self, proc_tid: Tid) -> Option<Pid> {
        let snapshot = self.snapshots.iter().find(|snapshot| snapshot.proc_tid == proc_tid)?;
        Some(snapshot.pid)
    }

    /// The syscall buffer of this snapshot.
    pub(crate) fn buffer(&self, snapshot_pid: Pid) -> Option<SyscallBuffer> {
        let snapshot = self.snapshots.iter().find(|snapshot| snapshot.pid == snapshot_pid)?;
        snapshot.buffer.as_ref().map(|buffer| buffer.in_child(snapshot_pid))
    }

    /// Writes the saved rseq areas into the snapshot of this process, so that its memory equals the original's at the
    /// fork. The snapshot must not execute remote syscalls afterwards.
    pub(crate) fn restore_rseq(&self, proc_tid: Tid) {
        if let Some(snapshot) = self.snapshots.iter().find(|snapshot| snapshot.proc_tid == proc_tid) {
            let mut memory = ProcMem::new(snapshot.pid.main_thread());
            for saved_rseq in &snapshot.saved_rseqs {
                saved_rseq.write_to(&mut memory);
            }
        }
    }

    /// Makes the snapshot of this process discard memory that was dumped. The memory must be freed at some point, and
    /// here no other process walks through the page tables. Only chunks that contain `present` pages are discarded,
    /// because a program may have mapped terabytes and touched none of them. Failures are ignored.
    pub(crate) fn discard<'r>(
        &self,
        proc_tid: Tid,
        ranges: impl Iterator<Item = &'r Range<u64>>,
        present: impl Iterator<Item = &'r Range<u64>>,
    ) {
        let mut chunks = chunks_with_pages(ranges, present).into_iter().peekable();
        if chunks.peek().is_none() {
            return;
        }
        if let Ok((mut remote, _)) = self.remote(proc_tid) {
            let advice = libc::MADV_DONTNEED as u64;
            // Memory that is not discarded here is freed when the snapshot exits.
            let discard = |(start, length)| remote.call(libc::SYS_madvise, [start, length, advice, 0, 0, 0]).is_ok();
            chunks.all(discard);
        }
    }

    /// The pages that change while the snapshot executes remote syscalls. [`Self::restore_rseq`] restores them.
    pub(super) fn rseq_pages(&self, proc_tid: Tid) -> impl Iterator<Item = Range<u64>> {
        let snapshot = self.snapshots.iter().find(|snapshot| snapshot.proc_tid == proc_tid);
        let saved_rseqs = snapshot.into_iter().flat_map(|snapshot| &snapshot.saved_rseqs);
        saved_rseqs.map(|saved_rseq| {
            let end = saved_rseq.address + saved_rseq.bytes.len() as u64;
            saved_rseq.address / PAGE_SIZE * PAGE_SIZE..end.next_multiple_of(PAGE_SIZE)
        })
    }

    /// Attaches to the snapshot of this process for remote syscalls. Also returns the pid of the snapshot.
    ///
    /// # Errors
    ///
    /// The snapshot exited or cannot execute remote syscalls.
    pub(super) fn remote(&self, proc_tid: Tid) -> Result<(RemoteSyscalls, Pid), RemoteSyscallError> {
        let snapshot = self.snapshots.iter().find(|snapshot| snapshot.proc_tid == proc_tid);
        let snapshot = snapshot.ok_or(RemoteSyscallError::Exited)?;
        let tid = snapshot.pid.main_thread();
        let remote = RemoteSyscalls::attach(tid, snapshot.syscall_insn, libc::PTRACE_O_EXITKILL)?;
        Ok((remote, snapshot.pid))
    }

    pub(crate) fn set_originals_running(&mut self) {
        self.originals_stopped = false;
    }

    /// Kills and reaps the snapshots. Returns how long originals were stopped to reap them.
    pub(crate) fn finish(mut self, log: &mut DumpLog) -> Duration {
        let (stopped_for, unreaped) = self.kill_and_reap();
        for snapshot_pid in unreaped {
            log.info(format_args!(
                "process {snapshot_pid}, a killed snapshot, remains a zombie until its parent exits"
            ));
        }
        stopped_for
    }

    /// Kills and reaps the snapshots. Returns how long originals were stopped, and the pids that remain zombies.
    fn kill_and_reap(&mut self) -> (Duration, Vec<Pid>) {
        let snapshots = std::mem::take(&mut self.snapshots);
        for snapshot in &snapshots {
            // The snapshot is traced and not yet reaped, so the pid cannot have been reused.
            let _ = kill(snapshot.pid.into(), Signal::SIGKILL);
        }
        let mut stopped_for = Duration::ZERO;
        let mut unreaped = Vec::new();
        for snapshot in snapshots {
            wait_exit(snapshot.pid, EXIT_TIMEOUT);
            if !is_child(snapshot.pid, snapshot.original.pid) {
                continue;
            }
            let started = Instant::now();
            let reaped = match self.originals_stopped {
                true => reap(&snapshot, snapshot.proc_tid, snapshot.syscall_insn).is_ok(),
                false => self.stop_and_reap(&snapshot),
            };
            stopped_for += started.elapsed();
            if !reaped && is_child(snapshot.pid, snapshot.original.pid) {
                unreaped.push(snapshot.pid);
            }
        }
        self.publish();
        (stopped_for, unreaped)
    }

    /// Passes the pids of all snapshots to the host.
    pub(super) fn publish(&self) {
        let snapshot_pids: Vec<Pid> = self.snapshots.iter().map(|snapshot| snapshot.pid).collect();
        self.host.on_snapshots(&snapshot_pids);
    }

    /// Stops a thread of the original and makes it reap the snapshot. The tracer is a separate thread, because only the
    /// end of a tracer withdraws the interrupt of a thread that did not stop in time.
    fn stop_and_reap(&self, snapshot: &Snapshot) -> bool {
        let stop_deadline = Instant::now() + self.freeze_timeout;
        let reap_in_original = || {
            let mut threads = proc_files::threads(snapshot.original.pid).unwrap_or_default();
            threads.sort_by_key(|tid| *tid != snapshot.proc_tid);
            threads.into_iter().any(|tid| {
                let remaining = stop_deadline.saturating_duration_since(Instant::now());
                let Some(stopped) = stopped_thread::stop_thread(self.host, snapshot.original, tid, remaining) else {
                    return false;
                };
                // The process may have called exec meanwhile, and its syscall instructions may be elsewhere.
                SyscallInsn::find(stopped.tid())
                    .is_ok_and(|syscall_insn| reap(snapshot, stopped.tid(), syscall_insn).is_ok())
            })
        };
        thread::scope(|scope| {
            let builder = thread::Builder::new()
                .name("reap".to_owned())
                .stack_size(REAPER_STACK_BYTES);
            let reaper = builder.spawn_scoped(scope, reap_in_original);
            reaper.is_ok_and(|reaper| reaper.join().unwrap_or(false))
        })
    }
}

impl Drop for SnapshotSet<'_> {
    fn drop(&mut self) {
        self.kill_and_reap();
    }
}

/// Converts the failure of a snapshot's remote syscall.
pub(super) fn snapshot_error(pid: Pid, error: RemoteSyscallError) -> Error {
    match error {
        RemoteSyscallError::Exited => Error::TaskExited { pid },
        error => Error::capture(pid, "the snapshot", std::io::Error::other(error)),
    }
}

/// The bytes of a thread's rseq (restartable sequences) area. The kernel writes the current CPU number there when a
/// thread executes remote syscalls, and in the snapshot of the first thread. The saved bytes are written into the
/// snapshot. The originals keep the kernel's value, because after the thaw it must name the CPU that they run on.
#[derive(Debug)]
pub(super) struct SavedRseq {
    address: u64,
    bytes: Vec<u8>,
}

impl SavedRseq {
    /// Saves the areas of the threads of one process, before their first remote syscall.
    pub(super) fn save_all(threads: &[Tid]) -> nix::Result<Vec<Self>> {
        let mut memory = threads.first().map(|tid| ProcMem::new(*tid));
        let mut saved_rseqs = Vec::new();
        for tid in threads {
            let (Some(area), Some(memory)) = (ptrace::rseq(*tid)?, &mut memory) else {
                continue;
            };
            let mut bytes = vec![0; area.size as usize];
            let range = area.pointer..area.pointer + bytes.len() as u64;
            let read = memory.read(slice::from_ref(&range), &mut bytes, |_| {});
            read.map_err(|_| Errno::ESRCH)?;
            saved_rseqs.push(Self {
                address: area.pointer,
                bytes,
            });
        }
        Ok(saved_rseqs)
    }

    fn write_to(&self, memory: &mut ProcMem) {
        // If the write fails, a restore finds another CPU number there, which is equally valid.
        let _ = memory.write(self.address, &self.bytes);
    }
}

/// Kills a snapshot that its original can no longer reap.
pub(super) fn kill_and_wait(snapshot_pid: Pid) {
    // The snapshot is traced and not yet reaped, so the pid cannot have been reused.
    let _ = kill(snapshot_pid.into(), Signal::SIGKILL);
    wait_exit(snapshot_pid, EXIT_TIMEOUT);
}

/// Waits until a killed snapshot has exited, and collects its exit, which the kernel reports to the tracer first.
fn wait_exit(snapshot_pid: Pid, bound: Duration) {
    let started = Instant::now();
    loop {
        match ptrace::poll(snapshot_pid.main_thread()) {
            Ok(Some(WaitEvent::Exited(_) | WaitEvent::Vanished)) | Err(_) => return,
            // `Some`: a stop from before the kill.
            Ok(Some(_) | None) if started.elapsed() > bound => return,
            Ok(Some(_) | None) => thread::sleep(Duration::from_micros(50)),
        }
    }
}

/// The pid of a new snapshot in its own pid namespace; 0 if the snapshot is gone.
fn ns_pid_of(snapshot_pid: Pid) -> NsPid {
    let ns_pids = proc_files::status(snapshot_pid.main_thread())
        .ok()
        .and_then(|status| status.nspid);
    let innermost = ns_pids.and_then(|numbers| numbers.last().copied());
    NsPid::from_raw(innermost.map_or(0, i32::cast_unsigned))
}

fn is_child(pid: Pid, parent: Pid) -> bool {
    proc_files::stat(pid.main_thread()).is_ok_and(|stat| stat.ppid == parent.as_raw())
}

/// Makes a stopped thread of the original wait for the exited snapshot.
fn reap(snapshot: &Snapshot, tid: Tid, syscall_insn: SyscallInsn) -> Result<(), RemoteSyscallError> {
    let ns_pid = snapshot.ns_pid.unwrap_or_else(|| ns_pid_of(snapshot.pid));
    let ns_pid = u64::from(ns_pid);
    let mut remote = RemoteSyscalls::attach(tid, syscall_insn, 0)?;
    let all = libc::__WALL as u64;
    // With null pointers for status and rusage, the kernel writes nothing to the original's memory.
    let waited = remote.call(libc::SYS_wait4, [ns_pid, 0, all | libc::WNOHANG as u64, 0, 0, 0])?;
    remote.finish()?;
    match waited {
        Ok(pid) if pid == ns_pid => Ok(()),
        Ok(_) => Err(RemoteSyscallError::Kernel("wait4", Errno::EAGAIN)),
        Err(errno) => Err(RemoteSyscallError::Kernel("wait4", errno)),
    }
}

/// Returns address and length of the chunks of `ranges` that contain `present` pages. Both are in ascending order.
fn chunks_with_pages<'r>(
    ranges: impl Iterator<Item = &'r Range<u64>>,
    present: impl Iterator<Item = &'r Range<u64>>,
) -> Vec<(u64, u64)> {
    let mut present = present.peekable();
    let mut chunks = Vec::new();
    for range in ranges {
        let mut address = range.start;
        while address < range.end {
            while present.next_if(|pages| pages.end <= address).is_some() {}
            let Some(first) = present
                .peek()
                .map(|pages| pages.start)
                .filter(|first| *first < range.end)
            else {
                break;
            };
            // Skip to the chunk that contains the next page.
            address += first.saturating_sub(address) / DISCARD_CHUNK_BYTES * DISCARD_CHUNK_BYTES;
            chunks.push((address, DISCARD_CHUNK_BYTES.min(range.end - address)));
            address = address.saturating_add(DISCARD_CHUNK_BYTES);
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chunks_with_pages_are_discarded() {
        let page = |start: u64| start..start + 4096;
        let large = 0..1 << 46;
        let present = [
            page(0),
            page(DISCARD_CHUNK_BYTES - 4096),
            page(5 * DISCARD_CHUNK_BYTES + 4096),
            page((1 << 46) - 4096),
        ];
        let chunks = chunks_with_pages([&large].into_iter(), present.iter());
        assert_eq!(
            chunks,
            [
                (0, DISCARD_CHUNK_BYTES),
                (5 * DISCARD_CHUNK_BYTES, DISCARD_CHUNK_BYTES),
                ((1 << 46) - DISCARD_CHUNK_BYTES, DISCARD_CHUNK_BYTES)
            ]
        );
        // A run of pages over several chunks and two ranges.
        let ranges = [
            10 * DISCARD_CHUNK_BYTES..12 * DISCARD_CHUNK_BYTES + 4096,
            20 * DISCARD_CHUNK_BYTES..21 * DISCARD_CHUNK_BYTES,
        ];
        let present = 11 * DISCARD_CHUNK_BYTES - 4096..20 * DISCARD_CHUNK_BYTES + 4096;
        let chunks = chunks_with_pages(ranges.iter(), std::iter::once(&present));
        assert_eq!(
            chunks,
            [
                (10 * DISCARD_CHUNK_BYTES, DISCARD_CHUNK_BYTES),
                (11 * DISCARD_CHUNK_BYTES, DISCARD_CHUNK_BYTES),
                (12 * DISCARD_CHUNK_BYTES, 4096),
                (20 * DISCARD_CHUNK_BYTES, DISCARD_CHUNK_BYTES)
            ]
        );
        assert_eq!(chunks_with_pages([&large].into_iter(), [].iter()), []);
    }
}
