//! Errors of a restore.

use std::{
    io,
    path::{Path, PathBuf},
};

use cri_proto::criu::{ImageError, Problem};

use crate::process::remote_syscalls::RemoteSyscallError;

/// A failure to restore. The message completes "failed to restore: ...".
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is not a readable archive.
    #[error("{path}: {reason}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with the archive.
        reason: String,
    },
    /// An image cannot be read.
    #[error("{image}: {detail} at offset {offset}")]
    Image {
        /// The file name of the image.
        image: String,
        /// Where the malformed part begins, in bytes.
        offset: u64,
        /// What is wrong. Quotes no byte of the image.
        detail: String,
    },
    /// The caller cancelled.
    #[error("cancelled by the caller; nothing that was read or unpacked is kept")]
    Cancelled,
    /// An image contradicts itself or another one.
    #[error("{image}: {detail}")]
    Malformed {
        /// The file name of the image.
        image: String,
        /// What is wrong with the image.
        detail: String,
    },
    /// The archive holds state that fake-cri does not restore.
    #[error("fake-cri cannot restore {0}")]
    Unsupported(String),
    /// The container held file locks, which a restore would lose.
    #[error(
        "the container held file locks, which a restore loses: {0}; another process could then acquire them. \
         To restore without the locks, set the annotation fake-cri.dev/restore-without-file-locks: \"true\""
    )]
    FileLocks(String),
    /// The archive was made on another kind of machine, or under another kernel or boot.
    #[error("{0}")]
    MachineMismatch(String),
    /// A step failed.
    #[error("{detail}: {source}")]
    Step {
        /// The step.
        detail: String,
        /// Why the step failed.
        source: io::Error,
    },
    /// A remote syscall could not be executed in a new task.
    #[error("{detail}: {source}")]
    RemoteSyscall {
        /// The step.
        detail: String,
        /// Why the step failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<ImageError> for RestoreError {
    /// The decoder's errors quote bytes of the file. They are left out here, because the path may name any file of the
    /// host.
    fn from(error: ImageError) -> Self {
        let detail = match error.problem {
            Problem::WrongMagic { expected, .. } => format!("wrong magic number for {}", expected.name()),
            Problem::UnknownMagic(_) => "unknown magic number".to_owned(),
            Problem::EntryTooLong { limit, .. } => format!("an entry is longer than {limit} bytes"),
            Problem::Truncated { part: detail, .. } => format!("{detail} is truncated"),
            Problem::MalformedMessage { index, message, .. } => format!("entry {index} is not a {message}"),
            Problem::Io(error) => format!("read failed ({error})"),
            Problem::NoEntry => "the image has no entry".to_owned(),
            Problem::TrailingBytes => "bytes after the end of the image".to_owned(),
        };
        Self::Image {
            image: error.file,
            offset: error.offset,
            detail,
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

    /// Adds the part of the container that the failure is about: a process, a thread, a descriptor, a mapping.
    pub(super) fn context(self, part: impl std::fmt::Display) -> Self {
        match self {
            Self::Unsupported(detail) => Self::Unsupported(format!("{detail} ({part})")),
            Self::MachineMismatch(detail) => Self::MachineMismatch(format!("{part}: {detail}")),
            Self::Malformed { image, detail } => Self::Malformed {
                image,
                detail: format!("{detail} ({part})"),
            },
            Self::Step { detail, source } => Self::Step {
                detail: format!("{part}: {detail}"),
                source,
            },
            Self::RemoteSyscall { detail, source } => Self::RemoteSyscall {
                detail: format!("{part}: {detail}"),
                source,
            },
            other => other,
        }
    }

    pub(super) fn malformed(image: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Malformed {
            image: image.into(),
            detail: detail.into(),
        }
    }

    pub(super) fn step(detail: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Step {
            detail: detail.into(),
            source: source.into(),
        }
    }

    pub(super) fn remote_syscall(detail: impl Into<String>, source: RemoteSyscallError) -> Self {
        Self::RemoteSyscall {
            detail: detail.into(),
            source: Box::new(source),
        }
    }
}
