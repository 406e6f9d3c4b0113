//! Queries the state of a frozen process and its threads that only they can read. The last list of queries runs while
//! the tracer reads other state.

use std::{collections::BTreeMap, io, mem};

use cri_proto::criu::message::{ItimerEntry, PosixTimerEntry, ThreadSasEntry};
use nix::errno::Errno;

use super::{
    Mm,
    context::TaskCtx,
    parasite::{Parasite, QueryError, ResultReader, query_error},
    pstree::PstreeNode,
};
use crate::{
    checkpoint::{dump_log::DumpLog, error::Error},
    process::{
        NsPid, Pid, Tid, proc_files,
        remote_syscalls::{
            PendingList, RemoteSyscallError, RemoteSyscalls, Syscall, SyscallBuffer, SyscallInsn, SyscallResult,
        },
    },
};

/// No alternate signal stack: `SS_DISABLE`.
pub(super) const NO_SIGALTSTACK: ThreadSasEntry = ThreadSasEntry {
    ss_sp: 0,
    ss_size: 0,
    ss_flags: 2,
};
/// `PR_GET_TID_ADDRESS`, with `CONFIG_CHECKPOINT_RESTORE`.
const PR_GET_TID_ADDRESS: u64 = 40;
/// `PR_GET_MDWE`, Linux 6.3: memory that was written or not executable may not become executable.
const PR_GET_MDWE: u64 = 66;
/// `PR_MCE_KILL_GET`, and its result without a choice, `PR_MCE_KILL_DEFAULT` (linux/prctl.h).
const PR_MCE_KILL_GET: u64 = 34;
const PR_MCE_KILL_DEFAULT: u64 = 2;
/// `PR_GET_TSC` (x86 only), and `PR_TSC_ENABLE` (linux/prctl.h).
const PR_GET_TSC: u64 = 25;
const PR_TSC_ENABLE: u64 = 1;
/// `KEYCTL_GET_KEYRING_ID`, `KEY_SPEC_THREAD_KEYRING` and `KEY_SPEC_PROCESS_KEYRING` (linux/keyctl.h). The session
/// keyring is not queried: the query itself would create one.
const KEYCTL_GET_KEYRING_ID: u64 = 0;
const KEY_SPEC_THREAD_KEYRING: i64 = -1;
const KEY_SPEC_PROCESS_KEYRING: i64 = -2;
/// `SIGEV_NONE`: a timer without a signal.
const SIGEV_NONE: u32 = 1;
/// `SIGEV_THREAD_ID`: the signal of a timer goes to one thread.
const SIGEV_THREAD_ID: u32 = 4;

/// The number of timers per syscall list. Each timer takes two calls.
const TIMERS_PER_LIST: usize = 100;

/// The query results that no snapshot could give.
#[derive(Debug)]
pub(crate) struct TaskQueryResult {
    /// `ITIMER_REAL`, `ITIMER_VIRTUAL`, `ITIMER_PROF`.
    pub(super) interval_timers: [ItimerEntry; 3],
    /// The timers of timer_create(2).
    pub(super) posix_timers: Vec<PosixTimerEntry>,
    /// `PR_GET_CHILD_SUBREAPER`.
    pub(super) subreaper: bool,
    pub(super) threads: BTreeMap<Tid, ThreadQueryResult>,
}

#[derive(Debug)]
pub(super) struct ThreadQueryResult {
    /// sigaltstack(2).
    pub(super) sigaltstack: ThreadSasEntry,
    /// clear_child_tid: the address that the kernel clears, with a futex wake, when the thread exits (`pthread_join`).
    pub(super) clear_child_tid: u64,
    /// `PR_GET_PDEATHSIG`.
    pub(super) pdeath_sig: u32,
    /// `PR_GET_SECUREBITS`.
    pub(super) securebits: u32,
}

/// What [`TaskQuery::wait`] returns.
pub(crate) struct QueryOutcome {
    pub(crate) result: TaskQueryResult,
    pub(crate) clone: CloneOutcome,
}

/// Whether the process made a snapshot at the end of its query.
pub(crate) enum CloneOutcome {
    NotRequested,
    Failed(Errno),
    /// The snapshot has this pid in the namespace of its original.
    Cloned(NsPid),
}

/// A query in flight, which ends with the fork of a snapshot if requested.
pub(crate) struct TaskQuery {
    parasite: Parasite,
    pending: Option<PendingList>,
    /// The number of calls in the last list, the clone included. A snapshot must skip them.
    calls_before_fork: usize,
    forks: bool,
    posix_timers: Vec<PosixTimerEntry>,
    threads: BTreeMap<Tid, ThreadQueryResult>,
}

impl TaskQuery {
    /// The maximum number of calls in the last list of a process.
    pub(crate) const MAX_CALLS: usize = 16;

    /// Starts the query of a process. With `clone`, the process makes a snapshot with these flags at the end, which then
    /// executes the given calls.
    ///
    /// # Errors
    ///
    /// The process cannot be queried, exited, or a thread is no longer stopped.
    pub(crate) fn start(
        node: &PstreeNode<'_>,
        mm: &Mm,
        clone: Option<(u64, &[Syscall])>,
        log: &mut DumpLog,
    ) -> Result<Self, QueryError> {
        let pid = mm.process.pid;
        let Some(syscall_insn) = mm.syscall_insn else {
            return Err(QueryError::Unqueryable(RemoteSyscallError::NoSyscallInsn));
        };
        let unavailable = "its timers, its subreaper flag, and its threads' alternate signal stacks, parent-death \
                       signals and clear_child_tid addresses";
        let options = clone.map_or(0, |_| libc::PTRACE_O_TRACECLONE);
        let task = &mut TaskCtx::new(pid, mm.proc_tid, log);
        let mut query = Self {
            parasite: Parasite::attach(task, syscall_insn, options, None, unavailable)?,
            pending: None,
            calls_before_fork: 0,
            forks: clone.is_some(),
            posix_timers: Vec::new(),
            threads: BTreeMap::new(),
        };
        if query.parasite.buffer.is_some() {
            query.query_posix_timers(task, node)?;
        }
        for tid in node.threads.iter().filter(|tid| **tid != mm.proc_tid) {
            let thread = query.query_thread(task, *tid, syscall_insn)?;
            query.threads.insert(*tid, thread);
        }
        let mut calls = vec![
            Syscall::new(libc::SYS_prctl, [PR_GET_MDWE, 0, 0, 0, 0, 0]),
            keyring_query(KEY_SPEC_PROCESS_KEYRING),
        ];
        if query.parasite.buffer.is_some() {
            calls.extend((0..3).map(|which| Syscall::with_output(libc::SYS_getitimer, [which], 1)));
            calls.push(prctl_with_output(libc::PR_GET_CHILD_SUBREAPER as u64));
        }
        calls.extend(thread_queries(query.parasite.buffer.is_some()));
        let snapshot_calls = clone.map_or(&[][..], |(flags, snapshot_calls)| {
            calls.push(Syscall::new(libc::SYS_clone, [flags]));
            snapshot_calls
        });
        query.calls_before_fork = calls.len();
        debug_assert!(query.calls_before_fork <= Self::MAX_CALLS);
        let pending = query
            .parasite
            .start(calls, snapshot_calls)
            .map_err(|error| query_error(pid, error))?;
        query.pending = Some(pending);
        Ok(query)
    }

    /// Waits for the results.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub(crate) fn wait(&mut self, log: &mut DumpLog) -> Result<QueryOutcome, Error> {
        let (pid, tid) = (self.parasite.pid, self.parasite.tid);
        let task = &mut TaskCtx::new(pid, tid, log);
        let pending = self.pending.take().ok_or(Error::TaskExited { pid })?;
        let mut results = self.parasite.wait(pending).map_err(|error| query_error(pid, error))?;
        let clone_result = results.pop_if(|_| self.forks).map(|result| result.result);
        let clone = match clone_result {
            None => CloneOutcome::NotRequested,
            Some(Err(errno)) => CloneOutcome::Failed(errno),
            Some(Ok(ns_pid)) => CloneOutcome::Cloned(NsPid::from_raw(ns_pid as u32)),
        };
        let mut results = ResultReader { pid, results: &results };
        // An error means that the kernel does not support it, so no process has it.
        if results.next_result("PR_GET_MDWE")?.result.is_ok_and(|flags| flags != 0) {
            task.unsupported(format_args!("its memory-deny-write-execute setting (PR_SET_MDWE)"));
        }
        if results.next_result("KEYCTL_GET_KEYRING_ID")?.result.is_ok() {
            task.unsupported(format_args!("its keyring (KEY_SPEC_PROCESS_KEYRING)"));
        }
        let (mut interval_timers, mut subreaper) = ([ItimerEntry::default(); 3], 0);
        if self.parasite.buffer.is_some() {
            for timer in &mut interval_timers {
                let [isec, iusec, vsec, vusec] = results.output_words("getitimer")?;
                *timer = ItimerEntry {
                    isec,
                    iusec,
                    vsec,
                    vusec,
                };
            }
            [subreaper] = results.output_words("subreaper")?;
        }
        let thread = results.thread_result(task, tid, self.parasite.buffer.is_some())?;
        self.threads.insert(tid, thread);
        let result = TaskQueryResult {
            interval_timers,
            posix_timers: mem::take(&mut self.posix_timers),
            subreaper: subreaper as u32 != 0,
            threads: mem::take(&mut self.threads),
        };
        Ok(QueryOutcome { result, clone })
    }

    /// The pid of the snapshot, once it exists, even if the clone was not seen to its end.
    pub(crate) fn snapshot_pid(&mut self) -> Option<Pid> {
        let events = self.parasite.remote.take_events();
        let clone = events.into_iter().find(|(event, _)| *event == libc::PTRACE_EVENT_CLONE);
        clone.map(|(_, snapshot_pid)| Pid::from_raw(snapshot_pid as i32))
    }

    /// Attaches to the snapshot, which has the syscall buffer too. The last value is the number of calls that it must
    /// skip.
    ///
    /// # Errors
    ///
    /// The snapshot exited.
    pub(crate) fn attach_snapshot(
        &self,
        snapshot_pid: Pid,
    ) -> Result<(RemoteSyscalls, Option<SyscallBuffer>, usize), RemoteSyscallError> {
        let remote_child = self.parasite.remote.attach_child(snapshot_pid)?;
        let buffer = self
            .parasite
            .buffer
            .as_ref()
            .map(|buffer| buffer.in_child(snapshot_pid));
        Ok((remote_child, buffer, self.calls_before_fork))
    }

    /// Restores the process. A snapshot may have been made even if the query failed: [`Self::snapshot_pid`].
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub(crate) fn detach(&mut self) -> Result<(), Error> {
        self.parasite.detach()
    }

    fn query_thread(
        &mut self,
        task: &mut TaskCtx<'_>,
        tid: Tid,
        syscall_insn: SyscallInsn,
    ) -> Result<ThreadQueryResult, Error> {
        let pid = self.parasite.pid;
        let with_buffer = self.parasite.buffer.is_some();
        let mut remote = RemoteSyscalls::attach(tid, syscall_insn, 0).map_err(|error| query_error(pid, error))?;
        let results = remote
            .begin_list(self.parasite.buffer.as_mut(), thread_queries(with_buffer), &[])
            .and_then(|pending| remote.finish_list(self.parasite.buffer.as_mut(), pending));
        let restore_result = remote.finish();
        let results = results.map_err(|error| query_error(pid, error))?;
        restore_result.map_err(|error| query_error(pid, error))?;
        ResultReader { pid, results: &results }.thread_result(task, tid, with_buffer)
    }

    /// Queries the timers that `/proc/PID/timers` lists, with the remaining time of each. Without this file
    /// (`CONFIG_CHECKPOINT_RESTORE`) the timers are unknown.
    fn query_posix_timers(&mut self, task: &mut TaskCtx<'_>, node: &PstreeNode<'_>) -> Result<(), Error> {
        let pid = task.pid;
        let Ok(text) = proc_files::read_text(task.proc_tid, "timers") else {
            task.unsupported(format_args!("its POSIX timers, which this kernel does not list"));
            return Ok(());
        };
        let Some(mut timers) = parse_timers(&text) else {
            let error = io::Error::new(io::ErrorKind::InvalidData, "unknown line");
            return Err(task.error("timers")(error));
        };
        timers.retain(|timer| match cpu_clock_owner(timer.clock_id) {
            Some(clock_pid) if !node.threads.iter().any(|tid| node.ns_tid(*tid) == clock_pid) => {
                task.unsupported(format_args!(
                    "the POSIX timer {}, which uses the CPU clock of {clock_pid}, another process or \
                     an exited thread",
                    timer.it_id
                ));
                false
            }
            _ => true,
        });
        for timers in timers.chunks_mut(TIMERS_PER_LIST) {
            let calls = timers.iter().map(|timer| u64::from(timer.it_id)).flat_map(|id| {
                [
                    Syscall::with_output(libc::SYS_timer_gettime, [id, 0, 0, 0, 0, 0], 1),
                    Syscall::new(libc::SYS_timer_getoverrun, [id, 0, 0, 0, 0, 0]),
                ]
            });
            let results = self
                .parasite
                .run(calls.collect())
                .map_err(|error| query_error(pid, error))?;
            let mut results = ResultReader { pid, results: &results };
            for timer in timers {
                [timer.isec, timer.insec, timer.vsec, timer.vnsec] = results.output_words("timer_gettime")?;
                timer.overrun = results.return_value("timer_getoverrun")? as u32;
                match &mut timer.notify_thread_id {
                    Some(number) if node.threads.contains(&Tid::from_raw(*number)) => {
                        *number = node.ns_tid(Tid::from_raw(*number)).as_raw().cast_signed();
                    }
                    // The thread exited. The kernel runs such a timer but sends no signal, and a restore cannot create
                    // a timer for a thread that does not exist.
                    Some(_) => {
                        timer.notify_thread_id = None;
                        timer.it_sigev_notify = SIGEV_NONE;
                    }
                    None => {}
                }
            }
        }
        self.posix_timers = timers;
        Ok(())
    }
}

/// The pid or tid, in the namespace of the timer's creator, whose CPU time a clock measures (`CPUCLOCK_PID` of
/// linux/posix-timers.h). `None` for any other clock, and for the creator's own CPU time.
fn cpu_clock_owner(clock_id: u32) -> Option<NsPid> {
    let clock = clock_id.cast_signed();
    (clock < 0)
        .then_some((!(clock >> 3)).unsigned_abs())
        .filter(|pid| *pid != 0)
        .map(NsPid::from_raw)
}

/// The queries for every thread.
fn thread_queries(with_buffer: bool) -> Vec<Syscall> {
    let mut calls = vec![
        Syscall::new(libc::SYS_prctl, [libc::PR_GET_SECUREBITS as u64, 0, 0, 0, 0, 0]),
        Syscall::new(libc::SYS_prctl, [PR_MCE_KILL_GET, 0, 0, 0, 0, 0]),
        keyring_query(KEY_SPEC_THREAD_KEYRING),
    ];
    if with_buffer {
        calls.extend([
            prctl_with_output(PR_GET_TSC),
            Syscall::with_output(libc::SYS_sigaltstack, [], 1),
            prctl_with_output(libc::PR_GET_PDEATHSIG as u64),
            prctl_with_output(PR_GET_TID_ADDRESS),
        ]);
    }
    calls
}

/// Queries whether a keyring exists, without creating it.
fn keyring_query(keyring_id: i64) -> Syscall {
    Syscall::new(libc::SYS_keyctl, [KEYCTL_GET_KEYRING_ID, keyring_id.cast_unsigned()])
}

/// A prctl(2) that writes its result to memory.
fn prctl_with_output(option: u64) -> Syscall {
    Syscall::with_output(libc::SYS_prctl, [option], 1)
}

impl ResultReader<'_> {
    /// Reads the results of [`thread_queries`].
    fn thread_result(
        &mut self,
        task: &mut TaskCtx<'_>,
        tid: Tid,
        with_buffer: bool,
    ) -> Result<ThreadQueryResult, Error> {
        let securebits = self.return_value("securebits")? as u32;
        // An error means that the kernel does not support the setting, so no thread has it.
        let mce_policy = self.next_result("PR_MCE_KILL_GET")?.result;
        if mce_policy.is_ok_and(|chosen| chosen != PR_MCE_KILL_DEFAULT) {
            task.unsupported(format_args!("the memory error policy of thread {tid} (PR_MCE_KILL)"));
        }
        if self.next_result("KEYCTL_GET_KEYRING_ID")?.result.is_ok() {
            task.unsupported(format_args!("the keyring of thread {tid} (KEY_SPEC_THREAD_KEYRING)"));
        }
        if !with_buffer {
            return Ok(ThreadQueryResult {
                sigaltstack: NO_SIGALTSTACK,
                clear_child_tid: 0,
                pdeath_sig: 0,
                securebits,
            });
        }
        let SyscallResult { result, output: words } = self.next_result("PR_GET_TSC")?;
        if result.is_ok() && words[0] as u32 as u64 != PR_TSC_ENABLE {
            task.unsupported(format_args!(
                "the disabled time stamp counter of thread {tid} (PR_SET_TSC)"
            ));
        }
        let [ss_sp, flags, ss_size] = self.output_words("sigaltstack")?;
        let [signal] = self.output_words("parent-death signal")?;
        let SyscallResult { result, output: words } = self.next_result("clear_child_tid")?;
        let clear_child_tid = match result {
            Ok(_) => words[0],
            Err(errno) => {
                task.unsupported(format_args!("the clear_child_tid address of thread {tid}: {errno}"));
                0
            }
        };
        Ok(ThreadQueryResult {
            sigaltstack: ThreadSasEntry {
                ss_sp,
                ss_size,
                ss_flags: flags as u32,
            },
            clear_child_tid,
            pdeath_sig: signal as u32,
            securebits,
        })
    }
}

/// Parses `/proc/PID/timers` (proc_pid_timers(5)): four lines per timer.
fn parse_timers(text: &str) -> Option<Vec<PosixTimerEntry>> {
    let lines: Vec<_> = text.lines().collect();
    let timer = |lines: &[&str]| {
        let &[id, signal, notify, clock] = lines else {
            return None;
        };
        let (signal, value) = signal.strip_prefix("signal: ")?.split_once('/')?;
        let (sigev_notify, notify_target) = notify.strip_prefix("notify: ")?.split_once('/')?;
        let (kind, target_tid) = notify_target.split_once('.')?;
        let sigev_notify = match sigev_notify {
            "signal" => 0,
            "none" => 1,
            "thread" => 2,
            _ => return None,
        };
        let to_thread = kind == "tid";
        Some(PosixTimerEntry {
            it_id: id.strip_prefix("ID: ")?.parse().ok()?,
            clock_id: clock.strip_prefix("ClockID: ")?.parse::<i32>().ok()?.cast_unsigned(),
            si_signo: signal.parse().ok()?,
            it_sigev_notify: sigev_notify | if to_thread { SIGEV_THREAD_ID } else { 0 },
            sival_ptr: u64::from_str_radix(value, 16).ok()?,
            notify_thread_id: to_thread.then_some(target_tid.parse().ok()?),
            ..PosixTimerEntry::default()
        })
    };
    lines.chunks(4).map(timer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_timers_are_parsed() {
        let timers = parse_timers(
            "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n\
             ID: 0\nsignal: 14/0000000000000005\nnotify: signal/tid.77\nClockID: -6\n",
        )
        .expect("well formed");
        assert_eq!(
            (timers[0].it_id, timers[0].si_signo, timers[0].sival_ptr),
            (1, 60, 0x7fff_86e4_52a8)
        );
        assert_eq!((timers[0].it_sigev_notify, timers[0].notify_thread_id), (0, None));
        assert_eq!((timers[1].it_sigev_notify, timers[1].notify_thread_id), (4, Some(77)));
        assert_eq!(timers[1].clock_id, 0xffff_fffa);
        assert_eq!(
            (cpu_clock_owner(timers[0].clock_id), cpu_clock_owner(timers[1].clock_id)),
            (None, None)
        );
        // CPUCLOCK_SCHED of thread 4711.
        let of_thread = ((!4711) << 3) | 6_i32;
        assert_eq!(cpu_clock_owner(of_thread.cast_unsigned()), Some(NsPid::from_raw(4711)));
        assert_eq!(parse_timers("").map(|timers| timers.len()), Some(0));
        assert_eq!(parse_timers("ID: 1\nsignal: 60/0\n"), None);
    }
}
