//! Brings every thread of every process of a container to stand still, and lets them go.
//!
//! ```text
//!   list members, list threads --> seize + interrupt the new ones --> wait until they stop --+
//!        ^                                                                                   |
//!        +------------------------------ until a round finds nothing new --------------------+
//! ```
//!
//! What runs can still fork and start threads, what stands cannot, so the rounds come to an end as soon as all stand. ptrace
//! alone is used, never SIGSTOP: its stop ends with the tracer. Dropping [`Frozen`] lets go of all that stand; what was asked
//! to stop and has not yet cannot be let go (ptrace(2)), so the tracer is a thread that ends with the checkpoint: the kernel
//! takes the request back then.
//!
//! Job control goes on undisturbed: a process that was stopped by a signal stays so when it is let go. A signal that arrives
//! meanwhile is delivered first, so no signal is lost.
//!
//! A thread in vfork cannot stop before its child calls exec or exits. If that child already stands still, it is let go again
//! until its parent has stopped. Ways to fail: such a child that does neither within the bound; uninterruptible sleep; another
//! tracer (a debugger, strace); a process that may not be traced (another user's, not dumpable).

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    slice, thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    Host,
    cancel::CancelToken,
    dump_log::DumpLog,
    error::{Error, FreezeReason},
    fault,
};
use crate::process::{
    ProcessId, memory, proc_files,
    ptrace::{self, WaitEvent},
};

/// After this time a thread that waits in vfork is helped.
const VFORK_HELP_AFTER: Duration = Duration::from_millis(5);

/// The states of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadState {
    /// Asked to stop.
    Interrupting,
    /// Stands still.
    Stopped,
    /// Stands still, and its process is stopped by this signal.
    GroupStopped(i32),
}

/// A process that stands still.
#[derive(Debug)]
pub(crate) struct FrozenProcess {
    /// Which one.
    pub(crate) id: ProcessId,
    threads: BTreeMap<i32, ThreadState>,
}

impl FrozenProcess {
    /// Its pid.
    pub(crate) fn pid(&self) -> i32 {
        self.id.pid
    }

    /// Its threads that stand still, the first one first; empty for a zombie.
    pub(crate) fn threads(&self) -> Vec<i32> {
        let mut threads: Vec<_> = self.threads.keys().copied().collect();
        threads.sort_by_key(|tid| (*tid != self.id.pid, *tid));
        threads
    }

    /// A thread through which its memory can be seen: the first one, or another when that has ended.
    pub(crate) fn proc_tid(&self) -> Option<i32> {
        self.threads().first().copied()
    }

    /// The signal by which job control has it stopped.
    pub(crate) fn stopped_by(&self) -> Option<i32> {
        self.threads.values().find_map(|state| match state {
            ThreadState::GroupStopped(signal) => Some(*signal),
            _ => None,
        })
    }
}

/// The container, standing still. Dropping it lets it run on.
pub(crate) struct FrozenContainer<'a> {
    host: &'a dyn Host,
    processes: BTreeMap<i32, FrozenProcess>,
    /// When the first thread was asked to stop; until then, when it was begun to look for one.
    first_interrupt_at: Instant,
    /// When the last one stood still.
    all_stopped_at: Instant,
    /// A fault: they are stopped by SIGSTOP when they are let go.
    leave_stopped: bool,
}

impl<'a> FrozenContainer<'a> {
    /// Freezes the members of the host within the bound.
    ///
    /// # Errors
    ///
    /// As the module's documentation says; everything is let go then.
    pub(crate) fn freeze(
        host: &'a dyn Host,
        cancel: &CancelToken<'_>,
        bound: Duration,
        log: &mut DumpLog,
    ) -> Result<Self, Error> {
        let started = Instant::now();
        let mut frozen = Self {
            host,
            processes: BTreeMap::new(),
            first_interrupt_at: started,
            all_stopped_at: started,
            leave_stopped: false,
        };
        let mut rounds = 0;
        while frozen.seize_new_threads(log)? {
            frozen.wait_all_stopped(cancel, bound)?;
            rounds += 1;
            if started.elapsed() > bound {
                return Err(Error::FreezeUnstable(bound));
            }
        }
        frozen.all_stopped_at = Instant::now();
        if frozen.proc_tid().is_none() {
            return Err(Error::NoRunningProcess);
        }
        log.info(format_args!(
            "froze {} processes, {} threads in {:?}, {rounds} rounds",
            frozen.processes.len(),
            frozen.threads(),
            frozen.freezing_time(),
        ));
        Ok(frozen)
    }

    /// The processes in the order of their pids.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &FrozenProcess> {
        self.processes.values()
    }

    /// How many threads stand.
    pub(crate) fn threads(&self) -> usize {
        self.processes.values().map(|process| process.threads.len()).sum()
    }

    /// How long it took until all stood.
    pub(crate) fn freezing_time(&self) -> Duration {
        self.all_stopped_at - self.first_interrupt_at
    }

    /// Since when all stand.
    pub(crate) fn all_stopped_at(&self) -> Instant {
        self.all_stopped_at
    }

    fn proc_tid(&self) -> Option<i32> {
        self.processes.values().find_map(FrozenProcess::proc_tid)
    }

    /// Asks every thread to stop that was not asked yet; false when there was none.
    fn seize_new_threads(&mut self, log: &mut DumpLog) -> Result<bool, Error> {
        let members = self.host.members().map_err(Error::ListMembers)?;
        self.processes
            .retain(|pid, _| members.iter().any(|member| member.pid == *pid));
        let mut any_seized = false;
        for member in members {
            let Some(threads) = not_found_as_none(proc_files::threads(member.pid)).map_err(Error::ListMembers)? else {
                self.processes.remove(&member.pid);
                continue;
            };
            if proc_files::read_process_id(member.pid).ok() != Some(member) {
                continue;
            }
            if self.threads() == 0 {
                self.first_interrupt_at = Instant::now();
            }
            let process = self.processes.entry(member.pid).or_insert_with(|| FrozenProcess {
                id: member,
                threads: BTreeMap::new(),
            });
            // A thread that called exec took the place of all others; theirs are no more.
            process.threads.retain(|tid, _| threads.contains(tid));
            for tid in threads {
                any_seized |= seize_thread(process, tid, log)?;
            }
        }
        Ok(any_seized)
    }

    /// Waits until all that were asked stand still.
    fn wait_all_stopped(&mut self, cancel: &CancelToken<'_>, bound: Duration) -> Result<(), Error> {
        let mut pause = Duration::ZERO;
        let mut helped_at = self.first_interrupt_at;
        loop {
            let mut pending = None;
            let mut exits = Vec::new();
            for process in self.processes.values_mut() {
                let pid = process.id.pid;
                process.threads.retain(|tid, state| {
                    if *state == ThreadState::Interrupting {
                        match poll_thread(*tid) {
                            ThreadPoll::Stopped(now) => *state = now,
                            ThreadPoll::Vanished => return false,
                            ThreadPoll::Exited(status) => {
                                if *tid == pid {
                                    exits.push((pid, status));
                                }
                                return false;
                            }
                            // A first thread that ends before the others shows its end to no wait until they have ended.
                            ThreadPoll::Pending if *tid == pid && is_dead(*tid) => return false,
                            ThreadPoll::Pending => {
                                pending.get_or_insert((pid, *tid));
                            }
                        }
                    }
                    true
                });
            }
            for (pid, status) in exits {
                self.host.on_exited(pid, status);
            }
            let Some((pid, tid)) = pending else {
                return Ok(());
            };
            cancel.check()?;
            let waited = self.first_interrupt_at.elapsed();
            if waited > bound {
                return Err(Error::Freeze {
                    pid,
                    tid,
                    command: comm(tid),
                    reason: timeout_reason(tid, waited),
                });
            }
            // More than once: the child may come to stand only after it was looked for, and others may be in vfork too.
            if helped_at.elapsed() > VFORK_HELP_AFTER && in_vfork(tid) {
                self.resume_vfork_children(pid);
                helped_at = Instant::now();
            }
            // Threads that run in user space stop within microseconds, those in a system call a little later.
            if pause.is_zero() {
                thread::yield_now();
            } else {
                thread::sleep(pause);
            }
            pause = (pause * 2).clamp(Duration::from_micros(20), Duration::from_millis(1));
        }
    }

    /// Lets the children of a process go that already stand still, so that a vfork can end. The next round finds them again.
    fn resume_vfork_children(&mut self, parent: i32) {
        for process in self.processes.values_mut() {
            if proc_files::stat(process.id.pid).is_ok_and(|stat| stat.ppid == parent) {
                process
                    .threads
                    .retain(|tid, state| *state == ThreadState::Interrupting || ptrace::detach(*tid).is_err());
            }
        }
    }

    /// Fails if a process was killed since all stood.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`].
    pub(crate) fn check_alive(&self) -> Result<(), Error> {
        for process in self.processes.values() {
            let pid = process.pid();
            let is_stopped = |tid| proc_files::stat(tid).is_ok_and(|stat| matches!(stat.state, 't' | 'T'));
            if process.proc_tid().is_some_and(|tid| !is_stopped(tid)) {
                return Err(Error::TaskExited { pid });
            }
        }
        Ok(())
    }

    /// A fault: whether the container is left stopped when it is let go. A ptrace stop cannot outlive its tracer, so it is
    /// SIGSTOP that holds it then, and SIGCONT that ends it.
    pub(crate) fn leave_stopped(&mut self, leave: bool) {
        self.leave_stopped = leave;
    }

    /// Lets everything go; how long it stood, from the first thread asked to the last one let go.
    pub(crate) fn thaw(mut self) -> Duration {
        self.resume_all();
        self.first_interrupt_at.elapsed()
    }

    fn resume_all(&mut self) {
        for (pid, process) in std::mem::take(&mut self.processes) {
            if self.leave_stopped {
                fault::signal_process(process.id, libc::SIGSTOP);
            }
            for (tid, state) in process.threads {
                if state != ThreadState::Interrupting {
                    detach(self.host, pid, tid);
                }
            }
        }
    }
}

impl Drop for FrozenContainer<'_> {
    fn drop(&mut self) {
        self.resume_all();
    }
}

/// Lets a thread go that stood still.
pub(super) fn detach(host: &dyn Host, pid: i32, tid: i32) {
    // A thread that was killed meanwhile no longer stands. Its end must not be kept from its parent.
    if ptrace::detach(tid).is_err()
        && let Ok(Some(WaitEvent::Exited(status))) = ptrace::poll(tid)
        && tid == pid
    {
        host.on_exited(pid, status);
    }
}

/// Asks a thread to stop unless it already stands; false when there was nothing to ask.
fn seize_thread(process: &mut FrozenProcess, tid: i32, log: &mut DumpLog) -> Result<bool, Error> {
    let pid = process.id.pid;
    let refuse = |reason| Error::Freeze {
        pid,
        tid,
        command: comm(tid),
        reason,
    };
    let Some(stat) = not_found_as_none(proc_files::stat(tid)).map_err(|error| Error::capture(pid, "stat", error))?
    else {
        process.threads.remove(&tid);
        return Ok(false);
    };
    if is_dead_state(stat.state) {
        process.threads.remove(&tid);
        return Ok(false);
    }
    if let Some(state) = process.threads.get_mut(&tid) {
        // It was seen standing. If it no longer does (a signal that cannot be held, an exec that took its number over), it is
        // asked again.
        if matches!(stat.state, 't' | 'T') {
            return Ok(false);
        }
        *state = ThreadState::Interrupting;
        return match ptrace::interrupt(tid) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(refuse(FreezeReason::Kernel(format!("interrupt: {errno}")))),
        };
    }
    if proc_files::is_io_worker(&stat) {
        log.unsupported(format_args!("pid {pid}: thread {tid} is the kernel's own (io_uring)"));
        return Ok(false);
    }
    match ptrace::seize(tid) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return Ok(false),
        Err(Errno::EPERM) => match denial_reason(pid, tid) {
            Some(reason) => return Err(refuse(reason)),
            None => return Ok(false),
        },
        Err(errno) => return Err(refuse(FreezeReason::Kernel(format!("seize: {errno}")))),
    }
    process.threads.insert(tid, ThreadState::Interrupting);
    match ptrace::interrupt(tid) {
        Ok(()) | Err(Errno::ESRCH) => Ok(true),
        Err(errno) => Err(refuse(FreezeReason::Kernel(format!("interrupt: {errno}")))),
    }
}

/// Whether a thread in this state has ended.
fn is_dead_state(state: char) -> bool {
    matches!(state, 'Z' | 'X' | 'x')
}

/// Whether this thread has ended, though it may still be listed.
fn is_dead(tid: i32) -> bool {
    proc_files::stat(tid).is_ok_and(|stat| is_dead_state(stat.state))
}

/// What one look at an asked thread showed.
pub(super) enum ThreadPoll {
    Pending,
    Stopped(ThreadState),
    Exited(i32),
    Vanished,
}

pub(super) fn poll_thread(tid: i32) -> ThreadPoll {
    match ptrace::poll(tid) {
        Ok(None) => ThreadPoll::Pending,
        Ok(Some(WaitEvent::Stopped)) => ThreadPoll::Stopped(ThreadState::Stopped),
        Ok(Some(WaitEvent::GroupStopped(signal))) => ThreadPoll::Stopped(ThreadState::GroupStopped(signal)),
        Ok(Some(WaitEvent::Signal(signal))) => {
            // It takes its signal first. Any stop takes a pending request to stop away, so it is asked again; a thread that
            // is gone by now says so at the next look.
            let _ = ptrace::resume(tid, signal);
            let _ = ptrace::interrupt(tid);
            ThreadPoll::Pending
        }
        Ok(Some(WaitEvent::Exited(status))) => ThreadPoll::Exited(status),
        Ok(Some(WaitEvent::Vanished)) | Err(_) => ThreadPoll::Vanished,
    }
}

/// Why a seize was refused; `None` when the thread ended in between.
fn denial_reason(pid: i32, tid: i32) -> Option<FreezeReason> {
    let status = not_found_as_none(proc_files::status(tid)).ok()??;
    if status.state.starts_with(['Z', 'X']) {
        return None;
    }
    if status.tracerpid != 0 {
        return Some(FreezeReason::OtherTracer(status.tracerpid));
    }
    let euid = nix::unistd::geteuid().as_raw();
    if euid != 0 && [status.ruid, status.euid, status.suid].iter().any(|uid| *uid != euid) {
        return Some(FreezeReason::TraceDenied("it runs as another user"));
    }
    // Files of a process that is not dumpable belong to root.
    let is_undumpable = std::fs::metadata(format!("/proc/{pid}/status"))
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) != status.euid);
    Some(FreezeReason::TraceDenied(if is_undumpable {
        "it is not dumpable (PR_SET_DUMPABLE)"
    } else {
        "the kernel's rules forbid it (Yama's ptrace_scope, a security module, or privileges that the tracer lacks)"
    }))
}

/// Why a thread did not stop.
fn timeout_reason(tid: i32, waited: Duration) -> FreezeReason {
    let state = proc_files::stat(tid).map_or('?', |stat| stat.state);
    match state {
        'D' if in_vfork(tid) => FreezeReason::Vfork(waited),
        'D' => FreezeReason::Uninterruptible {
            wchan: match proc_files::read_text(tid, "wchan") {
                Ok(place) if place.len() > 1 => format!(" in {place}"),
                _ => String::new(),
            },
            bound: waited,
        },
        state => FreezeReason::Unresponsive(waited, state),
    }
}

/// Whether a thread waits for its child of vfork, or of clone with `CLONE_VFORK` (as `posix_spawn` does it).
fn in_vfork(tid: i32) -> bool {
    let flags = match proc_files::current_syscall(tid) {
        #[cfg(target_arch = "x86_64")]
        Some((libc::SYS_vfork, _)) => return true,
        Some((libc::SYS_clone, flags)) => flags,
        Some((libc::SYS_clone3, arguments)) => {
            // The flags are the first word of `struct clone_args`.
            let mut flags = [0; 8];
            let flags_range = Range {
                start: arguments,
                end: arguments + 8,
            };
            let read = memory::ProcMem::new(tid).read(slice::from_ref(&flags_range), &mut flags, |_| {});
            read.map_or(0, |()| u64::from_ne_bytes(flags))
        }
        _ => return false,
    };
    flags & libc::CLONE_VFORK as u64 != 0
}

/// The name of a thread.
fn comm(tid: i32) -> String {
    proc_files::read_text(tid, "comm").unwrap_or_default()
}

/// A process that ended is no error while they are listed.
fn not_found_as_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}
