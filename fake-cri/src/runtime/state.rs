//! A container's state, and the one function that changes it.
//!
//! ```text
//!              Start                    Exited
//!   Created ----------> Running ------------------------> Exited
//!      |                                                    ^
//!      +----------------------------------------------------+
//!                          StartFailed
//! ```
//!
//! Removal is no state: a removed container is gone. Every other change is an error that names both sides.

use serde::{Deserialize, Serialize};

use crate::process::ProcessId;

/// What a container is doing, with the data of that state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ContainerState {
    /// Made, its process not started.
    Created,
    /// Its first process runs.
    Running {
        /// The first process.
        process: ProcessId,
        /// When it was started, in nanoseconds since the epoch.
        started_at: i64,
    },
    /// Its first process has ended, or never began.
    Exited {
        /// When it was started, in nanoseconds since the epoch; 0 when it never was.
        started_at: i64,
        /// How it ended.
        exit: ContainerExit,
    },
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerExit {
    /// The exit code as a shell tells it: 128 and the signal's number when a signal ended it.
    pub code: i32,
    /// When it ended, in nanoseconds since the epoch.
    pub finished_at: i64,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `ShimDied`.
    pub reason: String,
    /// What there is to say beside the code.
    pub message: String,
}

/// What happens to a container.
#[derive(Clone, Debug)]
pub enum LifecycleEvent {
    /// Its first process runs.
    Started {
        /// The first process.
        process: ProcessId,
        /// When, in nanoseconds since the epoch.
        started_at: i64,
    },
    /// Its first process could not be started.
    StartFailed(ContainerExit),
    /// Its first process has ended.
    Exited(ContainerExit),
}

/// A change that a container does not make.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a container in {from} state does not become {to}")]
pub struct InvalidTransition {
    /// The state it is in.
    pub from: &'static str,
    /// The state it was to take.
    pub to: &'static str,
}

impl ContainerState {
    /// The CRI's name of the state.
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

    /// Whether it has ended.
    pub fn is_exited(&self) -> bool {
        matches!(self, ContainerState::Exited { .. })
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self, ContainerState::Running { .. })
    }

    /// The state after this event. The one place where a container's state changes.
    ///
    /// # Errors
    ///
    /// An event that this state does not know.
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

    const PROCESS: ProcessId = ProcessId { pid: 7, start_time: 9 };

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
            "a container in CONTAINER_EXITED state does not become CONTAINER_RUNNING"
        );
    }
}
