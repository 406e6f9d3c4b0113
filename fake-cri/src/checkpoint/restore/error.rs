//! Why a container cannot be restored.

use std::{io, path::PathBuf};

use cri_proto::criu::ImageError;

use crate::process::inject::InjectError;

/// A failure to restore. The messages finish "failed to restore: ...".
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The archive cannot be read as one.
    #[error("{path}: {reason}")]
    Archive {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image contradicts itself or another one.
    #[error("{image}: {what}")]
    Malformed {
        /// Which image.
        image: String,
        /// What is wrong with it.
        what: String,
    },
    /// The container had what fake-cri does not restore.
    #[error("it holds {0}, which fake-cri cannot restore")]
    Unsupported(String),
    /// This machine is another one than the archive's.
    #[error("{0}")]
    Machine(String),
    /// A step failed.
    #[error("{what}: {source}")]
    Step {
        /// What was being done.
        what: String,
        /// Why it could not be.
        source: io::Error,
    },
    /// A new process did not do what it was told.
    #[error("{what}: {source}")]
    Inject {
        /// What was being done.
        what: String,
        /// Why it could not be.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RestoreError {
    pub(super) fn malformed(image: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Malformed {
            image: image.into(),
            what: what.into(),
        }
    }

    pub(super) fn step(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Step {
            what: what.into(),
            source: source.into(),
        }
    }

    pub(super) fn inject(what: impl Into<String>, source: InjectError) -> Self {
        Self::Inject {
            what: what.into(),
            source: Box::new(source),
        }
    }
}
