//! A command that runs next to the container (ExecSync).

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use super::{
    super::{EXEC_OUTPUT_MAX_BYTES, message::ShimReply},
    client_connection::ClientConnection,
    members::ExecKey,
    streams,
};

pub(super) struct RunningExec {
    pub(super) key: ExecKey,
    /// The connection of the request.
    pub(super) connection: u64,
    /// stdout and stderr, until they end.
    pub(super) streams: [Option<OwnedFd>; 2],
    /// Bytes of both streams that were sent.
    sent_bytes: usize,
    /// The command wrote more than the limit and is being killed.
    pub(super) truncated: bool,
    pub(super) deadline: Option<Instant>,
    /// Since when the command and the processes that it started are being killed.
    pub(super) kill_since: Option<Instant>,
    /// Killed at the deadline.
    pub(super) timed_out: bool,
    /// The exit code after the command has ended.
    pub(super) exit_code: Option<i32>,
}

impl RunningExec {
    pub(super) fn new(key: ExecKey, connection: u64, streams: [OwnedFd; 2], deadline: Option<Instant>) -> Self {
        let streams = streams.map(Some);
        Self {
            key,
            connection,
            streams,
            sent_bytes: 0,
            truncated: false,
            deadline,
            kill_since: None,
            timed_out: false,
            exit_code: None,
        }
    }

    /// Sends the available data of a stream. A command that writes more than [`EXEC_OUTPUT_MAX_BYTES`] is killed with
    /// all processes that it started, because the client would not get its complete output.
    pub(super) fn pump(&mut self, stream: usize, connection: Option<&mut ClientConnection>) -> io::Result<()> {
        let Some(fd) = &self.streams[stream] else { return Ok(()) };
        let (sent_bytes, truncated) = (&mut self.sent_bytes, &mut self.truncated);
        let mut forward = |bytes: &[u8], connection: &mut ClientConnection| {
            let remaining = EXEC_OUTPUT_MAX_BYTES - *sent_bytes;
            *truncated |= bytes.len() > remaining;
            let bytes = &bytes[..bytes.len().min(remaining)];
            if !bytes.is_empty() {
                connection.send(&ShimReply::Output {
                    is_stderr: stream == 1,
                    bytes: bytes.len(),
                });
                connection.send_bytes(bytes);
                *sent_bytes += bytes.len();
            }
        };
        let mut connection = connection;
        let eof = streams::read_available(fd.as_fd(), |bytes| {
            if let Some(connection) = connection.as_deref_mut() {
                forward(bytes, connection);
            }
        })?;
        if eof {
            self.streams[stream] = None;
        }
        if self.truncated {
            self.kill_since.get_or_insert_with(Instant::now);
        }
        Ok(())
    }
}
