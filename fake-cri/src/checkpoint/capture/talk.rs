//! What a process alone can say of itself, and its threads: asked while it stands, the last of it while the tracer reads what else
//! there is.

use std::{collections::BTreeMap, io, mem};

use cri_proto::criu::message::{ItimerEntry, PosixTimerEntry, ThreadSasEntry};

use super::{
    Space,
    asked::{Asked, Reader, failed, is_mute},
    core,
    tree::Node,
};
use crate::{
    checkpoint::{error::Error, log::DumpLog},
    process::{
        inject::{Answer, Area, Call, Gate, InjectError, Injection, UnderWay},
        proc,
    },
};

/// `PR_GET_TID_ADDRESS`, with `CONFIG_CHECKPOINT_RESTORE`.
const GET_TID_ADDRESS: u64 = 40;
/// `PR_GET_MDWE`, Linux 6.3: whether memory may not become executable that was not, or that is written.
const GET_MDWE: u64 = 66;
/// `PR_MCE_KILL_GET`, and `PR_MCE_KILL_DEFAULT`, its answer where nothing was chosen (linux/prctl.h).
const GET_MACHINE_CHECK_KILL: u64 = 34;
const MACHINE_CHECK_DEFAULT: u64 = 2;
/// `PR_GET_TSC`, which x86 alone has, and `PR_TSC_ENABLE` (linux/prctl.h).
const GET_TIME_STAMP_COUNTER: u64 = 25;
const TIME_STAMP_COUNTER_ENABLED: u64 = 1;
/// `KEYCTL_GET_KEYRING_ID`, `KEY_SPEC_THREAD_KEYRING` and `KEY_SPEC_PROCESS_KEYRING` (linux/keyctl.h). To ask for the keyring of
/// the session would give the process one.
const GET_KEYRING: u64 = 0;
const OF_THREAD: i64 = -1;
const OF_PROCESS: i64 = -2;
/// `SIGEV_NONE`: a timer that signals nobody.
const TO_NOBODY: u32 = 1;
/// `SIGEV_THREAD_ID`: the signal of a timer goes to one thread.
const TO_ONE_THREAD: u32 = 4;

/// How many timers are asked for in one list, by two calls each.
const TIMERS: usize = 100;

/// What a process said of itself that no copy of it can say.
#[derive(Debug)]
pub(crate) struct Answers {
    /// `ITIMER_REAL`, `ITIMER_VIRTUAL`, `ITIMER_PROF`.
    pub(super) interval_timers: [ItimerEntry; 3],
    /// Those of timer_create(2).
    pub(super) posix_timers: Vec<PosixTimerEntry>,
    /// `PR_GET_CHILD_SUBREAPER`.
    pub(super) subreaper: bool,
    /// What each thread said.
    pub(super) threads: BTreeMap<i32, ThreadAnswers>,
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

/// A process that is being asked, its last answers under way; and that copies itself behind them, where that is wanted.
pub(crate) struct Talk {
    asked: Asked,
    under_way: Option<UnderWay>,
    /// How many calls there are before those of a copy.
    calls: usize,
    copies: bool,
    posix_timers: Vec<PosixTimerEntry>,
    threads: BTreeMap<i32, ThreadAnswers>,
}

impl Talk {
    /// More calls are in no last list of a process.
    pub(crate) const MOST_CALLS: usize = 16;

    /// Begins to ask a process; the inner error says that it cannot be asked. With `clone`, it makes a copy by these flags in the
    /// end, which makes the calls of the list.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`], or a thread that does not stand still any more.
    pub(crate) fn begin(
        node: &Node<'_>,
        space: &Space,
        clone: Option<(u64, &[Call])>,
        log: &mut DumpLog,
    ) -> Result<Result<Self, InjectError>, Error> {
        let pid = space.process.pid;
        let Some(gate) = space.gate else {
            return Ok(Err(InjectError::NoGate));
        };
        let lacking = "its timers, its subreaper flag, and its threads' alternate signal stacks, parent-death signals and the \
                       addresses they clear at their end";
        let options = clone.map_or(0, |_| libc::PTRACE_O_TRACECLONE);
        let asked = match Asked::enter((pid, space.window), gate, options, None, (lacking, log)) {
            Ok(asked) => asked,
            Err(error) if is_mute(&error) => return Ok(Err(error)),
            Err(error) => return Err(failed(pid, error)),
        };
        let mut talk = Self {
            asked,
            under_way: None,
            calls: 0,
            copies: clone.is_some(),
            posix_timers: Vec::new(),
            threads: BTreeMap::new(),
        };
        if talk.asked.area.is_some() {
            talk.posix_timers(node, log)?;
        }
        for tid in node.threads.iter().filter(|tid| **tid != space.window) {
            let thread = talk.other_thread(*tid, gate, log)?;
            talk.threads.insert(*tid, thread);
        }
        let mut calls = vec![
            Call::new(libc::SYS_prctl, [GET_MDWE, 0, 0, 0, 0, 0]),
            keyring(OF_PROCESS),
        ];
        if talk.asked.area.is_some() {
            calls.extend((0..3).map(|which| Call::answering(libc::SYS_getitimer, [which, 0, 0, 0, 0, 0], 1)));
            calls.push(prctl_into(libc::PR_GET_CHILD_SUBREAPER as u64));
        }
        calls.extend(of_thread(talk.asked.area.is_some()));
        let of_copy = clone.map_or(&[][..], |(flags, of_copy)| {
            calls.push(Call::new(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]));
            of_copy
        });
        talk.calls = calls.len();
        debug_assert!(talk.calls <= Self::MOST_CALLS);
        let under_way = talk.asked.begin(calls, of_copy).map_err(|error| failed(pid, error))?;
        talk.under_way = Some(under_way);
        Ok(Ok(talk))
    }

    /// Waits for the answers; and how the copying came out, where there is any: with the copy's number in its own namespace.
    ///
    /// # Errors
    ///
    /// As [`Self::begin`].
    pub(crate) fn hear(&mut self, log: &mut DumpLog) -> Result<(Answers, Option<nix::Result<u64>>), Error> {
        let (pid, tid) = (self.asked.pid, self.asked.tid);
        let under_way = self.under_way.take().ok_or(Error::Ended { pid })?;
        let mut answers = self.asked.end(under_way).map_err(|error| failed(pid, error))?;
        let copied = match self.copies {
            true => answers.pop().map(|answer| answer.result),
            false => None,
        };
        let mut answers = Reader { pid, answers: &answers };
        // A kernel that does not know it has refused nobody.
        if answers.next("PR_GET_MDWE")?.result.is_ok_and(|flags| flags != 0) {
            log.lost(format_args!(
                "pid {pid}: that its memory may not become executable (PR_SET_MDWE)"
            ));
        }
        if answers.next("KEYCTL_GET_KEYRING_ID")?.result.is_ok() {
            log.lost(format_args!("pid {pid}: its keyring (KEY_SPEC_PROCESS_KEYRING)"));
        }
        let (mut interval_timers, mut subreaper) = ([ItimerEntry::default(); 3], 0);
        if self.asked.area.is_some() {
            for timer in &mut interval_timers {
                let [isec, iusec, vsec, vusec] = answers.words("getitimer")?;
                *timer = ItimerEntry {
                    isec,
                    iusec,
                    vsec,
                    vusec,
                };
            }
            [subreaper] = answers.words("subreaper")?;
        }
        let thread = answers.thread(tid, self.asked.area.is_some(), log)?;
        self.threads.insert(tid, thread);
        let answers = Answers {
            interval_timers,
            posix_timers: mem::take(&mut self.posix_timers),
            subreaper: subreaper as u32 != 0,
            threads: mem::take(&mut self.threads),
        };
        Ok((answers, copied))
    }

    /// The copy's number here, once it is there; it is there also when its making was not seen to its end.
    pub(crate) fn copy(&mut self) -> Option<i32> {
        let events = self.asked.injection.take_events();
        let clone = events.into_iter().find(|(event, _)| *event == libc::PTRACE_EVENT_CLONE);
        clone.map(|(_, copy)| copy as i32)
    }

    /// Leads a copy, which has the area too. How many calls it has to follow is the second.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub(crate) fn follow(&self, copy: i32) -> Result<(Injection, Option<Area>, usize), InjectError> {
        let injection = self.asked.injection.copy(copy)?;
        let area = self.asked.area.as_ref().map(|area| area.of_copy(copy));
        Ok((injection, area, self.calls))
    }

    /// Has the process stand as it stood. It may be that it made a copy on the way: [`Self::copy`].
    ///
    /// # Errors
    ///
    /// As [`Self::begin`].
    pub(crate) fn leave(&mut self) -> Result<(), Error> {
        self.asked.leave()
    }

    fn other_thread(&mut self, tid: i32, gate: Gate, log: &mut DumpLog) -> Result<ThreadAnswers, Error> {
        let pid = self.asked.pid;
        let with_area = self.asked.area.is_some();
        let mut other = Injection::enter(tid, gate, 0).map_err(|error| failed(pid, error))?;
        let answers = other
            .begin(self.asked.area.as_mut(), of_thread(with_area), &[])
            .and_then(|under_way| other.end(self.asked.area.as_mut(), under_way));
        let left = other.leave();
        let answers = answers.map_err(|error| failed(pid, error))?;
        left.map_err(|error| failed(pid, error))?;
        Reader { pid, answers: &answers }.thread(tid, with_area, log)
    }

    /// The timers that `/proc/PID/timers` lists, with the time that is left of each. Without the file (`CONFIG_CHECKPOINT_RESTORE`)
    /// they cannot be known.
    fn posix_timers(&mut self, node: &Node<'_>, log: &mut DumpLog) -> Result<(), Error> {
        let pid = self.asked.pid;
        let Ok(text) = proc::text(self.asked.tid, "timers") else {
            log.lost(format_args!("pid {pid}: POSIX timers, which this kernel does not list"));
            return Ok(());
        };
        let Some(mut timers) = parse_timers(&text) else {
            let error = io::Error::new(io::ErrorKind::InvalidData, "unknown line");
            return Err(Error::capture(pid, "timers", error));
        };
        timers.retain(|timer| match clock_of(timer.clock_id) {
            Some(number) if !node.threads.iter().any(|tid| node.number(*tid) == number) => {
                log.lost(format_args!(
                    "pid {pid}: the POSIX timer {}, which runs by the processor time of {number}, another process or a thread that \
                     has ended",
                    timer.it_id
                ));
                false
            }
            _ => true,
        });
        for timers in timers.chunks_mut(TIMERS) {
            let calls = timers.iter().map(|timer| u64::from(timer.it_id)).flat_map(|id| {
                [
                    Call::answering(libc::SYS_timer_gettime, [id, 0, 0, 0, 0, 0], 1),
                    Call::new(libc::SYS_timer_getoverrun, [id, 0, 0, 0, 0, 0]),
                ]
            });
            let answers = self.asked.ask(calls.collect()).map_err(|error| failed(pid, error))?;
            let mut answers = Reader { pid, answers: &answers };
            for timer in timers {
                [timer.isec, timer.insec, timer.vsec, timer.vnsec] = answers.words("timer_gettime")?;
                timer.overrun = answers.number("timer_getoverrun")? as u32;
                match &mut timer.notify_thread_id {
                    Some(tid) if node.threads.contains(tid) => *tid = node.number(*tid).cast_signed(),
                    // The thread has ended: the timer runs, and the kernel signals nobody. No timer can be made for a thread
                    // that is not there.
                    Some(_) => {
                        timer.notify_thread_id = None;
                        timer.it_sigev_notify = TO_NOBODY;
                    }
                    None => {}
                }
            }
        }
        self.posix_timers = timers;
        Ok(())
    }
}

/// The process or thread by whose processor time a clock runs, in the numbers of whoever made the timer; `None` for any other
/// clock, and for the maker's own time (`CPUCLOCK_PID` of linux/posix-timers.h).
fn clock_of(clock_id: u32) -> Option<u32> {
    let clock = clock_id.cast_signed();
    (clock < 0)
        .then_some((!(clock >> 3)).unsigned_abs())
        .filter(|number| *number != 0)
}

/// What every thread is asked.
fn of_thread(with_area: bool) -> Vec<Call> {
    let mut calls = vec![
        Call::new(libc::SYS_prctl, [libc::PR_GET_SECUREBITS as u64, 0, 0, 0, 0, 0]),
        Call::new(libc::SYS_prctl, [GET_MACHINE_CHECK_KILL, 0, 0, 0, 0, 0]),
        keyring(OF_THREAD),
    ];
    if with_area {
        calls.extend([
            prctl_into(GET_TIME_STAMP_COUNTER),
            Call::answering(libc::SYS_sigaltstack, [0; 6], 1),
            prctl_into(libc::PR_GET_PDEATHSIG as u64),
            prctl_into(GET_TID_ADDRESS),
        ]);
    }
    calls
}

/// Asks whether there is such a keyring; none is made.
fn keyring(which: i64) -> Call {
    Call::new(libc::SYS_keyctl, [GET_KEYRING, which.cast_unsigned(), 0, 0, 0, 0])
}

/// A prctl(2) that answers into memory.
fn prctl_into(option: u64) -> Call {
    Call::answering(libc::SYS_prctl, [option, 0, 0, 0, 0, 0], 1)
}

impl Reader<'_> {
    /// What a thread answered to [`of_thread`].
    fn thread(&mut self, tid: i32, with_area: bool, log: &mut DumpLog) -> Result<ThreadAnswers, Error> {
        let pid = self.pid;
        let secure_bits = self.number("securebits")? as u32;
        // A kernel without one of these has let nobody choose.
        let on_error = self.next("PR_MCE_KILL_GET")?.result;
        if on_error.is_ok_and(|chosen| chosen != MACHINE_CHECK_DEFAULT) {
            log.lost(format_args!(
                "pid {pid}: whether thread {tid} is killed at once by an error of the memory (PR_MCE_KILL)"
            ));
        }
        if self.next("KEYCTL_GET_KEYRING_ID")?.result.is_ok() {
            log.lost(format_args!(
                "pid {pid}: the keyring of thread {tid} (KEY_SPEC_THREAD_KEYRING)"
            ));
        }
        if !with_area {
            return Ok(ThreadAnswers {
                signal_stack: core::NO_SIGNAL_STACK,
                clear_at_end: 0,
                parent_death_signal: 0,
                secure_bits,
            });
        }
        let Answer { result, words } = self.next("PR_GET_TSC")?;
        if result.is_ok() && words[0] as u32 as u64 != TIME_STAMP_COUNTER_ENABLED {
            log.lost(format_args!(
                "pid {pid}: that thread {tid} may not read the time stamp counter (PR_SET_TSC)"
            ));
        }
        let [ss_sp, flags, ss_size] = self.words("sigaltstack")?;
        let [signal] = self.words("parent-death signal")?;
        let Answer { result, words } = self.next("clear_child_tid")?;
        let clear_at_end = match result {
            Ok(_) => words[0],
            Err(errno) => {
                log.lost(format_args!(
                    "pid {pid}: the address that thread {tid} clears at its end: {errno}"
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
        assert_eq!(
            (clock_of(timers[0].clock_id), clock_of(timers[1].clock_id)),
            (None, None)
        );
        // CPUCLOCK_SCHED of thread 4711.
        let of_thread = ((!4711) << 3) | 6_i32;
        assert_eq!(clock_of(of_thread.cast_unsigned()), Some(4711));
        assert_eq!(parse_timers("").map(|timers| timers.len()), Some(0));
        assert_eq!(parse_timers("ID: 1\nsignal: 60/0\n"), None);
    }
}
