//! What can go wrong between fake-cri and a shim.

use std::{io, path::PathBuf, time::Duration};

/// A failure of a call to a shim. Messages finish "failed to ...".
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The shim's process could not be started, or ended before it listened.
    #[error("start a shim in {dir}: {message}")]
    Launch {
        /// The shim's folder.
        dir: PathBuf,
        /// What it said.
        message: String,
    },
    /// The container's command could not be run. The message is worded as runc words it, for example
    /// `exec: "foo": executable file not found in $PATH`.
    #[error("unable to start container process: {message}")]
    ExecFailed {
        /// runc's words.
        message: String,
    },
    /// The container could not be restored from its archive.
    #[error("restore the container: {message}")]
    RestoreFailed {
        /// Why, in the words of [`crate::checkpoint::RestoreError`].
        message: String,
    },
    /// The container is in another state than the call needs.
    #[error("{message}")]
    WrongState {
        /// Which state, and what was asked.
        message: String,
    },
    /// The command of an exec ran longer than it might and was ended, with everything it had started.
    #[error("timeout {0:?} exceeded")]
    ExecTimeout(Duration),
    /// The command of an exec wrote more than an answer holds and was ended, with everything it had started.
    #[error(
        "the command wrote more than {0} bytes, the most that an answer can hold, and was killed: its output is not complete"
    )]
    ExecOutputTooLarge(usize),
    /// The shim's process has ended. [`super::Shim::wait_exit`] says how the container did.
    #[error("reach the shim: it has ended")]
    Gone,
    /// The shim answered with an error of the kernel's or something else that was not foreseen.
    #[error("{message}")]
    Internal {
        /// What it said.
        message: String,
    },
    /// The shim does not answer, or not in its language.
    #[error("talk to the shim: {0}")]
    Io(#[from] io::Error),
}
