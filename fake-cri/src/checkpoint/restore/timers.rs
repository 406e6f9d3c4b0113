//! Timers of a process. They run from the moment they are set, so they are set last.

use cri_proto::criu::message::{ItimerEntry, PosixTimerEntry, TaskTimersEntry};
use nix::errno::Errno;

use super::{RestoreError, puppet::Puppet};

/// `PR_TIMER_CREATE_RESTORE_IDS`, Linux 6.15: a timer gets the number that is asked for.
const TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// How many numbers are tried without it: the kernel gives one after the other.
const MOST_TRIES: u32 = 4096;

/// Sets the timers of a process.
pub(super) fn set(puppet: &mut Puppet, timers: &TaskTimersEntry) -> Result<(), RestoreError> {
    let mut posix = timers.posix.clone();
    posix.sort_by_key(|timer| timer.it_id);
    let arguments = [TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0, 0];
    let by_number = !posix.is_empty() && puppet.attempt("choose timers", libc::SYS_prctl, arguments)?.is_ok();
    for timer in &posix {
        create(puppet, timer, by_number)?;
    }
    if by_number {
        let arguments = [TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0, 0];
        puppet.call("choose no more timers", libc::SYS_prctl, arguments)?;
    }
    for timer in &posix {
        let value = (timer.vsec, timer.vnsec);
        if let Some(words) = times((timer.isec, timer.insec), value) {
            let address = puppet.put_words(&words)?;
            let arguments = [timer.it_id.into(), 0, address, 0, 0, 0];
            puppet.call("set a timer", libc::SYS_timer_settime, arguments)?;
        }
    }
    for (which, timer) in [(0, timers.real), (1, timers.virt), (2, timers.prof)] {
        let ItimerEntry {
            isec,
            iusec,
            vsec,
            vusec,
        } = timer;
        if let Some(words) = times((isec, iusec), (vsec, vusec)) {
            let address = puppet.put_words(&words)?;
            let arguments = [which, address, 0, 0, 0, 0];
            puppet.call("set an interval timer", libc::SYS_setitimer, arguments)?;
        }
    }
    Ok(())
}

/// Interval and value as the kernel takes them; `None` for a timer that does not run. One that had just run out begins anew: its
/// signal waits among the others.
fn times(interval: (u64, u64), value: (u64, u64)) -> Option<[u64; 4]> {
    let value = if value == (0, 0) { interval } else { value };
    (value != (0, 0)).then_some([interval.0, interval.1, value.0, value.1])
}

/// Makes a timer with its number.
fn create(puppet: &mut Puppet, timer: &PosixTimerEntry, by_number: bool) -> Result<(), RestoreError> {
    /// The size of `struct sigevent` in words; behind it the place for the number.
    const EVENT: usize = 8;
    let wanted = timer.it_id;
    let mut words = [0; EVENT + 1];
    words[0] = timer.sival_ptr;
    words[1] = u64::from(timer.si_signo) | u64::from(timer.it_sigev_notify) << 32;
    words[2] = u64::from(timer.notify_thread_id.unwrap_or(0).unsigned_abs());
    words[EVENT] = wanted.into();
    for _ in 0..MOST_TRIES {
        let event = puppet.put_words(&words)?;
        let number = event + 8 * EVENT as u64;
        let arguments = [timer.clock_id.into(), event, number, 0, 0, 0];
        puppet.call("make a timer", libc::SYS_timer_create, arguments)?;
        let given = puppet.get(8 * EVENT + 4)?;
        let given = given.last_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        if given == wanted {
            return Ok(());
        }
        if by_number || given > wanted {
            break;
        }
        puppet.call("drop a timer", libc::SYS_timer_delete, [given.into(), 0, 0, 0, 0, 0])?;
    }
    Err(RestoreError::step(format!("make timer {wanted}"), Errno::EBUSY))
}
