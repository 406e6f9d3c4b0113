//! Stops every thread of every process of a container, and lets them continue.
//!
//! ```text
//!   list members, list threads --> seize + interrupt the new ones --> wait until they stop --+
//!        ^                                                                                   |
//!        +------------------------------ until a round finds nothing new --------------------+
//! ```
//!
//! Running threads can still fork and start threads, stopped threads cannot, so the rounds end once all threads are
//! stopped. Only ptrace is used, never SIGSTOP: a ptrace stop ends with its tracer. Drop of [`FrozenContainer`]
//! detaches all stopped threads. A thread that was interrupted but has not stopped yet cannot be detached (ptrace(2)).
//! The tracer is therefore a thread that exits with the checkpoint: the kernel then withdraws the interrupt.
//!
//! Job control is preserved: a process that was stopped by a signal stays stopped after the detach. A signal that
//! arrives during the freeze is delivered first, so no signal is lost.
//!
//! A thread in vfork cannot stop before its child calls exec or exits. If the child is already stopped, it is detached
//! until its parent has stopped. Ways to fail: a vfork child that neither calls exec nor exits within the bound;
//! uninterruptible sleep; another tracer (a debugger, strace); a process that may not be traced (another user's, not
//! dumpable).

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
    hooks::Hooks,
};
use crate::process::{
    Pid, ProcessId, Tid, memory, proc_files,
    ptrace::{self, WaitEvent},
};

/// After this time, the children of a thread in vfork are resumed.
const VFORK_HELP_AFTER: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadState {
    /// Interrupted, not yet stopped.
    Interrupting,
    /// In a ptrace stop.
    Stopped,
    /// In a ptrace stop, and its process is stopped by this job control signal.
    GroupStopped(i32),
}

/// A process whose threads are stopped.
#[derive(Debug)]
pub(crate) struct FrozenProcess {
    pub(crate) id: ProcessId,
    threads: BTreeMap<Tid, ThreadState>,
}

impl FrozenProcess {
    pub(crate) fn pid(&self) -> Pid {
        self.id.pid
    }

    /// The stopped threads, the leader first. Empty for a zombie.
    pub(crate) fn threads(&self) -> Vec<Tid> {
        let mut threads: Vec<_> = self.threads.keys().copied().collect();
        let leader = self.id.pid.main_thread();
        threads.sort_by_key(|tid| (*tid != leader, *tid));
        threads
    }

    /// A live thread to identify the process in `/proc`: the leader, or another thread if the leader is dead.
    pub(crate) fn proc_tid(&self) -> Option<Tid> {
        self.threads().first().copied()
    }

    /// The job control signal that stopped the process.
    pub(crate) fn stopped_by(&self) -> Option<i32> {
        self.threads.values().find_map(|state| match state {
            ThreadState::GroupStopped(signal) => Some(*signal),
            _ => None,
        })
    }
}

/// A container whose tasks are all stopped. Drop thaws the container.
pub(crate) struct FrozenContainer<'a> {
    host: &'a dyn Host,
    hooks: &'a dyn Hooks,
    processes: BTreeMap<Pid, FrozenProcess>,
    /// When the first thread was interrupted; before that, when the freeze began.
    first_interrupt_at: Instant,
    /// When the last thread stopped.
    all_stopped_at: Instant,
}

impl<'a> FrozenContainer<'a> {
    /// Freezes the members of the host within `bound`.
    ///
    /// # Errors
    ///
    /// As described in the module documentation. All stopped threads are detached.
    pub(crate) fn freeze(
        host: &'a dyn Host,
        hooks: &'a dyn Hooks,
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
            hooks,
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

    /// In ascending order of pids.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &FrozenProcess> {
        self.processes.values()
    }

    pub(crate) fn threads(&self) -> usize {
        self.processes.values().map(|process| process.threads.len()).sum()
    }

    pub(crate) fn freezing_time(&self) -> Duration {
        self.all_stopped_at - self.first_interrupt_at
    }

    pub(crate) fn all_stopped_at(&self) -> Instant {
        self.all_stopped_at
    }

    fn proc_tid(&self) -> Option<Tid> {
        self.processes.values().find_map(FrozenProcess::proc_tid)
    }

    /// Seizes and interrupts all threads that are not stopped. Returns false if there is no such thread.
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
            if ProcessId::from_pid(member.pid).ok() != Some(member) {
                continue;
            }
            if self.threads() == 0 {
                self.first_interrupt_at = Instant::now();
            }
            let process = self.processes.entry(member.pid).or_insert_with(|| FrozenProcess {
                id: member,
                threads: BTreeMap::new(),
            });
            // After an exec only the calling thread is left, with the tid of the leader.
            process.threads.retain(|tid, _| threads.contains(tid));
            for tid in threads {
                any_seized |= seize_thread(process, tid, log)?;
            }
        }
        Ok(any_seized)
    }

    /// Waits until all interrupted threads are stopped.
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
                                if *tid == pid.main_thread() {
                                    exits.push((pid, status));
                                }
                                return false;
                            }
                            // The exit of a leader is not reported to wait before all other threads have exited.
                            ThreadPoll::Pending if *tid == pid.main_thread() && is_dead(*tid) => return false,
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
            // Repeat: the child may stop only after this attempt, and others may be in vfork too.
            if helped_at.elapsed() > VFORK_HELP_AFTER && in_vfork(tid) {
                self.resume_vfork_children(pid);
                helped_at = Instant::now();
            }
            // Threads in user space stop within microseconds, threads in a system call slightly later.
            if pause.is_zero() {
                thread::yield_now();
            } else {
                thread::sleep(pause);
            }
            pause = (pause * 2).clamp(Duration::from_micros(20), Duration::from_millis(1));
        }
    }

    /// Detaches the stopped children of a process, so that a vfork can end. The next round seizes them again.
    fn resume_vfork_children(&mut self, parent: Pid) {
        for process in self.processes.values_mut() {
            if proc_files::stat(process.id.pid.main_thread()).is_ok_and(|stat| stat.ppid == parent.as_raw()) {
                process
                    .threads
                    .retain(|tid, state| *state == ThreadState::Interrupting || ptrace::detach(*tid).is_err());
            }
        }
    }

    /// Fails if a process was killed after the freeze.
    ///
    /// # Errors
    ///
    /// [`Error::TaskExited`].
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

    /// Detaches all threads. Returns the time from the first interrupt to the last detach.
    pub(crate) fn thaw(mut self) -> Duration {
        self.resume_all();
        self.first_interrupt_at.elapsed()
    }

    fn resume_all(&mut self) {
        let processes = std::mem::take(&mut self.processes);
        let ids: Vec<_> = processes.values().map(|process| process.id).collect();
        self.hooks.before_thaw(&ids);
        for (pid, process) in processes {
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

/// Detaches a stopped thread.
pub(crate) fn detach(host: &dyn Host, pid: Pid, tid: Tid) {
    // A thread that was killed during the freeze is not stopped any more. Report its exit status, which this wait
    // consumed.
    if ptrace::detach(tid).is_err()
        && let Ok(Some(WaitEvent::Exited(status))) = ptrace::poll(tid)
        && tid == pid.main_thread()
    {
        host.on_exited(pid, status);
    }
}

/// Seizes and interrupts a thread unless it is stopped. Returns false if the thread needs no wait.
fn seize_thread(process: &mut FrozenProcess, tid: Tid, log: &mut DumpLog) -> Result<bool, Error> {
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
    if proc_files::has_exited(&stat) {
        process.threads.remove(&tid);
        return Ok(false);
    }
    if let Some(state) = process.threads.get_mut(&tid) {
        // The thread was stopped before. If it is not any more (SIGKILL, or an exec that took over its tid), interrupt
        // again.
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
        log.unsupported(format_args!(
            "pid {pid}: thread {tid} is an io_uring worker of the kernel"
        ));
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

/// Whether this thread is dead, although it may still be listed.
fn is_dead(tid: Tid) -> bool {
    proc_files::stat(tid).is_ok_and(|stat| proc_files::has_exited(&stat))
}

/// The result of a poll of an interrupted thread.
pub(crate) enum ThreadPoll {
    Pending,
    Stopped(ThreadState),
    Exited(i32),
    Vanished,
}

pub(crate) fn poll_thread(tid: Tid) -> ThreadPoll {
    match ptrace::poll(tid) {
        Ok(None) => ThreadPoll::Pending,
        Ok(Some(WaitEvent::Stopped)) => ThreadPoll::Stopped(ThreadState::Stopped),
        Ok(Some(WaitEvent::GroupStopped(signal))) => ThreadPoll::Stopped(ThreadState::GroupStopped(signal)),
        Ok(Some(WaitEvent::Signal(signal))) => {
            // Deliver the signal first. Any stop cancels a pending interrupt, so interrupt again. If the thread is gone
            // by now, the next poll reports it.
            let _ = ptrace::resume(tid, signal);
            let _ = ptrace::interrupt(tid);
            ThreadPoll::Pending
        }
        Ok(Some(WaitEvent::Exited(status))) => ThreadPoll::Exited(status),
        Ok(Some(WaitEvent::Vanished)) | Err(_) => ThreadPoll::Vanished,
    }
}

/// The reason for a refused seize; `None` if the thread exited meanwhile.
fn denial_reason(pid: Pid, tid: Tid) -> Option<FreezeReason> {
    let status = not_found_as_none(proc_files::status(tid)).ok()??;
    if status.state.starts_with(['Z', 'X']) {
        return None;
    }
    if status.tracerpid != 0 {
        return Some(FreezeReason::OtherTracer(Tid::from_raw(status.tracerpid)));
    }
    let euid = nix::unistd::geteuid().as_raw();
    if euid != 0 && [status.ruid, status.euid, status.suid].iter().any(|uid| *uid != euid) {
        return Some(FreezeReason::TraceDenied("it runs as another user"));
    }
    // The /proc files of a process that is not dumpable belong to root.
    let is_undumpable = std::fs::metadata(format!("/proc/{pid}/status"))
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) != status.euid);
    Some(FreezeReason::TraceDenied(if is_undumpable {
        "it is not dumpable (PR_SET_DUMPABLE)"
    } else {
        "the kernel's rules forbid it (Yama's ptrace_scope, a security module, or privileges that the tracer lacks)"
    }))
}

fn timeout_reason(tid: Tid, waited: Duration) -> FreezeReason {
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

/// Whether a thread waits for its child in vfork, or in clone with `CLONE_VFORK` (as `posix_spawn` uses it).
fn in_vfork(tid: Tid) -> bool {
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

fn comm(tid: Tid) -> String {
    proc_files::read_text(tid, "comm").unwrap_or_default()
}

/// Processes may exit while they are listed, which is no error.
fn not_found_as_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}
