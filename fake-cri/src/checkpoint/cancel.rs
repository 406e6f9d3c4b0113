//! The two things that end a checkpoint from outside: the caller's giving up and the deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Host, error::Error};

/// How long a pause lasts at most before the two are looked at again.
const POLL_INTERVAL: Duration = Duration::from_millis(3);

/// Asks whether to go on.
pub(crate) struct CancelToken<'a> {
    host: &'a dyn Host,
    started: Instant,
    deadline: Option<Instant>,
}

impl<'a> CancelToken<'a> {
    /// Counts from now.
    pub(crate) fn new(host: &'a dyn Host, deadline: Option<Duration>) -> Self {
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
        if self.host.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::DeadlineExceeded);
        }
        Ok(())
    }

    /// Waits until then, or fails earlier.
    pub(crate) fn wait_until(&self, until: Instant) -> Result<(), Error> {
        loop {
            self.check()?;
            let remaining = until.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Ok(());
            }
            thread::sleep(remaining.min(POLL_INTERVAL));
        }
    }

    /// Waits until the caller gives up or the deadline passes.
    pub(crate) fn block_until_cancelled(&self) -> Error {
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}
