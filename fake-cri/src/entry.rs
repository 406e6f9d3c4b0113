//! The roles one executable plays.
//!
//! fake-cri starts its shims and its stand-in workloads from its own executable, so that a test needs one file. The role
//! stands in the environment; a program called `stand-in` plays the workload without it, as it does in an image.

/// The environment variable that holds the role. It is removed before the role runs, so that no child inherits it.
pub const ROLE: &str = "FAKE_CRI_ROLE";

/// Runs the role this process was started for and exits, or returns when it was started for none.
///
/// Must be the first call of `main`: no thread may run yet, and nothing may have been printed.
pub fn entry_point() {}
