//! Restores the timers of a process. They run from the moment they are set, so they are set last.

use cri_proto::criu::message::{ItimerEntry, PosixTimerEntry, TaskTimersEntry};
use nix::errno::Errno;

use super::{RestoreError, remote_task::RemoteTask};

/// `PR_TIMER_CREATE_RESTORE_IDS`, Linux 6.15: timer_create(2) takes the id from the caller.
const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// How many timers are created without it to reach an id: the kernel assigns ids in sequence.
const MAX_ID_TRIES: u32 = 4096;

pub(super) fn set(remote: &mut RemoteTask, timers: &TaskTimersEntry) -> Result<(), RestoreError> {
    let mut posix = timers.posix.clone();
    posix.sort_by_key(|timer| timer.it_id);
    let arguments = [PR_TIMER_CREATE_RESTORE_IDS, 1];
    let by_id = !posix.is_empty()
        && remote
            .try_call(
                "enable timer ids (PR_TIMER_CREATE_RESTORE_IDS)",
                libc::SYS_prctl,
                arguments,
            )?
            .is_ok();
    for timer in &posix {
        create(remote, timer, by_id)?;
    }
    if by_id {
        let arguments = [PR_TIMER_CREATE_RESTORE_IDS];
        remote.call(
            "disable timer ids (PR_TIMER_CREATE_RESTORE_IDS)",
            libc::SYS_prctl,
            arguments,
        )?;
    }
    for timer in &posix {
        let value = (timer.vsec, timer.vnsec);
        if let Some(words) = timer_words((timer.isec, timer.insec), value) {
            let address = remote.write_words(&words)?;
            remote.call("set a timer", libc::SYS_timer_settime, [timer.it_id.into(), 0, address])?;
        }
    }
    for (which, timer) in [(0, timers.real), (1, timers.virt), (2, timers.prof)] {
        let ItimerEntry {
            isec,
            iusec,
            vsec,
            vusec,
        } = timer;
        if let Some(words) = timer_words((isec, iusec), (vsec, vusec)) {
            let address = remote.write_words(&words)?;
            remote.call("set an interval timer", libc::SYS_setitimer, [which, address])?;
        }
    }
    Ok(())
}

/// Interval and value for timer_settime(2) and setitimer(2); `None` for a timer that is not armed. A timer that had
/// just expired starts again with its interval: its signal is among the pending signals.
fn timer_words(interval: (u64, u64), value: (u64, u64)) -> Option<[u64; 4]> {
    let value = if value == (0, 0) { interval } else { value };
    (value != (0, 0)).then_some([interval.0, interval.1, value.0, value.1])
}

/// Creates a timer with its recorded id.
fn create(remote: &mut RemoteTask, timer: &PosixTimerEntry, by_id: bool) -> Result<(), RestoreError> {
    /// The size of `struct sigevent` in words; the id follows it.
    const SIGEVENT_WORDS: usize = 8;
    let timer_id = timer.it_id;
    let mut words = [0; SIGEVENT_WORDS + 1];
    words[0] = timer.sival_ptr;
    words[1] = u64::from(timer.si_signo) | u64::from(timer.it_sigev_notify) << 32;
    words[2] = u64::from(timer.notify_thread_id.unwrap_or(0).unsigned_abs());
    words[SIGEVENT_WORDS] = timer_id.into();
    for _ in 0..MAX_ID_TRIES {
        let event = remote.write_words(&words)?;
        let id_address = event + 8 * SIGEVENT_WORDS as u64;
        let arguments = [timer.clock_id.into(), event, id_address];
        remote.call("create a timer", libc::SYS_timer_create, arguments)?;
        let assigned_id = remote.read_data(8 * SIGEVENT_WORDS + 4)?;
        let assigned_id = assigned_id
            .last_chunk::<4>()
            .map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        if assigned_id == timer_id {
            return Ok(());
        }
        if by_id || assigned_id > timer_id {
            break;
        }
        remote.call("delete a timer", libc::SYS_timer_delete, [assigned_id.into()])?;
    }
    Err(RestoreError::step(format!("create timer {timer_id}"), Errno::EBUSY))
}
