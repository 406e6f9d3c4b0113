//! Requests of clients whose `:authority` is the path of the socket.
//!
//! gRPC's C core (Python, C++, Ruby, PHP) sends the target's path, percent-encoded, as the authority of a unix socket: `%2Frun%2Fx.sock`;
//! old clients of gRPC for Go send the path as it is. Servers in Go take anything there, h2 resets the stream, for RFC 3986 has no such
//! host. A runtime behind a unix socket has no use for the name, so it is made one that h2 takes, before h2 reads it.
//!
//! ```text
//!  socket --> Rewriter: whole header blocks are held until they are complete --> h2
//!                |        in them one character gives way to another of the same length: '%' to '-'
//!                '------> all else passes as it comes
//! ```
//!
//! Replacing keeps every length (see [`hpack`]), so this needs no state of h2's. Ways to fail: bytes that are not HTTP/2 end the
//! looking on this connection, and pass as they are: h2 says what is wrong with them.

mod hpack;
mod huffman;

use std::ops::Range;

use bytes::{Buf as _, BytesMut};
use http::uri::Authority;

use self::hpack::{Malformed, Table};

/// What a client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame's header: three bytes of length, type, flags, four of stream (RFC 9113, section 4.1).
const FRAME_HEADER_BYTES: usize = 9;

/// The most of an unfinished header block that is held. Only blocks that h2 refuses are larger.
const HELD_BYTES: usize = 1 << 20;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Bytes of one connection on their way to h2.
pub(super) struct Rewriter {
    state: State,
    table: Table,
    /// What has come and is not looked at, or not to be passed on, yet.
    held: BytesMut,
    /// What may be passed on.
    ready: BytesMut,
}

enum State {
    /// The preface is awaited.
    Preface,
    /// A frame is awaited. The header block that is under way has these pieces in what is held, which ends at the second.
    Frame(Vec<Range<usize>>, usize),
    /// So much of a frame that is of no interest is still to come.
    Pass(usize),
    /// Nothing is looked at any more.
    Off,
}

impl Rewriter {
    pub(super) fn new() -> Rewriter {
        Rewriter {
            state: State::Preface,
            table: Table::new(),
            held: BytesMut::new(),
            ready: BytesMut::new(),
        }
    }

    /// Whether bytes may go past it.
    pub(super) fn is_off(&self) -> bool {
        matches!(self.state, State::Off) && self.ready.is_empty()
    }

    /// Takes what has come from the client.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        while self.advance() {}
    }

    /// No more will come: what is held passes as it is.
    pub(super) fn end(&mut self) {
        self.turn_off();
    }

    /// Moves what may be passed on into a buffer of this size.
    pub(super) fn give(&mut self, most: usize) -> BytesMut {
        let now = self.ready.len().min(most);
        self.ready.split_to(now)
    }

    fn turn_off(&mut self) {
        self.state = State::Off;
        let held = self.held.split();
        self.ready.unsplit(held);
    }

    fn pass(&mut self, bytes: usize) {
        let passed = self.held.split_to(bytes);
        self.ready.extend_from_slice(&passed);
    }

    /// One step; false when more must come first.
    fn advance(&mut self) -> bool {
        match &mut self.state {
            State::Off => {
                if !self.held.is_empty() {
                    self.turn_off();
                }
                false
            }
            State::Preface => {
                let length = self.held.len().min(PREFACE.len());
                if self.held[..length] != PREFACE[..length] {
                    self.turn_off();
                    return false;
                }
                if length == PREFACE.len() {
                    self.pass(length);
                    self.state = State::Frame(Vec::new(), 0);
                }
                length == PREFACE.len()
            }
            State::Pass(left) => {
                let now = (*left).min(self.held.len());
                *left -= now;
                let done = *left == 0;
                self.pass(now);
                if done {
                    self.state = State::Frame(Vec::new(), 0);
                }
                done
            }
            State::Frame(pieces, end) => {
                let begin = *end;
                let Some(header) = self.held.get(begin..begin + FRAME_HEADER_BYTES) else {
                    return false;
                };
                let mut length = &header[..4];
                // The byte behind the length is the type.
                let (length, kind) = ((length.get_u32() >> 8) as usize, header[3]);
                let flags = header[4];
                let frame = begin..begin + FRAME_HEADER_BYTES + length;
                let expected = if pieces.is_empty() { HEADERS } else { CONTINUATION };
                if kind != expected {
                    if !pieces.is_empty() || kind == CONTINUATION {
                        self.turn_off();
                        return false;
                    }
                    self.state = State::Pass(FRAME_HEADER_BYTES + length);
                    return true;
                }
                if frame.end > HELD_BYTES {
                    self.turn_off();
                    return false;
                }
                let Some(payload) = self.held.get(frame.start + FRAME_HEADER_BYTES..frame.end) else {
                    return false;
                };
                let Some(fragment) = fragment(kind, flags, payload) else {
                    self.turn_off();
                    return false;
                };
                let at = frame.start + FRAME_HEADER_BYTES;
                pieces.push(at + fragment.start..at + fragment.end);
                *end = frame.end;
                if flags & END_HEADERS == 0 {
                    return true;
                }
                let (pieces, end) = (std::mem::take(pieces), *end);
                if self.rewrite(&pieces).is_err() {
                    self.turn_off();
                    return false;
                }
                self.pass(end);
                self.state = State::Frame(Vec::new(), 0);
                true
            }
        }
    }

    /// Replaces the authority in a complete block.
    fn rewrite(&mut self, pieces: &[Range<usize>]) -> Result<(), Malformed> {
        let mut block: Vec<u8> = Vec::new();
        for piece in pieces {
            block.extend_from_slice(&self.held[piece.clone()]);
        }
        self.table.replace_authority(&mut block, acceptable)?;
        let mut rest = &block[..];
        for piece in pieces {
            let (now, later) = rest.split_at(piece.len());
            self.held[piece.clone()].copy_from_slice(now);
            rest = later;
        }
        Ok(())
    }
}

/// Where the piece of a header block lies in a frame's payload (RFC 9113, sections 6.2 and 6.10).
fn fragment(kind: u8, flags: u8, payload: &[u8]) -> Option<Range<usize>> {
    let mut range = 0..payload.len();
    if kind == HEADERS && flags & PADDED != 0 {
        range.start += 1;
        range.end = range.end.checked_sub(usize::from(*payload.first()?))?;
    }
    if kind == HEADERS && flags & PRIORITY != 0 {
        range.start += 5;
    }
    (range.start <= range.end).then_some(range)
}

/// An authority that h2 takes, in place of one that it does not: of the same length, also in Huffman's code.
fn acceptable(authority: &[u8], coded: bool) -> Option<Vec<u8>> {
    if authority.is_empty() || Authority::try_from(authority).is_ok() {
        return None;
    }
    let other = authority
        .iter()
        .map(|byte| match (byte, huffman::bits(*byte)) {
            (byte, _) if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) => Some(*byte),
            (_, _) if !coded => Some(b'-'),
            (_, 6) => Some(b'-'),
            (_, 7) => Some(b'x'),
            (_, 8) => Some(b'X'),
            (_, 10) => Some(b'!'),
            (_, 11) => Some(b'+'),
            (_, 13) => Some(b'~'),
            _ => None,
        })
        .collect::<Option<Vec<u8>>>()?;
    Authority::try_from(&other[..]).is_ok().then_some(other)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// A header block with a literal `:authority` in words, as gRPC's C core writes it, raw or coded.
    fn block(authority: &str, coded: bool) -> Vec<u8> {
        let mut block = vec![0x83, 0x40, 10];
        block.extend_from_slice(b":authority");
        let bits: usize = authority.bytes().map(|byte| usize::from(huffman::bits(byte))).sum();
        if coded {
            let mut value = vec![0; bits.div_ceil(8)];
            huffman::encode_over(&mut value, authority.as_bytes());
            block.push(0x80 | value.len() as u8);
            block.extend_from_slice(&value);
        } else {
            block.push(authority.len() as u8);
            block.extend_from_slice(authority.as_bytes());
        }
        block
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
        frame.extend_from_slice(payload);
        frame
    }

    /// What comes out of a rewriter that is fed so many bytes at a time.
    fn through(bytes: &[u8], step: usize) -> Vec<u8> {
        let mut rewriter = Rewriter::new();
        let mut out = Vec::new();
        for piece in bytes.chunks(step) {
            rewriter.take(piece);
            out.extend_from_slice(&rewriter.give(3));
        }
        rewriter.end();
        out.extend_from_slice(&rewriter.give(usize::MAX));
        assert!(rewriter.is_off());
        out
    }

    #[rstest]
    #[case("%2Ftmp%2Fa.sock", "-2Ftmp-2Fa.sock", "-2Ftmp-2Fa.sock")]
    #[case("/run/a/a.sock", "-run-a-a.sock", "-run-a-a.sock")]
    #[case("a@b%2F:c:d&e", "a-b-2F-c-d-e", "a~b-2FxcxdXe")]
    #[case("localhost", "localhost", "localhost")]
    #[case("localhost:8080", "localhost:8080", "localhost:8080")]
    #[case("[::1]:80", "[::1]:80", "[::1]:80")]
    fn the_authority_becomes_one_that_h2_takes(
        #[case] authority: &str,
        #[case] raw: &str,
        #[case] as_coded: &str,
        #[values(true, false)] coded: bool,
        #[values(1, 2, 1 << 16)] step: usize,
    ) {
        let expected = if coded { as_coded } else { raw };
        let wire = |authority: &str| {
            let headers = block(authority, coded);
            let (first, second) = headers.split_at(headers.len() / 2);
            let mut padded = vec![4, 0, 0, 0, 0, 16];
            padded.extend_from_slice(first);
            padded.extend_from_slice(&[0; 4]);
            [
                PREFACE.to_vec(),
                frame(0x4, 0, &[0, 3, 0, 0, 0, 100]),
                frame(HEADERS, END_HEADERS, &headers),
                frame(0x0, 1, b"%2Fdata"),
                // In two pieces, with padding and priority.
                frame(HEADERS, PADDED | PRIORITY, &padded),
                frame(CONTINUATION, END_HEADERS, second),
            ]
            .concat()
        };
        assert_eq!(through(&wire(authority), step), wire(expected));
        assert!(Authority::try_from(expected.as_bytes()).is_ok());
    }

    #[rstest]
    #[case::http1(b"GET /%2F HTTP/1.1\r\n\r\n")]
    #[case::cut(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0")]
    fn what_is_not_http2_passes(#[case] bytes: &[u8]) {
        assert_eq!(through(bytes, 1), bytes);
    }

    #[test]
    fn a_block_that_is_malformed_passes_with_all_behind_it() {
        let bytes = [
            PREFACE.to_vec(),
            frame(HEADERS, END_HEADERS, &[0x40 | 62, 1, b'%']),
            frame(HEADERS, END_HEADERS, &block("%2F", false)),
        ]
        .concat();
        assert_eq!(through(&bytes, 7), bytes);
    }
}
