//! Why a container cannot be restored.

use std::{
    io,
    path::{Path, PathBuf},
};

use cri_proto::criu::{ImageError, Problem};

use crate::process::remote_syscalls::RemoteSyscallError;

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
    #[error("{image}: {detail} at offset {offset}")]
    Image {
        /// Which image.
        image: String,
        /// Bytes from its beginning to where the wrong part starts.
        offset: u64,
        /// What is wrong there, without a byte of what is there.
        detail: String,
    },
    /// Whoever wanted it gave up meanwhile.
    #[error("the caller gave up, so what was read and unpacked of the archive is gone")]
    Cancelled,
    /// An image contradicts itself or another one.
    #[error("{image}: {detail}")]
    Malformed {
        /// Which image.
        image: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The container had what fake-cri does not restore.
    #[error("it holds {0}, which fake-cri cannot restore")]
    Unsupported(String),
    /// The container held locks of files, which would be lost.
    #[error(
        "it held locks of files, which a restore loses: {0}; whoever waits for them could go on as if nobody had them. \
         To restore it without them, annotate it with fake-cri.dev/restore-without-file-locks: \"true\""
    )]
    FileLocks(String),
    /// This machine is another one than the archive's.
    #[error("{0}")]
    MachineMismatch(String),
    /// A step failed.
    #[error("{detail}: {source}")]
    Step {
        /// What was being done.
        detail: String,
        /// Why it could not be.
        source: io::Error,
    },
    /// A new process did not do what it was told.
    #[error("{detail}: {source}")]
    RemoteSyscall {
        /// What was being done.
        detail: String,
        /// Why it could not be.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<ImageError> for RestoreError {
    /// The reader of images names the bytes that it stumbled over. They are left out here: they may be any file's.
    fn from(error: ImageError) -> Self {
        let detail = match error.problem {
            Problem::WrongMagic { expected, .. } => format!("no magic of {} image", expected.name()),
            Problem::UnknownMagic(_) => "no magic of an image".to_owned(),
            Problem::EntryTooLong { limit, .. } => format!("an entry of more than {limit} bytes"),
            Problem::Truncated { part: detail, .. } => format!("{detail} is cut short"),
            Problem::MalformedMessage { index, message, .. } => format!("entry {index} is no {message}"),
            Problem::Io(error) => format!("cannot be read ({error})"),
            Problem::NoEntry => "image without an entry".to_owned(),
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

    /// The same failure, of this part of the container: a process, a thread, a descriptor, a mapping.
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
