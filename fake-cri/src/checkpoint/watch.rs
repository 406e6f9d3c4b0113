//! The two things that end a checkpoint from outside: the caller's giving up and the deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Host, error::Error};

/// How long a pause lasts at most before the two are looked at again.
const SLICE: Duration = Duration::from_millis(3);

/// Asks whether to go on.
pub(crate) struct Watch<'a> {
    host: &'a dyn Host,
    started: Instant,
    deadline: Option<Instant>,
}

impl<'a> Watch<'a> {
    /// Counts from now.
    pub(crate) fn start(host: &'a dyn Host, deadline: Option<Duration>) -> Self {
        let started = Instant::now();
        Self {
            host,
            started,
            // A deadline too far for the clock is none.
            deadline: deadline.and_then(|after| started.checked_add(after)),
        }
    }

    /// When the checkpoint began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Fails when the caller gave up or the deadline passed.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.host.cancelled() {
            return Err(Error::Cancelled);
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::DeadlineExceeded);
        }
        Ok(())
    }

    /// Waits until then, or fails earlier.
    pub(crate) fn wait_until(&self, then: Instant) -> Result<(), Error> {
        loop {
            self.check()?;
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(SLICE));
        }
    }

    /// Waits until the caller gives up or the deadline passes.
    pub(crate) fn hang(&self) -> Error {
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            thread::sleep(SLICE);
        }
    }
}
