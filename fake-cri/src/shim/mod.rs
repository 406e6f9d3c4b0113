//! One small process a container: starts it, reaps it and its orphans, writes its log, keeps its exit code, checkpoints
//! it; and the messages between it and fake-cri.

mod client;
mod error;
mod record;
mod spec;

pub use client::{Attached, ExecOutput, Shim, State, Stats, kill_leftovers};
pub use error::ShimError;
pub use record::{Exit, Reason};
pub use spec::{LaunchSpec, Program};

/// The environment variable that holds the container's id in each of its processes, so that what a dead shim left can be
/// found.
pub const MARKER: &str = "FAKE_CRI_CONTAINER";
