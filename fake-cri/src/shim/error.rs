//! Errors of calls to a shim.

use std::{io, path::PathBuf, time::Duration};

/// A failure of a call to a shim. The message completes "failed to ...".
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The shim process could not be started, or ended before it listened.
    #[error("start a shim in {dir}: {message}")]
    Launch {
        /// The shim's directory.
        dir: PathBuf,
        /// The reason.
        message: String,
    },
    /// The command of the container or of an exec could not be executed. The message is worded as runc's, for example
    /// `exec: "foo": executable file not found in $PATH`.
    #[error("unable to start container process: {message}")]
    ExecFailed {
        /// In the words of runc.
        message: String,
    },
    /// The container could not be restored.
    #[error("restore the container: {message}")]
    RestoreFailed {
        /// The message of [`crate::checkpoint::RestoreError`].
        message: String,
    },
    /// The state of the container does not allow the call.
    #[error("{message}")]
    WrongState {
        /// Names the state and the call.
        message: String,
    },
    /// The command of an exec exceeded its timeout, and was killed with all processes that it had started.
    #[error("timeout {0:?} exceeded")]
    ExecTimeout(Duration),
    /// The command of an exec wrote more output than a response holds, and was killed with all processes that it had
    /// started.
    #[error("the command wrote more than {0} bytes, the limit of a response, and was killed: its output is incomplete")]
    ExecOutputTooLarge(usize),
    /// The shim process has ended. [`super::Shim::wait_exit`] returns how the container ended.
    #[error("reach the shim: the process has ended")]
    Gone,
    /// The shim reported another error.
    #[error("{message}")]
    Internal {
        /// The message of the shim.
        message: String,
    },
    /// The shim did not respond in time, or sent an invalid message.
    #[error("exchange messages with the shim: {0}")]
    Io(#[from] io::Error),
}
