//! The roles one executable plays.
//!
//! fake-cri starts its shims and its stand-in workloads from its own executable, so that a test needs one file. The role
//! stands in the environment; a program called `stand-in` plays the workload without it, as it does in an image.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// The environment variable that holds the role. It is removed before the role runs, so that no child inherits it.
pub const ROLE: &str = "FAKE_CRI_ROLE";

/// Runs the role this process was started for and exits, or returns when it was started for none.
///
/// Must be the first call of `main`: no thread may run yet, and nothing may have been printed.
pub fn entry_point() {
    CALLED.store(true, Ordering::SeqCst);
}

/// A path from which this process can start itself in another role, or `None` when its `main` did not call
/// [`entry_point`] (it would then run its own `main` again, and again).
///
/// The path stays good when the file is replaced or deleted meanwhile, as a rebuild does.
pub fn executable() -> Option<&'static Path> {
    CALLED.load(Ordering::SeqCst).then(|| Path::new("/proc/self/exe"))
}

/// Whether [`entry_point`] was called.
static CALLED: AtomicBool = AtomicBool::new(false);
