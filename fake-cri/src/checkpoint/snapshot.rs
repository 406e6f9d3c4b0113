//! Copies of the container's processes, which stand still in their place.
//!
//! ```text
//!   the process stands --clone--> its copy, traced from birth: closes its descriptors, unmaps what is shared
//!        |                              |
//!     runs on                       is read or hands its memory over, lets go of it, never runs
//!        |                              |
//!        |                          is killed, and waited for by the tracer
//!        |
//!   stands again for a moment, if the copy is its child: wait4(copy)
//!        |
//!     runs on
//! ```
//!
//! A copy is what fork(2) makes, so it holds all memory as it was at that moment, and costs a page only where the original
//! writes on. A process that is a child of ours makes it a child of ours too (`CLONE_PARENT`), which we wait for as its tracer. Any
//! other's copy is its own child, whose exit signal is none: no wait call without `__WALL` or `__WCLONE` sees it, and no SIGCHLD
//! tells of it; it alone can take it off the list of processes, hence the second stop. [`super::copying`] makes them.
//!
//! What a fork does not carry (shared memory, `MADV_DONTFORK`, `MADV_WIPEONFORK`, huge pages of hugetlbfs) is read from the
//! original before it runs on: [`super::pages::Run::early`]; private memory of this kind is held in between.
//!
//! What is left to be noticed by one who looks for it: a number that is taken for a while and shows in `/proc`, and calls that a
//! stop interrupts (`epoll_wait`). Of its own child a process may see CPU time and peak of memory in `RUSAGE_CHILDREN`, and the
//! second stop; one that calls exec while it is read is told of its end by a SIGCHLD, as the kernel does where the parent has
//! changed, and where it ends meanwhile, whoever takes over its children is.
//!
//! The tracer's end kills a copy (`PTRACE_O_EXITKILL`).

use std::{
    ops::Range,
    slice, thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Host, dump_log::DumpLog, error::Error, stopped_thread};
use crate::process::{
    ProcessId,
    memory::ProcMem,
    pagemap::PAGE_SIZE,
    proc_files,
    ptrace::{self, WaitEvent},
    remote_syscalls::{RemoteSyscallError, RemoteSyscalls, SyscallBuffer, SyscallInsn},
};

/// The longest that the end of a copy is waited for: all of its page tables go with it.
const EXIT_TIMEOUT: Duration = Duration::from_secs(60);
/// The stack of the thread that has an original wait for its copy.
const REAPER_STACK_BYTES: usize = 128 << 10;
/// How much a copy lets go of at a time, well within the bound of a call.
const DISCARD_CHUNK_BYTES: u64 = 1 << 30;

/// One copy and the process it was made of.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) original: ProcessId,
    /// The thread that made it, through which the original is seen.
    pub(super) proc_tid: i32,
    pub(super) syscall_insn: SyscallInsn,
    /// The copy's number here, and in the original's namespace.
    pub(super) pid: i32,
    pub(super) ns_pid: Option<u64>,
    /// What stood in the areas of restartable sequences of the original's threads.
    pub(super) saved_rseqs: Vec<SavedRseq>,
    /// Memory for answers, which it has from its original.
    pub(super) buffer: Option<SyscallBuffer>,
}

/// Copies of processes of the container. Dropped, they are gone without a trace.
pub(crate) struct SnapshotSet<'a> {
    host: &'a dyn Host,
    freeze_timeout: Duration,
    snapshots: Vec<Snapshot>,
    /// Whether the originals stand still.
    originals_stopped: bool,
}

impl<'a> SnapshotSet<'a> {
    /// None yet, of originals that stand still. An original that runs again has to stand within the bound.
    pub(super) fn new(host: &'a dyn Host, bound: Duration) -> Self {
        Self {
            host,
            freeze_timeout: bound,
            snapshots: Vec::new(),
            originals_stopped: true,
        }
    }

    /// Adds a copy that was made.
    pub(super) fn register(&mut self, snapshot: Snapshot) -> &mut Snapshot {
        self.snapshots.push(snapshot);
        self.snapshots.last_mut().expect("just pushed")
    }

    /// All of them.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Snapshot> {
        self.snapshots.iter_mut()
    }

    /// The copy that holds the memory which this thread sees.
    pub(crate) fn pid_of(&self, proc_tid: i32) -> Option<i32> {
        let snapshot = self.snapshots.iter().find(|snapshot| snapshot.proc_tid == proc_tid)?;
        Some(snapshot.pid)
    }

    /// The memory that this copy has for answers.
    pub(crate) fn buffer(&self, snapshot_pid: i32) -> Option<SyscallBuffer> {
        let snapshot = self.snapshots.iter().find(|snapshot| snapshot.pid == snapshot_pid)?;
        snapshot.buffer.as_ref().map(|buffer| buffer.in_child(snapshot_pid))
    }

    /// The copy that holds the memory which this thread sees makes no calls any more: its memory is as the original's was.
    pub(crate) fn restore_rseq(&self, proc_tid: i32) {
        if let Some(snapshot) = self.snapshots.iter().find(|snapshot| snapshot.proc_tid == proc_tid) {
            let mut memory = ProcMem::new(snapshot.pid);
            for saved_rseq in &snapshot.saved_rseqs {
                saved_rseq.write_to(&mut memory);
            }
        }
    }

    /// Has the copy of the process that this thread sees let go of memory that was read and is not needed any more, as far as that
    /// can be had: it has to be let go anyway, and nobody else walks through its pages then. Of the `ranges` only the chunks that
    /// hold pages are let go: a program may have mapped terabytes and touched none of them.
    pub(crate) fn discard<'r>(
        &self,
        proc_tid: i32,
        ranges: impl Iterator<Item = &'r Range<u64>>,
        present: impl Iterator<Item = &'r Range<u64>>,
    ) {
        let mut chunks = chunks_with_pages(ranges, present).into_iter().peekable();
        if chunks.peek().is_none() {
            return;
        }
        if let Ok((mut remote, _)) = self.remote(proc_tid) {
            let advice = libc::MADV_DONTNEED as u64;
            // What it does not let go of here it does at its end.
            let discard = |(start, length)| remote.call(libc::SYS_madvise, [start, length, advice, 0, 0, 0]).is_ok();
            chunks.all(discard);
        }
    }

    /// The pages that change as that copy makes calls: [`Self::settle`] puts them right again.
    pub(super) fn rseq_pages(&self, proc_tid: i32) -> impl Iterator<Item = Range<u64>> {
        let snapshot = self.snapshots.iter().find(|snapshot| snapshot.proc_tid == proc_tid);
        let saved_rseqs = snapshot.into_iter().flat_map(|snapshot| &snapshot.saved_rseqs);
        saved_rseqs.map(|saved_rseq| {
            let end = saved_rseq.address + saved_rseq.bytes.len() as u64;
            saved_rseq.address / PAGE_SIZE * PAGE_SIZE..end.next_multiple_of(PAGE_SIZE)
        })
    }

    /// The copy that holds the memory which this thread sees, to be told what to call; and its number.
    ///
    /// # Errors
    ///
    /// It cannot be told, or has ended.
    pub(super) fn remote(&self, proc_tid: i32) -> Result<(RemoteSyscalls, i32), RemoteSyscallError> {
        let snapshot = self.snapshots.iter().find(|snapshot| snapshot.proc_tid == proc_tid);
        let snapshot = snapshot.ok_or(RemoteSyscallError::Exited)?;
        let remote = RemoteSyscalls::attach(snapshot.pid, snapshot.syscall_insn, libc::PTRACE_O_EXITKILL)?;
        Ok((remote, snapshot.pid))
    }

    /// The originals run on.
    pub(crate) fn set_originals_running(&mut self) {
        self.originals_stopped = false;
    }

    /// Ends the copies; how long originals stood still for it.
    pub(crate) fn finish(mut self, log: &mut DumpLog) -> Duration {
        let (stopped_for, unreaped) = self.kill_and_reap();
        for snapshot_pid in unreaped {
            log.info(format_args!(
                "process {snapshot_pid}, a killed snapshot, remains a zombie until its parent exits"
            ));
        }
        stopped_for
    }

    /// Kills the copies and takes them off the list of processes; how long that stopped originals, and which are left as zombies.
    fn kill_and_reap(&mut self) -> (Duration, Vec<i32>) {
        let snapshots = std::mem::take(&mut self.snapshots);
        for snapshot in &snapshots {
            // It is traced and not waited for, so the number is still its own.
            let _ = kill(Pid::from_raw(snapshot.pid), Signal::SIGKILL);
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

    /// Tells the host which copies there are.
    pub(super) fn publish(&self) {
        let snapshot_pids: Vec<i32> = self.snapshots.iter().map(|snapshot| snapshot.pid).collect();
        self.host.on_snapshots(&snapshot_pids);
    }

    /// Stops a thread of the original for as long as it waits for its copy. A thread of our own does it, since only with a tracer's
    /// end goes what it asked of a thread that did not come to stand in time.
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
                // It may be another program by now, whose instructions lie elsewhere.
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

/// The failure of a copy to do as it is told.
pub(super) fn snapshot_error(pid: i32, error: RemoteSyscallError) -> Error {
    match error {
        RemoteSyscallError::Exited => Error::TaskExited { pid },
        error => Error::capture(pid, "its copy", std::io::Error::other(error)),
    }
}

/// The bytes of a thread's restartable sequence area. The kernel writes the processor's number there when a thread makes the calls
/// that it is told to, and in the copy of the first one; so what stood there is put into the copy. (Not into the originals: where
/// they run on, it has to be the processor that they are on.)
#[derive(Debug)]
pub(super) struct SavedRseq {
    address: u64,
    bytes: Vec<u8>,
}

impl SavedRseq {
    /// Those of the threads of one process, before they are made to call anything.
    pub(super) fn save_all(threads: &[i32]) -> nix::Result<Vec<Self>> {
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
        // Where it fails, a restore still finds a processor's number there, as good as any other.
        let _ = memory.write(self.address, &self.bytes);
    }
}

/// Ends a copy that its original cannot take off the list of processes any more.
pub(super) fn kill_and_wait(snapshot_pid: i32) {
    // It is traced and not waited for, so the number is still its own.
    let _ = kill(Pid::from_raw(snapshot_pid), Signal::SIGKILL);
    wait_exit(snapshot_pid, EXIT_TIMEOUT);
}

/// Waits until a copy that was killed has ended, and takes its end, which the kernel shows the tracer first.
fn wait_exit(snapshot_pid: i32, bound: Duration) {
    let started = Instant::now();
    loop {
        match ptrace::poll(snapshot_pid) {
            Ok(Some(WaitEvent::Exited(_) | WaitEvent::Vanished)) | Err(_) => return,
            // A stop that it was in when it was killed.
            Ok(Some(_) | None) if started.elapsed() > bound => return,
            Ok(Some(_) | None) => thread::sleep(Duration::from_micros(50)),
        }
    }
}

/// The number of a new copy in its own pid namespace; 0 when it is gone.
fn ns_pid_of(snapshot_pid: i32) -> u64 {
    let ns_pids = proc_files::status(snapshot_pid).ok().and_then(|status| status.nspid);
    let innermost = ns_pids.and_then(|numbers| numbers.last().copied());
    innermost.map_or(0, |number| number.cast_unsigned().into())
}

/// Whether this process is (still) listed as a child of that one.
fn is_child(pid: i32, parent: i32) -> bool {
    proc_files::stat(pid).is_ok_and(|stat| stat.ppid == parent)
}

/// Has a stopped thread wait for the copy, which has ended.
fn reap(snapshot: &Snapshot, tid: i32, syscall_insn: SyscallInsn) -> Result<(), RemoteSyscallError> {
    let ns_pid = snapshot.ns_pid.unwrap_or_else(|| ns_pid_of(snapshot.pid));
    let mut remote = RemoteSyscalls::attach(tid, syscall_insn, 0)?;
    let all = libc::__WALL as u64;
    // Without a place for status and usage nothing is written.
    let waited = remote.call(libc::SYS_wait4, [ns_pid, 0, all | libc::WNOHANG as u64, 0, 0, 0])?;
    remote.finish()?;
    match waited {
        Ok(pid) if pid == ns_pid => Ok(()),
        Ok(_) => Err(RemoteSyscallError::Kernel("wait4", Errno::EAGAIN)),
        Err(errno) => Err(RemoteSyscallError::Kernel("wait4", errno)),
    }
}

/// The chunks of these ranges in which pages are held, each with its length. Both come in the order of their addresses.
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
            // The chunk that the next page is in.
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
        // A run over several chunks, and one over two ranges.
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
