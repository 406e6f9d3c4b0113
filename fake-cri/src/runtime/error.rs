//! What can go wrong in the runtime. `service` maps these to gRPC codes, in one place.

use std::io;

use crate::{checkpoint, runtime::state::InvalidTransition};

/// The kinds of object that have an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A pod sandbox.
    PodSandbox,
    /// A container.
    Container,
    /// An image.
    Image,
}

impl std::fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ObjectKind::PodSandbox => "pod sandbox",
            ObjectKind::Container => "container",
            ObjectKind::Image => "image",
        })
    }
}

/// A failure of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Nothing is known by this id.
    #[error("could not find {kind} {id:?}")]
    NotFound {
        /// What was looked for.
        kind: ObjectKind,
        /// The id as it was sent.
        id: String,
    },
    /// The id is the beginning of more than one.
    #[error("{kind} id {id:?} is ambiguous: it begins {count} ids")]
    AmbiguousId {
        /// What was looked for.
        kind: ObjectKind,
        /// The id as it was sent.
        id: String,
        /// How many ids begin so.
        count: usize,
    },
    /// The request itself is wrong, whatever the state.
    #[error("{0}")]
    InvalidArgument(String),
    /// The request is fine, but not in this state.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The change of state is not one that a container makes.
    #[error(transparent)]
    Transition(#[from] InvalidTransition),
    /// Another object has this name and attempt.
    #[error("failed to reserve {kind} name {name:?}: it is reserved for {id:?}")]
    NameReserved {
        /// What was to be made.
        kind: ObjectKind,
        /// Its name, with all that makes it unique.
        name: String,
        /// Who has it.
        id: String,
    },
    /// A pull failed as the catalogue says.
    #[error("failed to pull image {image:?}: {message}")]
    Pull {
        /// The reference, normalised.
        image: String,
        /// What the catalogue says.
        message: String,
        /// Whether the registry does not know it, rather than fails.
        not_found: bool,
    },
    /// The container's command could not be started.
    #[error("failed to create containerd task: {0}")]
    Start(String),
    /// The container could not be restored.
    #[error("failed to restore the container: {0}")]
    Restore(String),
    /// A time limit passed.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// An answer would be larger than a message may be.
    #[error("{0}")]
    ResourceExhausted(String),
    /// The folder in which an archive is to appear is not there.
    #[error("the folder {0:?} of the checkpoint location does not exist")]
    ParentDirMissing(std::path::PathBuf),
    /// A checkpoint failed.
    #[error("failed to checkpoint container {id:?}: {failure}")]
    Checkpoint {
        /// The container.
        id: String,
        /// What the engine says.
        failure: checkpoint::Failure,
    },
    /// The shim could not do its part.
    #[error("the shim of container {id:?}: {message}")]
    Shim {
        /// The container.
        id: String,
        /// What it says.
        message: String,
    },
    /// What cannot happen, and did.
    #[error("{0}")]
    Internal(String),
    /// The state folder could not be read or written.
    #[error("failed to {action} {path:?}: {source}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: std::path::PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl RuntimeError {
    /// Nothing is known by this id.
    pub(crate) fn not_found(kind: ObjectKind, id: impl Into<String>) -> RuntimeError {
        RuntimeError::NotFound { kind, id: id.into() }
    }
}
