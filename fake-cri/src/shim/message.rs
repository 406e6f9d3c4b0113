//! The messages between fake-cri and a shim.
//!
//! Each request has its own connection to the shim's socket. A message is its length (4 bytes, little endian) and so
//! many bytes of JSON. Only [`ShimReply::Output`] is followed by raw bytes: as many as its `bytes` field says.
//!
//! ```text
//!  fake-cri                                    shim
//!  Checkpoint(job)  ------------------------>
//!                   <------------------------  Phase(freeze)      the engine waits ...
//!  PhaseAck         ------------------------>                     ... for this, or for the end of the connection
//!                   <------------------------  Phase(capture)
//!  (closes)                                    the checkpoint is cancelled, the container keeps running
//! ```

use std::{io, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{ExitRecord, ShimState, ShimStats};
use crate::{checkpoint, fault::CheckpointFaults, process::ProcessId};

/// The longest accepted message. The largest are the documents of a checkpoint job, far below this limit.
const MESSAGE_MAX_BYTES: usize = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ShimRequest {
    /// Returns the state of the container.
    State,
    /// Starts the container.
    Start,
    /// Returns the exit when the container has ended.
    Wait,
    /// Sends a signal to the first process.
    Signal(i32),
    /// Kills all processes of the container.
    KillAll,
    /// Returns the resource usage.
    Stats,
    /// Runs a command next to the container (ExecSync).
    Exec {
        argv: Vec<String>,
        /// Added to the container's environment.
        env: Vec<(String, String)>,
        timeout: Option<Duration>,
    },
    /// Reopens the log.
    ReopenLog,
    /// Checkpoints the container, with these faults.
    Checkpoint(Box<checkpoint::Job>, CheckpointFaults),
    /// Acknowledges the last [`ShimReply::Phase`].
    PhaseAck,
    /// Ends the shim. A running container is killed; a container that was never started has no exit record.
    Shutdown,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ShimReply {
    State(ShimState),
    Started {
        init: ProcessId,
        /// In nanoseconds since the epoch.
        started_at_ns: i64,
    },
    Exited(ExitRecord),
    /// Success without a result.
    Done,
    Stats(ShimStats),
    /// Output of a command; the bytes follow the message.
    Output {
        is_stderr: bool,
        bytes: usize,
    },
    ExecExited {
        code: i32,
        /// Killed at its timeout.
        timed_out: bool,
        /// Killed because it wrote more than [`super::EXEC_OUTPUT_MAX_BYTES`].
        truncated: bool,
    },
    /// A checkpoint begins this phase.
    Phase(checkpoint::Phase),
    CheckpointResult(Result<checkpoint::Report, checkpoint::Failure>),
    /// The request failed.
    Refused(Refusal),
}

/// Why a request failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// A command cannot be executed, in the words of runc.
    Exec(String),
    /// The container cannot be restored: the message of [`checkpoint::RestoreError`].
    Restore(String),
    /// The state of the container does not allow the request.
    State(String),
    Other(String),
}

/// Encodes a message with its length prefix.
pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).expect("these messages have string keys and no fallible parts");
    let length = u32::try_from(bytes.len() - 4).expect("no message comes near 4 GiB");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// Decodes a length prefix and checks it against the limit.
pub(super) fn checked_length(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(bytes) as usize;
    if length > MESSAGE_MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {length} bytes is too long"),
        ));
    }
    Ok(length)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Takes one complete message from the front of a buffer, if there is one.
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
