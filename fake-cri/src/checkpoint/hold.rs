//! A single thread of a running process, brought to stand for a moment.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    Host,
    freeze::{Progress, detach, poll},
};
use crate::process::{ProcessId, proc, ptrace};

/// One thread that stands still. Dropping it lets it run on.
pub(crate) struct Held<'a> {
    host: &'a dyn Host,
    process: ProcessId,
    tid: i32,
}

impl Held<'_> {
    /// The thread.
    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        detach(self.host, self.process.pid, self.tid);
    }
}

/// Brings one thread of a running process to stand still within the bound; `None` when it does not.
pub(crate) fn hold(host: &dyn Host, process: ProcessId, tid: i32, bound: Duration) -> Option<Held<'_>> {
    ptrace::seize(tid).ok()?;
    // Only now is it sure whose thread it is: what is traced keeps its number.
    let same = proc::identity(process.pid).ok() == Some(process);
    let mut pause = Duration::ZERO;
    let began = Instant::now();
    ptrace::interrupt(tid).ok()?;
    loop {
        match poll(tid) {
            Progress::Stands(_) => {
                let held = Held { host, process, tid };
                return same.then_some(held);
            }
            Progress::Gone => return None,
            Progress::Ended(status) => {
                if tid == process.pid {
                    host.exited(tid, status);
                }
                return None;
            }
            Progress::NotYet if began.elapsed() > bound => return None,
            Progress::NotYet if pause.is_zero() => thread::yield_now(),
            Progress::NotYet => thread::sleep(pause),
        }
        pause = (pause * 2).clamp(Duration::from_micros(20), Duration::from_millis(1));
    }
}
