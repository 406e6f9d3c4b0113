//! Why a container cannot be restored.

use std::{
    io,
    path::{Path, PathBuf},
};

use cri_proto::criu::{ImageError, Problem};

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
    #[error("{image}: {what} at offset {offset}")]
    Image {
        /// Which image.
        image: String,
        /// Bytes from its beginning to where the wrong part starts.
        offset: u64,
        /// What is wrong there, without a byte of what is there.
        what: String,
    },
    /// Whoever wanted it gave up meanwhile.
    #[error("the caller gave up, so what was read and unpacked of the archive is gone")]
    Cancelled,
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
    /// The container held locks of files, which would be lost.
    #[error(
        "it held locks of files, which a restore loses: {0}; whoever waits for them could go on as if nobody had them. \
         To restore it without them, annotate it with fake-cri.dev/restore-without-file-locks: \"true\""
    )]
    Locks(String),
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

impl From<ImageError> for RestoreError {
    /// The reader of images names the bytes that it stumbled over. They are left out here: they may be any file's.
    fn from(error: ImageError) -> Self {
        let what = match error.problem {
            Problem::WrongMagic { expected, .. } => format!("no magic of {} image", expected.name()),
            Problem::UnknownMagic(_) => "no magic of an image".to_owned(),
            Problem::TooLong { limit, .. } => format!("an entry of more than {limit} bytes"),
            Problem::Truncated { what, .. } => format!("{what} is cut short"),
            Problem::Message { index, message, .. } => format!("entry {index} is no {message}"),
            Problem::Io(error) => format!("cannot be read ({error})"),
            Problem::NoEntry => "image without an entry".to_owned(),
            Problem::Trailing => "bytes after the end of the image".to_owned(),
        };
        Self::Image {
            image: error.file,
            offset: error.offset,
            what,
        }
    }
}

impl RestoreError {
    pub(super) fn archive(path: &Path, reason: impl Into<String>) -> Self {
        Self::Archive {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    /// The same failure, of this part of the container: a process, a thread, a descriptor, a mapping.
    pub(super) fn of(self, part: impl std::fmt::Display) -> Self {
        match self {
            Self::Unsupported(what) => Self::Unsupported(format!("{what} ({part})")),
            Self::Machine(what) => Self::Machine(format!("{part}: {what}")),
            Self::Malformed { image, what } => Self::Malformed {
                image,
                what: format!("{what} ({part})"),
            },
            Self::Step { what, source } => Self::Step {
                what: format!("{part}: {what}"),
                source,
            },
            Self::Inject { what, source } => Self::Inject {
                what: format!("{part}: {what}"),
                source,
            },
            other => other,
        }
    }

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
