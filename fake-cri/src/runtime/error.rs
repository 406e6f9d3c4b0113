//! The errors of the runtime. `service::status` maps them to gRPC codes.

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
    /// No object has this id.
    #[error("could not find {kind} {id:?}")]
    NotFound {
        /// The kind of the object.
        kind: ObjectKind,
        /// The id of the request.
        id: String,
    },
    /// The id is a prefix of several ids.
    #[error("{kind} id {id:?} is ambiguous: it is a prefix of {count} ids")]
    AmbiguousId {
        /// The kind of the objects.
        kind: ObjectKind,
        /// The id of the request.
        id: String,
        /// The number of ids with this prefix.
        count: usize,
    },
    /// The request is invalid, whatever the state of its object.
    #[error("{0}")]
    InvalidArgument(String),
    /// The request is valid, but not in the current state.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The event is not valid in the container's state.
    #[error(transparent)]
    Transition(#[from] InvalidTransition),
    /// Another object has this name and attempt.
    #[error("failed to reserve {kind} name {name:?}: it is reserved for {id:?}")]
    NameReserved {
        /// The kind of the new object.
        kind: ObjectKind,
        /// The reserved name, as containerd writes it.
        name: String,
        /// The id of the object that has the name.
        id: String,
    },
    /// A pull failed, as the catalogue requests.
    #[error("failed to pull image {image:?}: {message}")]
    Pull {
        /// The normalised reference.
        image: String,
        /// The message in the catalogue.
        message: String,
        /// Whether the image is unknown (strict catalogue).
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
    /// The response would exceed the size limit of a gRPC message.
    #[error("{0}")]
    ResourceExhausted(String),
    /// The parent directory of the checkpoint location does not exist.
    #[error("the directory {0:?} of the checkpoint location does not exist")]
    ParentDirMissing(std::path::PathBuf),
    /// A checkpoint failed.
    #[error("failed to checkpoint container {id:?}: {failure}")]
    Checkpoint {
        /// The id of the container.
        id: String,
        /// The error of the engine.
        failure: checkpoint::Failure,
    },
    /// A request to the shim failed.
    #[error("shim of container {id:?} failed: {message}")]
    Shim {
        /// The id of the container.
        id: String,
        /// The reason.
        message: String,
    },
    /// An unexpected error, such as a panic in a task.
    #[error("{0}")]
    Internal(String),
    /// A file could not be read or written, mostly in the state directory.
    #[error("failed to {action} {path:?}: {source}")]
    Store {
        /// The operation: a verb such as "read".
        action: &'static str,
        /// The path of the file.
        path: std::path::PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl RuntimeError {
    pub(crate) fn not_found(kind: ObjectKind, id: impl Into<String>) -> RuntimeError {
        RuntimeError::NotFound { kind, id: id.into() }
    }
}
