//! Copies of the container's processes, which stand still in their place.
//!
//! ```text
//!   the process stands --clone--> its copy, traced from birth: closes its descriptors, unmaps what is shared
//!        |                              |
//!     runs on                       is read, lets go of its memory, never runs
//!        |                              |
//!   stands again, for a moment       is killed, and waited for by the tracer
//!        |
//!   wait4(copy)  runs on
//! ```
//!
//! A copy is what fork(2) makes, so it holds all memory as it was at that moment, and costs a page only where the original
//! writes on. Its exit signal is none: no wait call without `__WALL` or `__WCLONE` sees it, and no SIGCHLD tells of it. It is a
//! child of the process it was copied from, which alone can take it off the list of processes; hence the second stop.
//!
//! What a fork does not carry (shared memory, `MADV_DONTFORK`, `MADV_WIPEONFORK`, huge pages of hugetlbfs) is read from the
//! original before it runs on: [`super::pages::Run::early`]; private memory of this kind is held in between, so a process may
//! have [`MOST_UNFORKED`] of it. Where a copy could be noticed, or could make the container fail,
//! none is made, and the container stands still until all is read: [`Unfit`] says why.
//!
//! What is left to be noticed by one who looks for it: a number that is taken for a while and shows in `/proc`, the copy's CPU
//! time and peak of memory in `RUSAGE_CHILDREN`, and calls that a stop interrupts (`epoll_wait`), once more than a freeze does.
//! A process that calls exec while its copy is read is told of the copy's end by a SIGCHLD, as the kernel does where the parent
//! has changed; and where it ends meanwhile, whoever takes over its children is.
//!
//! The tracer's end kills a copy (`PTRACE_O_EXITKILL`).

use std::{
    fs,
    ops::Range,
    slice, thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Host,
    capture::{Space, Standing},
    error::Error,
    headroom::{self, Short},
    hold,
    log::DumpLog,
    outlook::Outlook,
};
use crate::process::{
    ProcessId,
    inject::{Gate, InjectError, Injection},
    memory::Memory,
    proc,
    ptrace::{self, Event, Stop},
};

/// More shared mappings than this are not unmapped one by one while the container stands.
const MOST_SHARED: usize = 256;
/// The longest that the end of a copy is waited for: all of its page tables go with it.
const LAST: Duration = Duration::from_secs(60);
/// The stack of the thread that has an original wait for its copy.
const STACK: usize = 128 << 10;
/// How much a copy lets go of at a time, well within the bound of a call.
const PIECE: u64 = 1 << 30;
/// More bytes of private memory that a fork does not carry are not held while the container runs on.
const MOST_UNFORKED: u64 = 16 << 20;

/// Why the container is not copied but stands still until all is read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("that was asked for")]
    Asked,
    #[error("a fault or a delay wants it to stand still")]
    Modelled,
    #[error("{0}")]
    Short(#[from] Short),
    #[error("process {pid}: {source}")]
    Inject { pid: i32, source: InjectError },
    #[error("process {pid}: {call}: {errno}")]
    Call { pid: i32, call: &'static str, errno: Errno },
    #[error("process {0} handles page faults of its own (userfaultfd), and may be told of a fork")]
    Userfault(i32),
    #[error("process {0} has its children begin in another namespace")]
    Namespace(i32),
    #[error("process {0} has {1} shared mappings")]
    Shared(i32, usize),
    #[error("process {0} cannot be made to call the kernel")]
    NoGate(i32),
    #[error("{0} bytes of private memory are not for forks (MADV_DONTFORK, MADV_WIPEONFORK, huge pages)")]
    Unforked(u64),
}

/// One copy and the process it was made of.
#[derive(Debug)]
struct Twin {
    original: ProcessId,
    /// The thread that made it, through which the original is seen.
    window: i32,
    gate: Gate,
    /// The copy's number here, and in the original's namespace.
    copy: i32,
    inner: u64,
    /// What stood in the original's area of restartable sequences.
    sequence: Option<Sequence>,
}

/// Copies of all processes of the container. Dropped, they are gone without a trace.
pub(crate) struct Twins<'a> {
    host: &'a dyn Host,
    bound: Duration,
    twins: Vec<Twin>,
    /// Whether the originals stand still.
    standing: bool,
}

impl<'a> Twins<'a> {
    /// Copies every process that stands still. The inner error says why it could not be; no copy is left then.
    ///
    /// # Errors
    ///
    /// A process that ended meanwhile, or that could not be put back.
    pub(crate) fn make(
        host: &'a dyn Host,
        standing: &Standing,
        outlook: &Outlook,
        bound: Duration,
    ) -> Result<Result<Self, Unfit>, Error> {
        let mut twins = Self {
            host,
            bound,
            twins: Vec::new(),
            standing: true,
        };
        if let Some(pid) = standing.userfault() {
            return Ok(Err(Unfit::Userfault(pid)));
        }
        let unforked = standing.spaces().flat_map(Space::unforked);
        let bytes = unforked.map(|run| run.range.end - run.range.start).sum();
        if bytes > MOST_UNFORKED {
            return Ok(Err(Unfit::Unforked(bytes)));
        }
        let count = standing.spaces().count() as u64;
        for space in standing.spaces() {
            if let Err(unfit) = fits(space, count, outlook) {
                return Ok(Err(unfit));
            }
        }
        for space in standing.spaces() {
            if let Err(unfit) = twins.add(space)? {
                return Ok(Err(unfit));
            }
        }
        Ok(Ok(twins))
    }

    /// Copies one process.
    fn add(&mut self, space: &Space) -> Result<Result<(), Unfit>, Error> {
        let (original, window) = (space.process, space.window);
        let pid = original.pid;
        let unfit = |call| move |errno| Unfit::Call { pid, call, errno };
        let Some(gate) = space.gate else {
            return Ok(Err(Unfit::NoGate(pid)));
        };
        let sequence = match Sequence::of(window) {
            Ok(sequence) => sequence,
            Err(errno) => return Err(Error::capture(pid, "rseq", errno)),
        };
        let shared: Vec<_> = space.shared().cloned().collect();
        if shared.len() > MOST_SHARED {
            return Ok(Err(Unfit::Shared(pid, shared.len())));
        }
        self.host.copying();
        let made = (|| {
            let mut injection = Injection::enter(window, gate, libc::PTRACE_O_TRACECLONE)?;
            let answer = injection.call(libc::SYS_clone, [0; 6]);
            let left = injection.put_back();
            // In the tracer's namespace the copy has the number that the event tells. It is there also when the call was not seen to
            // its end.
            let clone = |(event, _): &(i32, u64)| *event == libc::PTRACE_EVENT_CLONE;
            if let Some((_, copy)) = injection.take_events().into_iter().find(clone) {
                let copy = copy as i32;
                let told = answer.as_ref().ok().and_then(|answer| answer.ok());
                self.twins.push(Twin {
                    original,
                    window,
                    gate,
                    copy,
                    inner: told.unwrap_or_else(|| inner_number(copy)),
                    sequence,
                });
            }
            let answer = answer?;
            left?;
            Ok(answer)
        })();
        self.tell();
        let copy = match (made, self.twins.last()) {
            (Err(error), _) => return judge(pid, error),
            (Ok(Err(errno)), _) => return Ok(Err(unfit("clone")(errno))),
            (Ok(Ok(_)), Some(twin)) if twin.original == original => twin.copy,
            (Ok(Ok(_)), _) => return Err(Error::capture(pid, "the event of its copy", Errno::EPROTO)),
        };
        match prepare(copy, gate, &shared) {
            Ok(Ok(())) => Ok(Ok(())),
            Ok(Err((call, errno))) => Ok(Err(unfit(call)(errno))),
            Err(source) => Ok(Err(Unfit::Inject { pid, source })),
        }
    }

    /// The copy that holds the memory which this thread sees.
    pub(crate) fn of(&self, window: i32) -> Option<i32> {
        let twin = self.twins.iter().find(|twin| twin.window == window)?;
        Some(twin.copy)
    }

    /// The copy that holds the memory which this thread sees makes no calls any more: its memory is as the original's was.
    pub(crate) fn settle(&self, window: i32) {
        if let Some(twin) = self.twins.iter().find(|twin| twin.window == window)
            && let Some(sequence) = &twin.sequence
        {
            sequence.put_into(twin.copy);
        }
    }

    /// Has the copy of the process that this thread sees let go of memory that was read and is not needed any more, as far as that
    /// can be had: it has to be let go anyway, and nobody else walks through its pages then.
    pub(crate) fn empty<'r>(&self, window: i32, ranges: impl Iterator<Item = &'r Range<u64>>) {
        let mut pieces = ranges
            .flat_map(|range| {
                let starts = (range.start..range.end).step_by(PIECE as usize);
                starts.map(|start| (start, PIECE.min(range.end - start)))
            })
            .peekable();
        let Some(twin) = self.twins.iter().find(|twin| twin.window == window) else {
            return;
        };
        if pieces.peek().is_none() {
            return;
        }
        if let Ok(mut injection) = Injection::enter(twin.copy, twin.gate, libc::PTRACE_O_EXITKILL) {
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
    fn tell(&self) {
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

/// What of the failure of an injection makes a process unfit, and what ends the checkpoint.
fn judge(pid: i32, error: InjectError) -> Result<Result<(), Unfit>, Error> {
    match error {
        InjectError::Ended => Err(Error::Ended { pid }),
        // It may not stand as it stood.
        InjectError::Stuck(_) => Err(Error::capture(
            pid,
            "its copy",
            std::io::Error::other(error.to_string()),
        )),
        source => Ok(Err(Unfit::Inject { pid, source })),
    }
}

/// Whether a copy of this process, one of so many, harms nobody.
fn fits(space: &Space, copies: u64, outlook: &Outlook) -> Result<(), Unfit> {
    let (pid, window) = (space.process.pid, space.window);
    if !outlook.knows(space.process) {
        // It came just before the freeze, and was not looked at then.
        let status = proc::status(window).ok();
        let bytes = status.map_or(0, |status| status.rssanon.unwrap_or(0) + status.vmswap.unwrap_or(0));
        headroom::look(pid, copies, bytes * 1024)?;
    }
    for (own, children) in [("pid", "pid_for_children"), ("time", "time_for_children")] {
        let namespace = |name: &str| fs::read_link(format!("/proc/{window}/ns/{name}")).ok();
        // A namespace that has no process yet cannot be read, which is no name of the own one either.
        if namespace(own).is_some() && namespace(own) != namespace(children) {
            return Err(Unfit::Namespace(pid));
        }
    }
    Ok(())
}

/// Has a new copy let go of all that others could notice.
fn prepare(copy: i32, gate: Gate, shared: &[Range<u64>]) -> Result<Result<(), (&'static str, Errno)>, InjectError> {
    loop {
        match ptrace::next_stop(copy) {
            Ok(Some(Stop::Interrupted)) => break,
            Ok(Some(_) | None) => thread::yield_now(),
            Err(_) => return Err(InjectError::Ended),
        }
    }
    ptrace::set_options(copy, libc::PTRACE_O_EXITKILL).map_err(|errno| InjectError::Kernel("options", errno))?;
    let mut injection = Injection::enter(copy, gate, libc::PTRACE_O_EXITKILL)?;
    let all = u64::from(u32::MAX);
    if let Err(errno) = injection.call(libc::SYS_close_range, [0, all, 0, 0, 0, 0])? {
        return Ok(Err(("close_range", errno)));
    }
    for range in shared {
        let length = range.end - range.start;
        // MADV_DONTFORK mappings are not there to be unmapped, which is no error of munmap.
        if let Err(errno) = injection.call(libc::SYS_munmap, [range.start, length, 0, 0, 0, 0])? {
            return Ok(Err(("munmap", errno)));
        }
    }
    injection.leave()?;
    Ok(Ok(()))
}

/// The bytes of a thread's restartable sequence area. The kernel writes the processor's number into a copy's when that goes
/// through its calls; so what stood there is put back.
#[derive(Debug)]
struct Sequence {
    address: u64,
    bytes: Vec<u8>,
}

impl Sequence {
    fn of(tid: i32) -> nix::Result<Option<Self>> {
        let Some(area) = ptrace::rseq(tid)? else {
            return Ok(None);
        };
        let mut bytes = vec![0; area.size as usize];
        let range = area.pointer..area.pointer + bytes.len() as u64;
        let read = Memory::of(tid).read(slice::from_ref(&range), &mut bytes, |_| {});
        read.map_err(|_| Errno::ESRCH)?;
        Ok(Some(Self {
            address: area.pointer,
            bytes,
        }))
    }

    fn put_into(&self, copy: i32) {
        // Where it fails, a restore still finds a processor's number there, as good as any other.
        let _ = Memory::of(copy).write(self.address, &self.bytes);
    }
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
    let mut injection = Injection::enter(tid, gate, 0)?;
    let all = libc::__WALL as u64;
    // Without a place for status and usage nothing is written.
    let waited = injection.call(libc::SYS_wait4, [twin.inner, 0, all | libc::WNOHANG as u64, 0, 0, 0])?;
    injection.leave()?;
    match waited {
        Ok(pid) if pid == twin.inner => Ok(()),
        Ok(_) => Err(InjectError::Kernel("wait4", Errno::EAGAIN)),
        Err(errno) => Err(InjectError::Kernel("wait4", errno)),
    }
}
