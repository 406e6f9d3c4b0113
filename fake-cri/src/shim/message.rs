//! What fake-cri and a shim say to each other.
//!
//! Each request has a connection of its own on the shim's socket. A message is its length (4 bytes, little endian) and
//! that many bytes of JSON. Only [`ShimReply::Output`] is followed by bytes that are no message: as many as it says.
//!
//! ```text
//!  fake-cri                                    shim
//!  Checkpoint(job)  ------------------------>
//!                   <------------------------  Phase(freeze)      the engine waits ...
//!  PhaseHeard       ------------------------>                     ... until this, or until the connection ends
//!                   <------------------------  Phase(capture)
//!  (closes)                                    the checkpoint is cancelled, the container runs on
//! ```

use std::{io, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{ExitRecord, ShimState, ShimStats};
use crate::{checkpoint, process::ProcessId};

/// The longest message either side takes: a job's documents are the largest part, and are far below.
const MESSAGE_MAX_BYTES: usize = 64 << 20;

/// What fake-cri asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ShimRequest {
    /// In which state is the container?
    State,
    /// Start it.
    Start,
    /// Answer when it has ended.
    Wait,
    /// Send this signal to its first process.
    Signal(i32),
    /// Kill all its processes.
    KillAll,
    /// What does it use?
    Stats,
    /// Run a command beside it.
    Exec {
        /// The command.
        argv: Vec<String>,
        /// What its environment has beside the container's.
        env: Vec<(String, String)>,
        /// How long it may run.
        timeout: Option<Duration>,
    },
    /// Open the log anew.
    ReopenLog,
    /// Checkpoint it.
    Checkpoint(Box<checkpoint::Job>),
    /// The last phase was heard: go on.
    PhaseAck,
    /// End: a container that was never started has no exit, a running one is killed.
    Shutdown,
}

/// What a shim answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ShimReply {
    /// To [`ShimRequest::State`].
    State(ShimState),
    /// To [`ShimRequest::Start`].
    Started {
        /// The container's first process.
        init: ProcessId,
        /// When it started, in nanoseconds since the epoch.
        started_at_ns: i64,
    },
    /// To [`ShimRequest::Wait`].
    Exited(ExitRecord),
    /// It is done and there is nothing to say.
    Done,
    /// To [`ShimRequest::Stats`].
    Stats(ShimStats),
    /// A command wrote so many bytes, which follow.
    Output {
        /// To standard error rather than output.
        is_stderr: bool,
        /// How many.
        bytes: usize,
    },
    /// A command has ended.
    ExecExited {
        /// Its exit code.
        code: i32,
        /// It was ended because it ran too long.
        timed_out: bool,
        /// It was ended because it wrote more than [`super::EXEC_OUTPUT_MAX_BYTES`].
        truncated: bool,
    },
    /// A checkpoint is about to begin this phase.
    Phase(checkpoint::Phase),
    /// A checkpoint has ended.
    CheckpointResult(Result<checkpoint::Report, checkpoint::Failure>),
    /// No.
    Refused(Refusal),
}

/// Why a shim does not do what it was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// A command cannot be run, in runc's words.
    Exec(String),
    /// The container cannot be restored, in the words of [`checkpoint::RestoreError`].
    Restore(String),
    /// The container is in another state.
    State(String),
    /// Anything else.
    Other(String),
}

/// A message with its length before it.
pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).expect("these messages have string keys and no fallible parts");
    let length = u32::try_from(bytes.len() - 4).expect("no message comes near 4 GiB");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// The length that four bytes say.
pub(super) fn checked_length(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(bytes) as usize;
    if length > MESSAGE_MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {length} bytes"),
        ));
    }
    Ok(length)
}

/// The message in these bytes.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Takes one whole message from the front of a buffer, if there is one.
pub(super) fn take_message<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some((length_prefix, payload)) = buffer.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = checked_length(*length_prefix)?;
    let Some(body) = payload.get(..length) else {
        return Ok(None);
    };
    let message = decode(body)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_split_at_their_length() {
        let mut bytes = encode(&ShimRequest::Signal(15));
        bytes.extend(encode(&ShimRequest::Stats));
        let mut buffer = Vec::new();
        let mut requests = Vec::new();
        for byte in bytes {
            buffer.push(byte);
            while let Some(request) = take_message::<ShimRequest>(&mut buffer).expect("well formed") {
                requests.push(format!("{request:?}"));
            }
        }
        assert_eq!(requests, ["Signal(15)", "Stats"]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn an_oversized_length_is_refused() {
        assert!(take_message::<ShimRequest>(&mut vec![0xff; 8]).is_err());
    }
}
