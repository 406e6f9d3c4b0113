//! The shim's end of one connection.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::Serialize;

use super::super::message::{self, Request};
use crate::process::{ProcessId, pidfd::PidFd};

/// What waits to be sent beyond this holds back whoever produces more.
const FULL: usize = 256 << 10;

/// A connection. Nothing here waits: what does not fit into the socket is kept.
pub(super) struct Connection {
    socket: UnixStream,
    received: Vec<u8>,
    unsent: Vec<u8>,
    /// Answer on it when the container has ended.
    pub(super) waits: bool,
    /// The other side has gone.
    pub(super) closed: bool,
}

impl Connection {
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            received: Vec::new(),
            unsent: Vec::new(),
            waits: false,
            closed: false,
        })
    }

    /// The requests that have arrived. A peer that has gone or talks nonsense marks the connection as closed.
    pub(super) fn receive(&mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(count) => {
                    self.received.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.closed = true,
            }
            break;
        }
        loop {
            match message::take(&mut self.received) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => {
                    eprintln!("read a request: {error}");
                    self.closed = true;
                    break;
                }
            }
        }
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        requests
    }

    /// Sends a message, now or as soon as there is room.
    pub(super) fn send(&mut self, message: &impl Serialize) {
        self.send_bytes(&message::encode(message));
    }

    /// Sends bytes that belong to the message before.
    pub(super) fn send_bytes(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
        self.flush();
    }

    /// Sends what is left.
    pub(super) fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.socket.write(&self.unsent[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.closed |= error.kind() != io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        self.unsent.drain(..sent);
        if self.unsent.is_empty() || self.closed {
            self.unsent = Vec::new();
        }
    }

    /// Whether something waits to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether more must wait.
    pub(super) fn is_full(&self) -> bool {
        self.unsent.len() > FULL
    }

    /// The process on the other side: fake-cri.
    pub(super) fn peer(&self) -> Option<PidFd> {
        let credentials = getsockopt(&self.socket, PeerCredentials).ok()?;
        PidFd::open(ProcessId::of(credentials.pid()).ok()?).ok()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
