//! The lifecycle state of a container and its transitions.
//!
//! ```text
//!              Start                    Exited
//!   Created ----------> Running ------------------------> Exited
//!      |                                                    ^
//!      +----------------------------------------------------+
//!                          StartFailed
//! ```
//!
//! Removal is not a state. Every other transition is an error that names both states.

use serde::{Deserialize, Serialize};

use crate::process::ProcessId;

/// The state of a container, with the data of that state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ContainerState {
    /// Created, not started.
    Created,
    /// The first process runs.
    Running {
        /// The first process.
        process: ProcessId,
        /// Time of the start, in nanoseconds since the epoch.
        started_at: i64,
    },
    /// The first process has exited, or could not be started.
    Exited {
        /// Time of the start, in nanoseconds since the epoch; 0 if the start failed.
        started_at: i64,
        /// Exit code, time and reason.
        exit: ContainerExit,
    },
}

/// The exit of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerExit {
    /// The exit code; 128 plus the signal number if a signal killed the process, as in a shell.
    pub code: i32,
    /// Time of the exit, in nanoseconds since the epoch.
    pub finished_at: i64,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `ShimDied`.
    pub reason: String,
    /// Details for the field `message` of ContainerStatus.
    pub message: String,
}

/// An event that changes the state of a container.
#[derive(Clone, Debug)]
pub enum LifecycleEvent {
    /// The first process was started.
    Started {
        /// The first process.
        process: ProcessId,
        /// Time of the start, in nanoseconds since the epoch.
        started_at: i64,
    },
    /// The first process could not be started.
    StartFailed(ContainerExit),
    /// The first process has exited.
    Exited(ContainerExit),
}

/// A transition that the state machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a container in {from} state cannot change to {to}")]
pub struct InvalidTransition {
    /// The current state, as the CRI names it.
    pub from: &'static str,
    /// The requested state, as the CRI names it.
    pub to: &'static str,
}

impl ContainerState {
    /// The name of the state in the CRI.
    pub fn cri_name(&self) -> &'static str {
        match self {
            ContainerState::Created => "CONTAINER_CREATED",
            ContainerState::Running { .. } => "CONTAINER_RUNNING",
            ContainerState::Exited { .. } => "CONTAINER_EXITED",
        }
    }

    /// The first process, while it runs.
    pub fn init(&self) -> Option<ProcessId> {
        match self {
            ContainerState::Running { process, .. } => Some(*process),
            ContainerState::Created | ContainerState::Exited { .. } => None,
        }
    }

    /// Whether the container has exited or failed to start.
    pub fn is_exited(&self) -> bool {
        matches!(self, ContainerState::Exited { .. })
    }

    /// Whether the first process runs.
    pub fn is_running(&self) -> bool {
        matches!(self, ContainerState::Running { .. })
    }

    /// Returns the state after an event. This function defines all transitions.
    ///
    /// # Errors
    ///
    /// The event is not valid in this state.
    pub fn after(&self, event: LifecycleEvent) -> Result<ContainerState, InvalidTransition> {
        match (self, event) {
            (
                ContainerState::Created,
                LifecycleEvent::Started {
                    process,
                    started_at: at,
                },
            ) => Ok(ContainerState::Running {
                process,
                started_at: at,
            }),
            (ContainerState::Created, LifecycleEvent::StartFailed(exit)) => {
                Ok(ContainerState::Exited { started_at: 0, exit })
            }
            (ContainerState::Running { started_at, .. }, LifecycleEvent::Exited(exit)) => Ok(ContainerState::Exited {
                started_at: *started_at,
                exit,
            }),
            (from, event) => Err(InvalidTransition {
                from: from.cri_name(),
                to: match event {
                    LifecycleEvent::Started { .. } => "CONTAINER_RUNNING",
                    LifecycleEvent::StartFailed(_) | LifecycleEvent::Exited(_) => "CONTAINER_EXITED",
                },
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Pid;

    const PROCESS: ProcessId = ProcessId {
        pid: Pid::from_raw(7),
        start_time: 9,
    };

    fn exit() -> ContainerExit {
        ContainerExit {
            code: 3,
            finished_at: 2,
            reason: "Error".to_owned(),
            message: String::new(),
        }
    }

    #[test]
    fn transition_table_is_complete() {
        let states = [
            ContainerState::Created,
            ContainerState::Running {
                process: PROCESS,
                started_at: 1,
            },
            ContainerState::Exited {
                started_at: 1,
                exit: exit(),
            },
        ];
        let events = [
            LifecycleEvent::Started {
                process: PROCESS,
                started_at: 1,
            },
            LifecycleEvent::StartFailed(exit()),
            LifecycleEvent::Exited(exit()),
        ];
        let table = states.map(|state| {
            events
                .clone()
                .map(|event| state.after(event).map(|next| next.cri_name()).ok())
        });
        assert_eq!(
            table,
            [
                [Some("CONTAINER_RUNNING"), Some("CONTAINER_EXITED"), None],
                [None, None, Some("CONTAINER_EXITED")],
                [None, None, None],
            ]
        );
    }

    #[test]
    fn an_invalid_transition_names_both_states() {
        let error = ContainerState::Exited {
            started_at: 1,
            exit: exit(),
        }
        .after(LifecycleEvent::Started {
            process: PROCESS,
            started_at: 1,
        })
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "a container in CONTAINER_EXITED state cannot change to CONTAINER_RUNNING"
        );
    }
}
