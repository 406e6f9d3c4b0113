//! Cancellation by the caller, and the deadline of a checkpoint.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Host, error::Error};

/// The maximum time between two checks.
const POLL_INTERVAL: Duration = Duration::from_millis(3);

/// The caller's cancellation and the deadline of one checkpoint.
pub struct CancelToken<'a> {
    host: &'a dyn Host,
    started: Instant,
    deadline: Option<Instant>,
}

impl<'a> CancelToken<'a> {
    /// Starts the deadline now.
    pub(crate) fn new(host: &'a dyn Host, deadline: Option<Duration>) -> Self {
        let started = Instant::now();
        Self {
            host,
            started,
            // A deadline that the clock cannot represent is no deadline.
            deadline: deadline.and_then(|after| started.checked_add(after)),
        }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Fails if the caller cancelled or the deadline passed.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.host.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::DeadlineExceeded);
        }
        Ok(())
    }

    /// Waits until `until`, or fails earlier. `None` is a time too far for the clock.
    pub(crate) fn wait_until(&self, until: Option<Instant>) -> Result<(), Error> {
        let Some(until) = until else {
            return Err(self.block_until_cancelled());
        };
        loop {
            self.check()?;
            let remaining = until.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Ok(());
            }
            thread::sleep(remaining.min(POLL_INTERVAL));
        }
    }

    /// Waits until the caller cancels or the deadline passes.
    pub(crate) fn block_until_cancelled(&self) -> Error {
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}
