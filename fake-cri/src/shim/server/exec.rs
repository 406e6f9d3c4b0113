//! A command beside the container: ExecSync on the host.

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

/// A command that runs.
pub(super) struct RunningExec {
    pub(super) key: ExecKey,
    /// The connection that asked.
    pub(super) connection: u64,
    /// Standard output and error, until they end.
    pub(super) streams: [Option<OwnedFd>; 2],
    /// Bytes that were passed on, of both streams.
    sent_bytes: usize,
    /// It wrote more than may be passed on, and is being killed for it.
    pub(super) truncated: bool,
    pub(super) deadline: Option<Instant>,
    /// It and all it started are being killed, since then.
    pub(super) kill_since: Option<Instant>,
    /// Because it ran too long.
    pub(super) timed_out: bool,
    /// Its exit code, once it has ended.
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

    /// Passes on what one of its streams holds now. A command that writes more than [`EXEC_OUTPUT_MAX_BYTES`] is killed with all
    /// that it started: what its caller would get is not what it wrote.
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
