//! Cancellation of the reading of an archive.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::RestoreError;

/// Set when the caller cancels. Clones share one flag.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag: reading in progress ends with [`RestoreError::Cancelled`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Returns a guard that sets the flag when it is dropped, as the future of a call is when the client disconnects or
    /// the deadline passes.
    #[must_use]
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }

    /// Returns an error once the flag is set.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Cancelled`].
    pub fn check(&self) -> Result<(), RestoreError> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(RestoreError::Cancelled),
            false => Ok(()),
        }
    }
}

/// Sets a [`CancelFlag`] when it is dropped.
#[derive(Debug)]
pub struct CancelOnDrop(CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
