//! Stops a single thread of a running process.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    checkpoint::{
        Host,
        freeze::{ThreadPoll, detach, poll_thread},
    },
    process::{ProcessId, Tid, ptrace},
};

/// A stopped thread. Drop detaches it.
pub(crate) struct StoppedThread<'a> {
    host: &'a dyn Host,
    process: ProcessId,
    tid: Tid,
}

impl StoppedThread<'_> {
    pub(crate) fn tid(&self) -> Tid {
        self.tid
    }
}

impl Drop for StoppedThread<'_> {
    fn drop(&mut self) {
        detach(self.host, self.process.pid, self.tid);
    }
}

/// Stops one thread of a running process within `bound`. Returns `None` if the thread does not stop.
pub(crate) fn stop_thread(host: &dyn Host, process: ProcessId, tid: Tid, bound: Duration) -> Option<StoppedThread<'_>> {
    ptrace::seize(tid).ok()?;
    // Verify the process only now: the tid of a traced thread cannot be reused.
    let same_process = ProcessId::from_pid(process.pid).ok() == Some(process);
    let mut pause = Duration::ZERO;
    let started = Instant::now();
    ptrace::interrupt(tid).ok()?;
    loop {
        match poll_thread(tid) {
            ThreadPoll::Stopped(_) => {
                let stopped = StoppedThread { host, process, tid };
                return same_process.then_some(stopped);
            }
            ThreadPoll::Vanished => return None,
            ThreadPoll::Exited(status) => {
                if tid == process.pid.main_thread() {
                    host.on_exited(process.pid, status);
                }
                return None;
            }
            ThreadPoll::Pending if started.elapsed() > bound => return None,
            ThreadPoll::Pending if pause.is_zero() => thread::yield_now(),
            ThreadPoll::Pending => thread::sleep(pause),
        }
        pause = (pause * 2).clamp(Duration::from_micros(20), Duration::from_millis(1));
    }
}
