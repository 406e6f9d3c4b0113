//! What is known about a container that has ended.

use serde::{Deserialize, Serialize};

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The exit code; 128 plus the signal's number when one ended it; 255 when the shim was lost.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When its first process started, in nanoseconds since the epoch; 0 when it is not known.
    pub started_at_ns: i64,
    /// When its first process ended, in nanoseconds since the epoch. For a lost shim: when that was noticed.
    pub finished_at_ns: i64,
    /// Why, as the CRI names it.
    pub reason: ExitReason,
    /// A sentence for people; empty when there is nothing to say.
    pub message: String,
    /// The shim ended before it could record an exit, so nothing is known but that. What is left of the container
    /// must be ended with [`super::kill_orphans`].
    pub shim_lost: bool,
}

/// Why a container ended, in the words of the CRI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// It ended with code 0.
    Completed,
    /// It ended with another code or by a signal.
    Error,
    /// The kernel ended it because memory was short. Said only where that is known.
    OOMKilled,
}

impl ExitReason {
    /// The word of the CRI (`ContainerStatus.reason`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OOMKilled => "OOMKilled",
        }
    }
}
