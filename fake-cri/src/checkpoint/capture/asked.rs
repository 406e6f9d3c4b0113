//! What a process is asked about itself, since neither `/proc` nor ptrace tells it: system calls injected into its stopped
//! threads ([`crate::process::inject`]).
//!
//! ```text
//!   the process, while it stands      mmap of one page for the answers
//!     first standing thread:          interval timers, POSIX timers, subreaper
//!     every thread:                   alternate signal stack, clear_child_tid, parent-death signal, securebits
//!                                     munmap
//!   the process, or a copy of it      mmap
//!   that fork(2) made:                actions of caught signals and SIGCHLD, brk, dumpable
//!                                     munmap
//! ```
//!
//! What a fork keeps is asked of the copy when there is one, since the container runs on then. The page is gone before the
//! mappings' flags and pages are read, so no archive shows it. A process that cannot be asked (a seccomp filter that may not be
//! suspended, a 32-bit program) is written with defaults, and `dump.log` says which. One that can map no page (`RLIMIT_AS`) is
//! asked what it answers without one, and the rest is said likewise.

use std::{collections::BTreeMap, io, slice};

use cri_proto::criu::message::{ItimerEntry, PosixTimerEntry, SaEntry, ThreadSasEntry};
use nix::errno::Errno;

use super::{core, tree::Node};
use crate::{
    checkpoint::{error::Error, log::DumpLog},
    process::{
        inject::{Gate, InjectError, Injection},
        memory::Memory,
        proc,
    },
};

/// The page for the answers.
const PAGE: u64 = 4096;
/// `PR_GET_TID_ADDRESS`, with `CONFIG_CHECKPOINT_RESTORE`.
const GET_TID_ADDRESS: u64 = 40;
/// The size of the kernel's set of signals.
const SIGNAL_SET: u64 = 8;
/// The dumpable state that `PR_SET_DUMPABLE` does not take: dumps only for root. It is closest to none.
const ROOT_ALONE: u64 = 2;
/// `MEMBARRIER_CMD_GET_REGISTRATIONS`, Linux 6.3.
const GET_REGISTRATIONS: u64 = 1 << 9;
/// The barriers that only a registered process may ask for, each with the command that registers one (linux/membarrier.h).
const PRIVATE_BARRIERS: [(u64, u32); 3] = [(1 << 3, 1 << 4), (1 << 5, 1 << 6), (1 << 7, 1 << 8)];
/// `SIGEV_THREAD_ID`: the signal of a timer goes to one thread.
const TO_ONE_THREAD: u32 = 4;

/// What a process said of itself that no copy of it can say.
#[derive(Debug)]
pub(super) struct Answers {
    /// `ITIMER_REAL`, `ITIMER_VIRTUAL`, `ITIMER_PROF`.
    pub(super) interval_timers: [ItimerEntry; 3],
    /// Those of timer_create(2).
    pub(super) posix_timers: Vec<PosixTimerEntry>,
    /// `PR_GET_CHILD_SUBREAPER`.
    pub(super) subreaper: bool,
    /// What each thread said.
    pub(super) threads: BTreeMap<i32, ThreadAnswers>,
}

/// What a process, or a copy of it, said of itself.
#[derive(Debug)]
pub(super) struct Inherited {
    /// The actions of signals 1 to 64 without those that have none, in order.
    pub(super) actions: Vec<SaEntry>,
    /// The end of its heap, to the byte.
    pub(super) heap_end: u64,
    /// `PR_GET_DUMPABLE`.
    pub(super) dumpable: i32,
    /// The commands of membarrier(2) by which it registered itself.
    pub(super) barriers: u32,
}

/// What a thread said of itself.
#[derive(Debug)]
pub(super) struct ThreadAnswers {
    /// sigaltstack(2).
    pub(super) signal_stack: ThreadSasEntry,
    /// The address that the kernel clears at its end, and wakes whoever waits there (`pthread_join`).
    pub(super) clear_at_end: u64,
    /// `PR_GET_PDEATHSIG`.
    pub(super) parent_death_signal: u32,
    /// `PR_GET_SECUREBITS`.
    pub(super) secure_bits: u32,
}

/// Asks a process; `None` when it cannot be asked, which is in the log then.
///
/// # Errors
///
/// [`Error::Ended`], or a thread that does not stand still any more.
pub(super) fn ask(node: &Node<'_>, window: i32, gate: Gate, log: &mut DumpLog) -> Result<Option<Answers>, Error> {
    let pid = node.process.pid();
    let lacking = "its timers, its subreaper flag, and its threads' alternate signal stacks, parent-death signals and the addresses \
                   they clear at their end";
    let answers = with_page(pid, window, gate, 0, (lacking, log), |asked, log| {
        asked.process(&node.threads, gate, log)
    });
    let mut answers = judge(pid, answers, log)?;
    let timers = answers.iter_mut().flat_map(|answers| &mut answers.posix_timers);
    for tid in timers.filter_map(|timer| timer.notify_thread_id.as_mut()) {
        *tid = node.number(*tid).cast_signed();
    }
    Ok(answers)
}

/// Asks a process, or its copy, what a fork keeps. `options` are those of ptrace that are in force.
///
/// # Errors
///
/// As [`ask`].
pub(super) fn ask_inherited(
    pid: i32,
    eyes: i32,
    gate: Gate,
    options: i32,
    log: &mut DumpLog,
) -> Result<Option<Inherited>, Error> {
    let answers = with_page(pid, eyes, gate, options, ("its signal handlers", log), Asked::inherited);
    judge(pid, answers, log)
}

/// That a process cannot be asked.
pub(super) fn unasked(pid: i32, why: &InjectError, log: &mut DumpLog) {
    log.lost(format_args!(
        "pid {pid}: its signal handlers, timers, alternate signal stacks, securebits, parent-death signal, dumpable and \
         subreaper flags, and the addresses its threads clear at their end, since {why}; they are defaults here"
    ));
}

/// Which refusals leave defaults.
fn judge<T>(pid: i32, answers: Result<T, Refusal>, log: &mut DumpLog) -> Result<Option<T>, Error> {
    match answers {
        Ok(answers) => Ok(Some(answers)),
        Err(Refusal::Error(error)) => Err(error),
        Err(Refusal::Inject(InjectError::Ended)) => Err(Error::Ended { pid }),
        Err(Refusal::Inject(
            error @ (InjectError::NoGate | InjectError::Width | InjectError::Seccomp(_) | InjectError::Dispatched),
        )) => {
            unasked(pid, &error, log);
            Ok(None)
        }
        Err(Refusal::Inject(error)) => Err(Error::capture(pid, "what it is asked", io::Error::other(error))),
    }
}

/// Why there are no answers.
enum Refusal {
    Inject(InjectError),
    Error(Error),
}

impl From<InjectError> for Refusal {
    fn from(error: InjectError) -> Self {
        Self::Inject(error)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Asks a thread that has a page for its answers, or none if it cannot have one; then `lacking` cannot be asked.
fn with_page<T>(
    pid: i32,
    tid: i32,
    gate: Gate,
    options: i32,
    (lacking, log): (&str, &mut DumpLog),
    questions: impl FnOnce(&mut Asked, &mut DumpLog) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let mut first = Asked::enter(pid, tid, gate, options)?;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let access = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    match first
        .injection
        .call(libc::SYS_mmap, [0, PAGE, access, flags, u64::MAX, 0])?
    {
        Ok(page) => first.page = Some(page),
        Err(errno) => log.lost(format_args!(
            "pid {pid}: {lacking}, since it can map no page to answer into ({errno}); they are defaults here"
        )),
    }
    let answers = questions(&mut first, log);
    // The page goes whatever came of the questions, and before the injection ends.
    let unmapped = match first.page {
        Some(page) => first.number("munmap", libc::SYS_munmap, [page, PAGE, 0, 0, 0, 0]),
        None => Ok(0),
    };
    let answers = answers?;
    unmapped?;
    first.injection.leave()?;
    Ok(answers)
}

/// A thread that answers.
struct Asked {
    pid: i32,
    tid: i32,
    injection: Injection,
    memory: Memory,
    /// For answers that are more than a number.
    page: Option<u64>,
}

impl Asked {
    fn enter(pid: i32, tid: i32, gate: Gate, options: i32) -> Result<Self, InjectError> {
        Ok(Self {
            pid,
            tid,
            injection: Injection::enter(tid, gate, options)?,
            memory: Memory::of(tid),
            page: None,
        })
    }

    /// A call that has to succeed; its answer.
    fn number(&mut self, what: &'static str, call: i64, arguments: [u64; 6]) -> Result<u64, Refusal> {
        let answer = self.injection.call(call, arguments)?;
        Ok(answer.map_err(|errno| Error::capture(self.pid, what, io::Error::other(errno)))?)
    }

    /// The words at the start of the page.
    fn words<const N: usize>(&mut self) -> Result<[u64; N], Refusal> {
        let mut bytes = vec![0; N * 8];
        let page = self.page.expect("asked only where there is a page");
        let range = page..page + bytes.len() as u64;
        self.memory
            .read(slice::from_ref(&range), &mut bytes, |_| {})
            .map_err(|error| Error::capture(self.pid, "answers", error))?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().expect("chunks of eight"));
        }
        Ok(words)
    }

    /// A prctl(2) that answers by a number, or into the page.
    fn prctl(&mut self, what: &'static str, option: u64, place: u64) -> Result<u64, Refusal> {
        self.number(what, libc::SYS_prctl, [option, place, 0, 0, 0, 0])
    }

    /// What a fork keeps.
    fn inherited(&mut self, log: &mut DumpLog) -> Result<Inherited, Refusal> {
        // Which signals are ignored or take their default `/proc` tells, and their flags mean nothing but SIGCHLD's (whether
        // ended children wait to be reaped).
        let status = proc::status(self.tid).map_err(|error| Error::capture(self.pid, "status", error))?;
        let mut actions = core::known_actions(status.sigign);
        for (signal, action) in core::signals_with_action().zip(&mut actions) {
            if status.sigcgt & 1 << (signal - 1) == 0 && signal != libc::SIGCHLD as u32 {
                continue;
            }
            let Some(page) = self.page else { break };
            let arguments = [u64::from(signal), 0, page, SIGNAL_SET, 0, 0];
            self.number("rt_sigaction", libc::SYS_rt_sigaction, arguments)?;
            let [sigaction, flags, restorer, mask] = self.words()?;
            *action = SaEntry {
                sigaction,
                flags,
                restorer,
                mask,
                ..SaEntry::default()
            };
        }
        let heap_end = self.number("brk", libc::SYS_brk, [0; 6])?;
        let dumpable = match self.prctl("dumpable", libc::PR_GET_DUMPABLE as u64, 0)? {
            ROOT_ALONE => 0,
            other => other as i32,
        };
        Ok(Inherited {
            actions,
            heap_end,
            dumpable,
            barriers: self.barriers(log)?,
        })
    }

    /// How it registered itself with membarrier(2).
    fn barriers(&mut self, log: &mut DumpLog) -> Result<u32, Refusal> {
        let mut call = |command: u64| {
            self.injection
                .call(libc::SYS_membarrier, [command, 0, 0, 0, 0, 0])
                .map_err(Refusal::from)
        };
        match call(GET_REGISTRATIONS)? {
            Ok(registered) => return Ok(registered as u32),
            // A kernel without it has registered nobody.
            Err(Errno::ENOSYS) => return Ok(0),
            Err(_) => {}
        }
        // An older kernel does not tell; but it refuses the barrier itself to who is not registered.
        let mut registered = 0;
        for (barrier, register) in PRIVATE_BARRIERS {
            if call(barrier)?.is_ok() {
                registered |= register;
            }
        }
        log.info(format_args!(
            "pid {}: whether it takes part in global memory barriers is not known (Linux before 6.3)",
            self.pid
        ));
        Ok(registered)
    }

    /// What the process has as a whole, then what its threads have. Every call makes the container stand a little longer.
    fn process(&mut self, threads: &[i32], gate: Gate, log: &mut DumpLog) -> Result<Answers, Refusal> {
        let mut interval_timers = [ItimerEntry::default(); 3];
        for (which, timer) in (0..).zip(&mut interval_timers) {
            let Some(page) = self.page else { break };
            self.number("getitimer", libc::SYS_getitimer, [which, page, 0, 0, 0, 0])?;
            let [isec, iusec, vsec, vusec] = self.words()?;
            *timer = ItimerEntry {
                isec,
                iusec,
                vsec,
                vusec,
            };
        }
        let (mut posix_timers, mut subreaper) = (Vec::new(), 0);
        if let Some(page) = self.page {
            posix_timers = self.posix_timers(page, log)?;
            self.prctl("subreaper", libc::PR_GET_CHILD_SUBREAPER as u64, page)?;
            [subreaper] = self.words()?;
        }
        let mut answers = Answers {
            interval_timers,
            posix_timers,
            subreaper: subreaper as u32 != 0,
            threads: BTreeMap::new(),
        };
        for tid in threads {
            let thread = if *tid == self.tid {
                self.thread(log)?
            } else {
                let mut other = Self::enter(self.pid, *tid, gate, 0)?;
                other.page = self.page;
                let thread = other.thread(log)?;
                other.injection.leave()?;
                thread
            };
            answers.threads.insert(*tid, thread);
        }
        Ok(answers)
    }

    fn thread(&mut self, log: &mut DumpLog) -> Result<ThreadAnswers, Refusal> {
        let secure_bits = self.prctl("securebits", libc::PR_GET_SECUREBITS as u64, 0)? as u32;
        let Some(page) = self.page else {
            return Ok(ThreadAnswers {
                signal_stack: core::NO_SIGNAL_STACK,
                clear_at_end: 0,
                parent_death_signal: 0,
                secure_bits,
            });
        };
        self.number("sigaltstack", libc::SYS_sigaltstack, [0, page, 0, 0, 0, 0])?;
        let [ss_sp, flags, ss_size] = self.words()?;
        self.prctl("parent-death signal", libc::PR_GET_PDEATHSIG as u64, page)?;
        let [signal] = self.words()?;
        let arguments = [GET_TID_ADDRESS, page, 0, 0, 0, 0];
        let clear_at_end = match self.injection.call(libc::SYS_prctl, arguments)? {
            Ok(_) => self.words::<1>()?[0],
            Err(errno) => {
                log.lost(format_args!(
                    "pid {}: the address that thread {} clears at its end: {errno}",
                    self.pid, self.tid
                ));
                0
            }
        };
        Ok(ThreadAnswers {
            signal_stack: ThreadSasEntry {
                ss_sp,
                ss_size,
                ss_flags: flags as u32,
            },
            clear_at_end,
            parent_death_signal: signal as u32,
            secure_bits,
        })
    }

    /// The timers that `/proc/PID/timers` lists, with the time that is left of each. Without the file (`CONFIG_CHECKPOINT_RESTORE`)
    /// they cannot be known.
    fn posix_timers(&mut self, page: u64, log: &mut DumpLog) -> Result<Vec<PosixTimerEntry>, Refusal> {
        let Ok(text) = proc::text(self.tid, "timers") else {
            log.lost(format_args!(
                "pid {}: POSIX timers, which this kernel does not list",
                self.pid
            ));
            return Ok(Vec::new());
        };
        let Some(mut timers) = parse_timers(&text) else {
            let error = io::Error::new(io::ErrorKind::InvalidData, "unknown line");
            return Err(Error::capture(self.pid, "timers", error).into());
        };
        for timer in &mut timers {
            let id = u64::from(timer.it_id);
            self.number("timer_gettime", libc::SYS_timer_gettime, [id, page, 0, 0, 0, 0])?;
            [timer.isec, timer.insec, timer.vsec, timer.vnsec] = self.words()?;
            timer.overrun = self.number("timer_getoverrun", libc::SYS_timer_getoverrun, [id, 0, 0, 0, 0, 0])? as u32;
        }
        Ok(timers)
    }
}

/// Reads `/proc/PID/timers` (proc_pid_timers(5)): four lines a timer.
fn parse_timers(text: &str) -> Option<Vec<PosixTimerEntry>> {
    let lines: Vec<_> = text.lines().collect();
    let timer = |lines: &[&str]| {
        let &[id, signal, notify, clock] = lines else {
            return None;
        };
        let (signal, value) = signal.strip_prefix("signal: ")?.split_once('/')?;
        let (way, whom) = notify.strip_prefix("notify: ")?.split_once('/')?;
        let (kind, number) = whom.split_once('.')?;
        let way = match way {
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
            it_sigev_notify: way | if to_thread { TO_ONE_THREAD } else { 0 },
            sival_ptr: u64::from_str_radix(value, 16).ok()?,
            notify_thread_id: to_thread.then_some(number.parse().ok()?),
            ..PosixTimerEntry::default()
        })
    };
    lines.chunks(4).map(timer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_read_as_the_kernel_lists_them() {
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
        assert_eq!(parse_timers("").map(|timers| timers.len()), Some(0));
        assert_eq!(parse_timers("ID: 1\nsignal: 60/0\n"), None);
    }
}
