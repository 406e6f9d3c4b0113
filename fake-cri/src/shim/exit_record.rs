//! The record of a container's exit.

use serde::{Deserialize, Serialize};

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The exit code; 128 plus the signal number after a signal; 255 when the shim was lost.
    pub code: i32,
    /// The signal that terminated the container.
    pub signal: Option<i32>,
    /// Start of the first process in nanoseconds since the epoch; 0 if unknown.
    pub started_at_ns: i64,
    /// End of the first process in nanoseconds since the epoch; for a lost shim, the time when fake-cri noticed.
    pub finished_at_ns: i64,
    /// The reason, as in the CRI.
    pub reason: ExitReason,
    /// A message for the user; may be empty.
    pub message: String,
    /// The shim ended before it could record an exit, so nothing else is known. The remaining processes of the
    /// container must be killed with [`super::kill_orphans`].
    pub shim_lost: bool,
}

/// The values of `ContainerStatus.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Another exit code, or a signal.
    Error,
    /// The kernel's OOM killer ended the container. Set only where that is known.
    OOMKilled,
}

impl ExitReason {
    /// Returns the value of `ContainerStatus.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OOMKilled => "OOMKilled",
        }
    }
}
