//! A command beside the container: ExecSync on the host.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use super::{
    super::{MAX_EXEC_OUTPUT_BYTES, message::Reply},
    endpoint::Connection,
    members::ExecMark,
    streams,
};

/// A command that runs.
pub(super) struct Exec {
    pub(super) mark: ExecMark,
    /// The connection that asked.
    pub(super) connection: u64,
    /// Standard output and error, until they end.
    pub(super) streams: [Option<OwnedFd>; 2],
    /// Bytes that were passed on, of both streams.
    sent: usize,
    /// It wrote more than may be passed on, and is being killed for it.
    pub(super) cut: bool,
    pub(super) deadline: Option<Instant>,
    /// It and all it started are being killed, since then.
    pub(super) killing: Option<Instant>,
    /// Because it ran too long.
    pub(super) timed_out: bool,
    /// Its exit code, once it has ended.
    pub(super) code: Option<i32>,
}

impl Exec {
    pub(super) fn new(mark: ExecMark, connection: u64, streams: [OwnedFd; 2], deadline: Option<Instant>) -> Self {
        let streams = streams.map(Some);
        Self {
            mark,
            connection,
            streams,
            sent: 0,
            cut: false,
            deadline,
            killing: None,
            timed_out: false,
            code: None,
        }
    }

    /// Passes on what one of its streams holds now. A command that writes more than [`MAX_EXEC_OUTPUT_BYTES`] is killed with all
    /// that it started: what its caller would get is not what it wrote.
    pub(super) fn pump(&mut self, stream: usize, connection: Option<&mut Connection>) -> io::Result<()> {
        let Some(fd) = &self.streams[stream] else { return Ok(()) };
        let (sent, cut) = (&mut self.sent, &mut self.cut);
        let mut pass_on = |bytes: &[u8], connection: &mut Connection| {
            let room = MAX_EXEC_OUTPUT_BYTES - *sent;
            *cut |= bytes.len() > room;
            let bytes = &bytes[..bytes.len().min(room)];
            if !bytes.is_empty() {
                connection.send(&Reply::Output {
                    error: stream == 1,
                    bytes: bytes.len(),
                });
                connection.send_bytes(bytes);
                *sent += bytes.len();
            }
        };
        let mut connection = connection;
        let ended = streams::read(fd.as_fd(), |bytes| {
            if let Some(connection) = connection.as_deref_mut() {
                pass_on(bytes, connection);
            }
        })?;
        if ended {
            self.streams[stream] = None;
        }
        if self.cut {
            self.killing.get_or_insert_with(Instant::now);
        }
        Ok(())
    }
}
