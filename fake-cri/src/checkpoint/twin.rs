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

use super::{Host, error::Error, hold, log::DumpLog};
use crate::process::{
    ProcessId,
    inject::{Area, Gate, InjectError, Injection},
    memory::Memory,
    pagemap::PAGE_SIZE,
    proc,
    ptrace::{self, Event},
};

/// The longest that the end of a copy is waited for: all of its page tables go with it.
const LAST: Duration = Duration::from_secs(60);
/// The stack of the thread that has an original wait for its copy.
const STACK: usize = 128 << 10;
/// How much a copy lets go of at a time, well within the bound of a call.
const PIECE: u64 = 1 << 30;

/// One copy and the process it was made of.
#[derive(Debug)]
pub(super) struct Twin {
    pub(super) original: ProcessId,
    /// The thread that made it, through which the original is seen.
    pub(super) window: i32,
    pub(super) gate: Gate,
    /// The copy's number here, and in the original's namespace.
    pub(super) copy: i32,
    pub(super) inner: Option<u64>,
    /// What stood in the areas of restartable sequences of the original's threads.
    pub(super) sequences: Vec<Sequence>,
    /// Memory for answers, which it has from its original.
    pub(super) area: Option<Area>,
}

/// Copies of processes of the container. Dropped, they are gone without a trace.
pub(crate) struct Twins<'a> {
    host: &'a dyn Host,
    bound: Duration,
    twins: Vec<Twin>,
    /// Whether the originals stand still.
    standing: bool,
}

impl<'a> Twins<'a> {
    /// None yet, of originals that stand still. An original that runs again has to stand within the bound.
    pub(super) fn none(host: &'a dyn Host, bound: Duration) -> Self {
        Self {
            host,
            bound,
            twins: Vec::new(),
            standing: true,
        }
    }

    /// Adds a copy that was made.
    pub(super) fn add(&mut self, twin: Twin) -> &mut Twin {
        self.twins.push(twin);
        self.twins.last_mut().expect("just pushed")
    }

    /// All of them.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Twin> {
        self.twins.iter_mut()
    }

    /// The copy that holds the memory which this thread sees.
    pub(crate) fn of(&self, window: i32) -> Option<i32> {
        let twin = self.twins.iter().find(|twin| twin.window == window)?;
        Some(twin.copy)
    }

    /// The memory that this copy has for answers.
    pub(crate) fn area(&self, copy: i32) -> Option<Area> {
        let twin = self.twins.iter().find(|twin| twin.copy == copy)?;
        twin.area.as_ref().map(|area| area.of_copy(copy))
    }

    /// The copy that holds the memory which this thread sees makes no calls any more: its memory is as the original's was.
    pub(crate) fn settle(&self, window: i32) {
        if let Some(twin) = self.twins.iter().find(|twin| twin.window == window) {
            let mut memory = Memory::of(twin.copy);
            for sequence in &twin.sequences {
                sequence.put_into(&mut memory);
            }
        }
    }

    /// Has the copy of the process that this thread sees let go of memory that was read and is not needed any more, as far as that
    /// can be had: it has to be let go anyway, and nobody else walks through its pages then. Of the `ranges` only the pieces that
    /// hold pages are let go: a program may have mapped terabytes and touched none of them.
    pub(crate) fn empty<'r>(
        &self,
        window: i32,
        ranges: impl Iterator<Item = &'r Range<u64>>,
        held: impl Iterator<Item = &'r Range<u64>>,
    ) {
        let mut pieces = pieces_with_pages(ranges, held).into_iter().peekable();
        if pieces.peek().is_none() {
            return;
        }
        if let Ok((mut injection, _)) = self.lead(window) {
            let advice = libc::MADV_DONTNEED as u64;
            // What it does not let go of here it does at its end.
            let lets_go = |(start, length)| {
                injection
                    .call(libc::SYS_madvise, [start, length, advice, 0, 0, 0])
                    .is_ok()
            };
            pieces.all(lets_go);
        }
    }

    /// The pages that change as that copy makes calls: [`Self::settle`] puts them right again.
    pub(super) fn unsettled(&self, window: i32) -> impl Iterator<Item = Range<u64>> {
        let twin = self.twins.iter().find(|twin| twin.window == window);
        let sequences = twin.into_iter().flat_map(|twin| &twin.sequences);
        sequences.map(|sequence| {
            let end = sequence.address + sequence.bytes.len() as u64;
            sequence.address / PAGE_SIZE * PAGE_SIZE..end.next_multiple_of(PAGE_SIZE)
        })
    }

    /// The copy that holds the memory which this thread sees, to be told what to call; and its number.
    ///
    /// # Errors
    ///
    /// It cannot be told, or has ended.
    pub(super) fn lead(&self, window: i32) -> Result<(Injection, i32), InjectError> {
        let twin = self.twins.iter().find(|twin| twin.window == window);
        let twin = twin.ok_or(InjectError::Ended)?;
        let injection = Injection::enter(twin.copy, twin.gate, libc::PTRACE_O_EXITKILL)?;
        Ok((injection, twin.copy))
    }

    /// The originals run on.
    pub(crate) fn originals_run(&mut self) {
        self.standing = false;
    }

    /// Ends the copies; how long originals stood still for it.
    pub(crate) fn end(mut self, log: &mut DumpLog) -> Duration {
        let (stood, left) = self.release();
        for copy in left {
            log.info(format_args!(
                "process {copy}, a copy that was killed, is left for its parent's end to remove"
            ));
        }
        stood
    }

    /// Kills the copies and takes them off the list of processes; how long that stopped originals, and which are left as zombies.
    fn release(&mut self) -> (Duration, Vec<i32>) {
        let twins = std::mem::take(&mut self.twins);
        for twin in &twins {
            // It is traced and not waited for, so the number is still its own.
            let _ = kill(Pid::from_raw(twin.copy), Signal::SIGKILL);
        }
        let mut stood = Duration::ZERO;
        let mut left = Vec::new();
        for twin in twins {
            wait_for_end(twin.copy, LAST);
            if !is_child(twin.copy, twin.original.pid) {
                continue;
            }
            let began = Instant::now();
            let reaped = match self.standing {
                true => reap(&twin, twin.window, twin.gate).is_ok(),
                false => self.reap_running(&twin),
            };
            stood += began.elapsed();
            if !reaped && is_child(twin.copy, twin.original.pid) {
                left.push(twin.copy);
            }
        }
        self.tell();
        (stood, left)
    }

    /// Tells the host which copies there are.
    pub(super) fn tell(&self) {
        let copies: Vec<i32> = self.twins.iter().map(|twin| twin.copy).collect();
        self.host.copied(&copies);
    }

    /// Stops a thread of the original for as long as it waits for its copy. A thread of our own does it, since only with a tracer's
    /// end goes what it asked of a thread that did not come to stand in time.
    fn reap_running(&self, twin: &Twin) -> bool {
        let until = Instant::now() + self.bound;
        let reap_it = || {
            let mut threads = proc::threads(twin.original.pid).unwrap_or_default();
            threads.sort_by_key(|tid| *tid != twin.window);
            threads.into_iter().any(|tid| {
                let left = until.saturating_duration_since(Instant::now());
                let Some(held) = hold::hold(self.host, twin.original, tid, left) else {
                    return false;
                };
                // It may be another program by now, whose instructions lie elsewhere.
                Gate::find(held.tid()).is_ok_and(|gate| reap(twin, held.tid(), gate).is_ok())
            })
        };
        thread::scope(|scope| {
            let builder = thread::Builder::new().name("reap".to_owned()).stack_size(STACK);
            let reaper = builder.spawn_scoped(scope, reap_it);
            reaper.is_ok_and(|reaper| reaper.join().unwrap_or(false))
        })
    }
}

impl Drop for Twins<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

/// The failure of a copy to do as it is told.
pub(super) fn failed(pid: i32, error: InjectError) -> Error {
    match error {
        InjectError::Ended => Error::Ended { pid },
        error => Error::capture(pid, "its copy", std::io::Error::other(error)),
    }
}

/// The bytes of a thread's restartable sequence area. The kernel writes the processor's number there when a thread makes the calls
/// that it is told to, and in the copy of the first one; so what stood there is put into the copy. (Not into the originals: where
/// they run on, it has to be the processor that they are on.)
#[derive(Debug)]
pub(super) struct Sequence {
    address: u64,
    bytes: Vec<u8>,
}

impl Sequence {
    /// Those of the threads of one process, before they are made to call anything.
    pub(super) fn of(threads: &[i32]) -> nix::Result<Vec<Self>> {
        let mut memory = threads.first().map(|tid| Memory::of(*tid));
        let mut sequences = Vec::new();
        for tid in threads {
            let (Some(area), Some(memory)) = (ptrace::rseq(*tid)?, &mut memory) else {
                continue;
            };
            let mut bytes = vec![0; area.size as usize];
            let range = area.pointer..area.pointer + bytes.len() as u64;
            let read = memory.read(slice::from_ref(&range), &mut bytes, |_| {});
            read.map_err(|_| Errno::ESRCH)?;
            sequences.push(Self {
                address: area.pointer,
                bytes,
            });
        }
        Ok(sequences)
    }

    fn put_into(&self, copy: &mut Memory) {
        // Where it fails, a restore still finds a processor's number there, as good as any other.
        let _ = copy.write(self.address, &self.bytes);
    }
}

/// Ends a copy that its original cannot take off the list of processes any more.
pub(super) fn remove(copy: i32) {
    // It is traced and not waited for, so the number is still its own.
    let _ = kill(Pid::from_raw(copy), Signal::SIGKILL);
    wait_for_end(copy, LAST);
}

/// Waits until a copy that was killed has ended, and takes its end, which the kernel shows the tracer first.
fn wait_for_end(copy: i32, bound: Duration) {
    let began = Instant::now();
    loop {
        match ptrace::poll(copy) {
            Ok(Some(Event::Exited(_) | Event::Gone)) | Err(_) => return,
            // A stop that it was in when it was killed.
            Ok(Some(_) | None) if began.elapsed() > bound => return,
            Ok(Some(_) | None) => thread::sleep(Duration::from_micros(50)),
        }
    }
}

/// The number of a new copy in its own pid namespace; 0 when it is gone.
fn inner_number(copy: i32) -> u64 {
    let numbers = proc::status(copy).ok().and_then(|status| status.nspid);
    let own = numbers.and_then(|numbers| numbers.last().copied());
    own.map_or(0, |number| number.cast_unsigned().into())
}

/// Whether this process is (still) listed as a child of that one.
fn is_child(pid: i32, parent: i32) -> bool {
    proc::stat(pid).is_ok_and(|stat| stat.ppid == parent)
}

/// Has a stopped thread wait for the copy, which has ended.
fn reap(twin: &Twin, tid: i32, gate: Gate) -> Result<(), InjectError> {
    let inner = twin.inner.unwrap_or_else(|| inner_number(twin.copy));
    let mut injection = Injection::enter(tid, gate, 0)?;
    let all = libc::__WALL as u64;
    // Without a place for status and usage nothing is written.
    let waited = injection.call(libc::SYS_wait4, [inner, 0, all | libc::WNOHANG as u64, 0, 0, 0])?;
    injection.leave()?;
    match waited {
        Ok(pid) if pid == inner => Ok(()),
        Ok(_) => Err(InjectError::Kernel("wait4", Errno::EAGAIN)),
        Err(errno) => Err(InjectError::Kernel("wait4", errno)),
    }
}

/// The pieces of these ranges in which pages are held, each with its length. Both come in the order of their addresses.
fn pieces_with_pages<'r>(
    ranges: impl Iterator<Item = &'r Range<u64>>,
    held: impl Iterator<Item = &'r Range<u64>>,
) -> Vec<(u64, u64)> {
    let mut held = held.peekable();
    let mut pieces = Vec::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            while held.next_if(|pages| pages.end <= at).is_some() {}
            let Some(first) = held.peek().map(|pages| pages.start).filter(|first| *first < range.end) else {
                break;
            };
            // The piece that the next page is in.
            at += first.saturating_sub(at) / PIECE * PIECE;
            pieces.push((at, PIECE.min(range.end - at)));
            at = at.saturating_add(PIECE);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pieces_that_hold_pages_are_let_go() {
        let page = |start: u64| start..start + 4096;
        let large = 0..1 << 46;
        let held = [
            page(0),
            page(PIECE - 4096),
            page(5 * PIECE + 4096),
            page((1 << 46) - 4096),
        ];
        let found = pieces_with_pages([&large].into_iter(), held.iter());
        assert_eq!(found, [(0, PIECE), (5 * PIECE, PIECE), ((1 << 46) - PIECE, PIECE)]);
        // A run over several pieces, and one over two ranges.
        let ranges = [10 * PIECE..12 * PIECE + 4096, 20 * PIECE..21 * PIECE];
        let held = 11 * PIECE - 4096..20 * PIECE + 4096;
        let found = pieces_with_pages(ranges.iter(), std::iter::once(&held));
        assert_eq!(
            found,
            [
                (10 * PIECE, PIECE),
                (11 * PIECE, PIECE),
                (12 * PIECE, 4096),
                (20 * PIECE, PIECE)
            ]
        );
        assert_eq!(pieces_with_pages([&large].into_iter(), [].iter()), []);
    }
}
