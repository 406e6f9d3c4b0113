use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::Serialize;

use super::super::message::{self, ShimRequest};
use crate::process::{Pid, ProcessId, pidfd::PidFd};

/// Above this number of unsent bytes the producer must wait.
const UNSENT_LIMIT_BYTES: usize = 256 << 10;

/// A connection. No operation blocks: bytes that do not fit into the socket buffer are kept.
pub(super) struct ClientConnection {
    socket: UnixStream,
    read_buffer: Vec<u8>,
    write_buffer: Vec<u8>,
    /// Send the exit when the container has ended.
    pub(super) waits_for_exit: bool,
    /// The client has disconnected, or sent an invalid message.
    pub(super) closed: bool,
}

impl ClientConnection {
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            read_buffer: Vec::new(),
            write_buffer: Vec::new(),
            waits_for_exit: false,
            closed: false,
        })
    }

    /// Returns the requests that have arrived. Marks the connection as closed if the client has disconnected or a
    /// message is invalid.
    pub(super) fn receive(&mut self) -> Vec<ShimRequest> {
        let mut requests = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(count) => {
                    self.read_buffer.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.closed = true,
            }
            break;
        }
        loop {
            match message::take_message(&mut self.read_buffer) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => {
                    eprintln!("read a request: {error}");
                    self.closed = true;
                    break;
                }
            }
        }
        if self.read_buffer.is_empty() {
            self.read_buffer = Vec::new();
        }
        requests
    }

    /// Sends a message, as soon as the socket has room.
    pub(super) fn send(&mut self, message: &impl Serialize) {
        self.send_bytes(&message::encode(message));
    }

    /// Sends the raw bytes that follow a message.
    pub(super) fn send_bytes(&mut self, bytes: &[u8]) {
        self.write_buffer.extend_from_slice(bytes);
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        let mut sent_bytes = 0;
        while sent_bytes < self.write_buffer.len() {
            match self.socket.write(&self.write_buffer[sent_bytes..]) {
                Ok(count) => sent_bytes += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.closed |= error.kind() != io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        self.write_buffer.drain(..sent_bytes);
        if self.write_buffer.is_empty() || self.closed {
            self.write_buffer = Vec::new();
        }
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.write_buffer.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.write_buffer.len() > UNSENT_LIMIT_BYTES
    }

    /// The process of the client: fake-cri.
    pub(super) fn peer(&self) -> Option<PidFd> {
        let credentials = getsockopt(&self.socket, PeerCredentials).ok()?;
        PidFd::open(ProcessId::from_pid(Pid::from_raw(credentials.pid())).ok()?).ok()
    }
}

impl AsFd for ClientConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
