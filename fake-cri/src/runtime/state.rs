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
pub enum State {
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
        exit: Exit,
    },
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
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
pub enum Event {
    /// Its first process runs.
    Started {
        /// The first process.
        process: ProcessId,
        /// When, in nanoseconds since the epoch.
        at: i64,
    },
    /// Its first process could not be started.
    StartFailed(Exit),
    /// Its first process has ended.
    Exited(Exit),
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

impl State {
    /// The CRI's name of the state.
    pub fn name(&self) -> &'static str {
        match self {
            State::Created => "CONTAINER_CREATED",
            State::Running { .. } => "CONTAINER_RUNNING",
            State::Exited { .. } => "CONTAINER_EXITED",
        }
    }

    /// The first process, while it runs.
    pub fn process(&self) -> Option<ProcessId> {
        match self {
            State::Running { process, .. } => Some(*process),
            State::Created | State::Exited { .. } => None,
        }
    }

    /// Whether it has ended.
    pub fn exited(&self) -> bool {
        matches!(self, State::Exited { .. })
    }

    /// Whether it runs.
    pub fn running(&self) -> bool {
        matches!(self, State::Running { .. })
    }

    /// The state after this event. The one place where a container's state changes.
    ///
    /// # Errors
    ///
    /// An event that this state does not know.
    pub fn after(&self, event: Event) -> Result<State, InvalidTransition> {
        match (self, event) {
            (State::Created, Event::Started { process, at }) => Ok(State::Running {
                process,
                started_at: at,
            }),
            (State::Created, Event::StartFailed(exit)) => Ok(State::Exited { started_at: 0, exit }),
            (State::Running { started_at, .. }, Event::Exited(exit)) => Ok(State::Exited {
                started_at: *started_at,
                exit,
            }),
            (from, event) => Err(InvalidTransition {
                from: from.name(),
                to: match event {
                    Event::Started { .. } => "CONTAINER_RUNNING",
                    Event::StartFailed(_) | Event::Exited(_) => "CONTAINER_EXITED",
                },
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: ProcessId = ProcessId { pid: 7, start_time: 9 };

    fn exit() -> Exit {
        Exit {
            code: 3,
            finished_at: 2,
            reason: "Error".to_owned(),
            message: String::new(),
        }
    }

    #[test]
    fn every_pair_of_state_and_event_is_decided() {
        let states = [
            State::Created,
            State::Running {
                process: PROCESS,
                started_at: 1,
            },
            State::Exited {
                started_at: 1,
                exit: exit(),
            },
        ];
        let events = [
            Event::Started {
                process: PROCESS,
                at: 1,
            },
            Event::StartFailed(exit()),
            Event::Exited(exit()),
        ];
        let table = states.map(|state| {
            events
                .clone()
                .map(|event| state.after(event).map(|next| next.name()).ok())
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
        let error = State::Exited {
            started_at: 1,
            exit: exit(),
        }
        .after(Event::Started {
            process: PROCESS,
            at: 1,
        })
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "a container in CONTAINER_EXITED state does not become CONTAINER_RUNNING"
        );
    }
}
