//! `sk-queues.img`: the unread data of unix sockets, peeked without consuming it, packet by packet if there are
//! packets.

use std::os::fd::BorrowedFd;

use cri_proto::criu::{Encoder, Kind, message::SkPacketEntry};
use libc::SOL_SOCKET;
use nix::poll::PollFlags;

use super::super::ImageSetBuilder;
use crate::process::socket::{getsockopt, peek, poll_readiness, set_peek_offset};

/// The initial buffer size. A packet is at most as large as its sender's buffer, which usually has a similar size. For
/// a larger packet the buffer grows and the packet is peeked again.
const INITIAL_BUFFER_BYTES: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct SocketQueues {
    packets: Vec<(SkPacketEntry, Vec<u8>)>,
    buffer: Vec<u8>,
}

/// State of a queue besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UnsupportedQueueState {
    /// SCM_RIGHTS or SCM_CREDENTIALS messages.
    pub(super) control_data: bool,
    /// A packet without content, and everything after it.
    pub(super) empty_packet: bool,
    /// The sender addresses of packets.
    pub(super) sender_addresses: bool,
    /// An out-of-band byte.
    pub(super) out_of_band: bool,
}

impl UnsupportedQueueState {
    /// Descriptions for the log, for a socket of this type.
    pub(super) fn descriptions(self, kind: u32) -> impl Iterator<Item = &'static str> {
        // A stream's reader gets the address from getpeername(2).
        let sender_addresses = self.sender_addresses && kind == libc::SOCK_DGRAM as u32;
        [
            (self.control_data, "descriptors or credentials in the queue"),
            (self.empty_packet, "an empty packet and all later packets in the queue"),
            (sender_addresses, "the sender addresses of unread packets in the queue"),
            (self.out_of_band, "the out-of-band byte (MSG_OOB)"),
        ]
        .into_iter()
        .filter_map(|(is_set, description)| is_set.then_some(description))
    }
}

impl SocketQueues {
    /// Adds the unread data of a socket, by its id in `files.img`. `is_shut_down`: nothing more can be received.
    pub(super) fn add(
        &mut self,
        socket_id: u32,
        fd: BorrowedFd<'_>,
        is_shut_down: bool,
    ) -> nix::Result<UnsupportedQueueState> {
        let saved_offset = getsockopt::<i32>(fd, SOL_SOCKET, libc::SO_PEEK_OFF)?;
        set_peek_offset(fd, 0)?;
        let result = self.peek_all(socket_id, fd, is_shut_down);
        set_peek_offset(fd, saved_offset)?;
        result
    }

    fn peek_all(
        &mut self,
        socket_id: u32,
        fd: BorrowedFd<'_>,
        is_shut_down: bool,
    ) -> nix::Result<UnsupportedQueueState> {
        let mut unsupported = UnsupportedQueueState {
            out_of_band: poll_readiness(fd)?.contains(PollFlags::POLLPRI),
            ..UnsupportedQueueState::default()
        };
        if self.buffer.is_empty() {
            self.buffer.resize(INITIAL_BUFFER_BYTES, 0);
        }
        loop {
            let offset = getsockopt::<i32>(fd, SOL_SOCKET, libc::SO_PEEK_OFF)?;
            let Some(packet) = peek(fd, &mut self.buffer)? else {
                return Ok(unsupported);
            };
            if packet.truncated {
                set_peek_offset(fd, offset)?;
                let capacity = self.buffer.len() * 2;
                self.buffer.resize(capacity, 0);
                continue;
            }
            if packet.length == 0 {
                unsupported.empty_packet = !is_shut_down;
                return Ok(unsupported);
            }
            unsupported.control_data |= packet.has_control_data;
            unsupported.sender_addresses |= packet.sender_bound;
            let head = SkPacketEntry {
                id_for: socket_id,
                length: u32::try_from(packet.length).expect("a buffer below 4 GiB"),
                scm: Vec::new(),
            };
            self.packets.push((head, self.buffer[..packet.length].to_vec()));
        }
    }

    pub(super) fn push_images(self, images: &mut ImageSetBuilder) {
        if self.packets.is_empty() {
            return;
        }
        let mut encoder = Encoder::new(Kind::SkQueues);
        for (head, bytes) in &self.packets {
            encoder.entry(head);
            encoder.payload(bytes);
        }
        images.push(Kind::SkQueues.file_name(None), encoder.finish());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::{
            fd::AsFd as _,
            unix::net::{UnixDatagram, UnixStream},
        },
    };

    use super::*;

    #[test]
    fn peeked_data_stays_in_the_queue() {
        let mut queues = SocketQueues::default();
        let (mut left, mut right) = UnixStream::pair().unwrap();
        let written: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        right.write_all(&written).unwrap();
        assert_eq!(queues.add(7, left.as_fd(), false), Ok(UnsupportedQueueState::default()));
        let bytes: Vec<u8> = queues.packets.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        assert!(bytes == written && queues.packets.iter().all(|(head, _)| head.id_for == 7));
        let mut read = vec![0; written.len()];
        left.read_exact(&mut read).unwrap();
        assert!(read == written);

        let mut queues = SocketQueues::default();
        let (left, right) = UnixDatagram::pair().unwrap();
        for packet in [&b"one"[..], &[2; 70_000], b"three"] {
            right.send(packet).unwrap();
        }
        assert_eq!(queues.add(8, left.as_fd(), false), Ok(UnsupportedQueueState::default()));
        let lengths: Vec<_> = queues.packets.iter().map(|(head, _)| head.length).collect();
        assert_eq!(lengths, [3, 70_000, 5]);
        let mut queues = SocketQueues::default();
        right.send(b"").unwrap();
        assert!(queues.add(8, left.as_fd(), false).unwrap().empty_packet);
        assert_eq!(left.recv(&mut [0; 8]).unwrap(), 3);
    }
}
