//! Who waits for a restore to be looked at, and may give up meanwhile.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::RestoreError;

/// Whether whoever wanted an archive to be read still does. Clones tell of the same caller.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// One that never gives up unless [`CancelFlag::cancel`] is called.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that nobody waits any more: what is under way ends with [`RestoreError::Cancelled`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Gives up when it is dropped, as a call's future is when its caller is gone or its deadline has passed.
    #[must_use]
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }

    /// Fails once the caller has given up.
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

/// As long as it lives, its caller waits.
#[derive(Debug)]
pub struct CancelOnDrop(CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
