//! Rewrites the `:authority` of clients that send the path of the socket there.
//!
//! For a unix socket, gRPC's C core (Python, C++, Ruby, PHP) sends the percent-encoded path as the authority
//! (`%2Frun%2Fx.sock`), and old clients of gRPC for Go send the plain path. Servers in Go accept any authority. h2
//! resets the stream, because RFC 3986 does not allow such a host. A runtime behind a unix socket does not need the
//! authority, so the invalid characters are replaced before h2 reads them.
//!
//! ```text
//!  socket --> AuthorityRewriter --- header blocks: buffered until complete, then each --> h2
//!                  |                invalid character replaced by a valid one, '%' by '-'
//!                  '--------------- everything else: unchanged
//! ```
//!
//! A replacement keeps every length (see [`hpack`]), so no state of h2 is needed. Ways to fail: bytes that are not
//! HTTP/2 disable the rewriter for this connection. They are passed unchanged, and h2 reports the error.

mod hpack;
mod huffman;

use std::ops::Range;

use bytes::{Buf as _, BytesMut};
use http::uri::Authority;

use self::hpack::{DynamicTable, MalformedBlock};

/// The client connection preface (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame header: length (3 bytes), type, flags, stream id (4 bytes) (RFC 9113, section 4.1).
const FRAME_HEADER_BYTES: usize = 9;

/// The limit for a buffered header block. h2 refuses larger blocks anyway.
const HEADER_BLOCK_MAX_BYTES: usize = 1 << 20;

const HEADERS_FRAME: u8 = 0x1;
const CONTINUATION_FRAME: u8 = 0x9;
const END_HEADERS_FLAG: u8 = 0x4;
const PADDED_FLAG: u8 = 0x8;
const PRIORITY_FLAG: u8 = 0x20;

/// The bytes from the client of one connection, on their way to h2.
pub(super) struct AuthorityRewriter {
    state: RewriterState,
    table: DynamicTable,
    /// Received bytes that are not processed yet, or belong to an incomplete header block.
    pending: BytesMut,
    /// Bytes for h2.
    ready: BytesMut,
}

enum RewriterState {
    Preface,
    /// Expects a frame. The ranges are the fragments of an incomplete header block in `pending`; the number is the end
    /// of its last frame.
    Frame(Vec<Range<usize>>, usize),
    /// Passes this many bytes of a frame without header fields.
    Pass(usize),
    /// Passes all bytes unchanged.
    Disabled,
}

impl AuthorityRewriter {
    pub(super) fn new() -> AuthorityRewriter {
        AuthorityRewriter {
            state: RewriterState::Preface,
            table: DynamicTable::new(),
            pending: BytesMut::new(),
            ready: BytesMut::new(),
        }
    }

    /// Whether further bytes may bypass the rewriter.
    pub(super) fn is_disabled(&self) -> bool {
        matches!(self.state, RewriterState::Disabled) && self.ready.is_empty()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        while self.advance() {}
    }

    /// Handles the end of the stream: pending bytes are passed unchanged.
    pub(super) fn end(&mut self) {
        self.disable();
    }

    pub(super) fn pop(&mut self, max_bytes: usize) -> BytesMut {
        let length = self.ready.len().min(max_bytes);
        self.ready.split_to(length)
    }

    fn disable(&mut self) {
        self.state = RewriterState::Disabled;
        let pending = self.pending.split();
        self.ready.unsplit(pending);
    }

    fn pass_through(&mut self, bytes: usize) {
        let ready = self.pending.split_to(bytes);
        self.ready.extend_from_slice(&ready);
    }

    /// Makes one step. Returns false if more bytes are needed.
    fn advance(&mut self) -> bool {
        match &mut self.state {
            RewriterState::Disabled => {
                if !self.pending.is_empty() {
                    self.disable();
                }
                false
            }
            RewriterState::Preface => {
                let length = self.pending.len().min(HTTP2_PREFACE.len());
                if self.pending[..length] != HTTP2_PREFACE[..length] {
                    self.disable();
                    return false;
                }
                if length == HTTP2_PREFACE.len() {
                    self.pass_through(length);
                    self.state = RewriterState::Frame(Vec::new(), 0);
                }
                length == HTTP2_PREFACE.len()
            }
            RewriterState::Pass(remaining) => {
                let length = (*remaining).min(self.pending.len());
                *remaining -= length;
                let done = *remaining == 0;
                self.pass_through(length);
                if done {
                    self.state = RewriterState::Frame(Vec::new(), 0);
                }
                done
            }
            RewriterState::Frame(fragments, end) => {
                let begin = *end;
                let Some(header) = self.pending.get(begin..begin + FRAME_HEADER_BYTES) else {
                    return false;
                };
                let mut length = &header[..4];
                // `get_u32` reads the length (3 bytes) and the type; the shift removes the type.
                let (length, kind) = ((length.get_u32() >> 8) as usize, header[3]);
                let flags = header[4];
                let frame = begin..begin + FRAME_HEADER_BYTES + length;
                let expected = if fragments.is_empty() {
                    HEADERS_FRAME
                } else {
                    CONTINUATION_FRAME
                };
                if kind != expected {
                    if !fragments.is_empty() || kind == CONTINUATION_FRAME {
                        self.disable();
                        return false;
                    }
                    self.state = RewriterState::Pass(FRAME_HEADER_BYTES + length);
                    return true;
                }
                if frame.end > HEADER_BLOCK_MAX_BYTES {
                    self.disable();
                    return false;
                }
                let Some(payload) = self.pending.get(frame.start + FRAME_HEADER_BYTES..frame.end) else {
                    return false;
                };
                let Some(fragment) = fragment_range(kind, flags, payload) else {
                    self.disable();
                    return false;
                };
                let payload_start = frame.start + FRAME_HEADER_BYTES;
                fragments.push(payload_start + fragment.start..payload_start + fragment.end);
                *end = frame.end;
                if flags & END_HEADERS_FLAG == 0 {
                    return true;
                }
                let (fragments, end) = (std::mem::take(fragments), *end);
                if self.rewrite(&fragments).is_err() {
                    self.disable();
                    return false;
                }
                self.pass_through(end);
                self.state = RewriterState::Frame(Vec::new(), 0);
                true
            }
        }
    }

    fn rewrite(&mut self, fragments: &[Range<usize>]) -> Result<(), MalformedBlock> {
        let mut block: Vec<u8> = Vec::new();
        for fragment in fragments {
            block.extend_from_slice(&self.pending[fragment.clone()]);
        }
        self.table.replace_authority(&mut block, acceptable_authority)?;
        let mut rest = &block[..];
        for fragment in fragments {
            let (current, remaining) = rest.split_at(fragment.len());
            self.pending[fragment.clone()].copy_from_slice(current);
            rest = remaining;
        }
        Ok(())
    }
}

/// The range of the header block fragment in a frame's payload (RFC 9113, sections 6.2 and 6.10).
fn fragment_range(kind: u8, flags: u8, payload: &[u8]) -> Option<Range<usize>> {
    let mut range = 0..payload.len();
    if kind == HEADERS_FRAME && flags & PADDED_FLAG != 0 {
        range.start += 1;
        range.end = range.end.checked_sub(usize::from(*payload.first()?))?;
    }
    if kind == HEADERS_FRAME && flags & PRIORITY_FLAG != 0 {
        range.start += 5;
    }
    (range.start <= range.end).then_some(range)
}

/// Returns a replacement for an authority that h2 refuses, `None` if the authority is valid or has no replacement. The
/// replacement has the same length, also in the Huffman code: each invalid character is replaced by a valid one with a
/// code of the same number of bits.
fn acceptable_authority(authority: &[u8], is_huffman: bool) -> Option<Vec<u8>> {
    if authority.is_empty() || Authority::try_from(authority).is_ok() {
        return None;
    }
    let replacement = authority
        .iter()
        .map(|byte| match (byte, huffman::code_bits(*byte)) {
            (byte, _) if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) => Some(*byte),
            (_, _) if !is_huffman => Some(b'-'),
            (_, 6) => Some(b'-'),
            (_, 7) => Some(b'x'),
            (_, 8) => Some(b'X'),
            (_, 10) => Some(b'!'),
            (_, 11) => Some(b'+'),
            (_, 13) => Some(b'~'),
            _ => None,
        })
        .collect::<Option<Vec<u8>>>()?;
    Authority::try_from(&replacement[..]).is_ok().then_some(replacement)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// A header block with a literal name `:authority`, as gRPC's C core writes it. The value is raw or Huffman-coded.
    fn block(authority: &str, coded: bool) -> Vec<u8> {
        let mut block = vec![0x83, 0x40, 10];
        block.extend_from_slice(b":authority");
        let bits: usize = authority
            .bytes()
            .map(|byte| usize::from(huffman::code_bits(byte)))
            .sum();
        if coded {
            let mut value = vec![0; bits.div_ceil(8)];
            huffman::encode_into(&mut value, authority.as_bytes());
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

    fn rewrite_in_chunks(bytes: &[u8], step: usize) -> Vec<u8> {
        let mut rewriter = AuthorityRewriter::new();
        let mut out = Vec::new();
        for fragment in bytes.chunks(step) {
            rewriter.push(fragment);
            out.extend_from_slice(&rewriter.pop(3));
        }
        rewriter.end();
        out.extend_from_slice(&rewriter.pop(usize::MAX));
        assert!(rewriter.is_disabled());
        out
    }

    #[rstest]
    #[case("%2Ftmp%2Fa.sock", "-2Ftmp-2Fa.sock", "-2Ftmp-2Fa.sock")]
    #[case("/run/a/a.sock", "-run-a-a.sock", "-run-a-a.sock")]
    #[case("a@b%2F:c:d&e", "a-b-2F-c-d-e", "a~b-2FxcxdXe")]
    #[case("localhost", "localhost", "localhost")]
    #[case("localhost:8080", "localhost:8080", "localhost:8080")]
    #[case("[::1]:80", "[::1]:80", "[::1]:80")]
    fn authorities_become_valid_for_h2(
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
                HTTP2_PREFACE.to_vec(),
                frame(0x4, 0, &[0, 3, 0, 0, 0, 100]),
                frame(HEADERS_FRAME, END_HEADERS_FLAG, &headers),
                frame(0x0, 1, b"%2Fdata"),
                // A block in two fragments, with padding and priority.
                frame(HEADERS_FRAME, PADDED_FLAG | PRIORITY_FLAG, &padded),
                frame(CONTINUATION_FRAME, END_HEADERS_FLAG, second),
            ]
            .concat()
        };
        assert_eq!(rewrite_in_chunks(&wire(authority), step), wire(expected));
        assert!(Authority::try_from(expected.as_bytes()).is_ok());
    }

    #[rstest]
    #[case::http1(b"GET /%2F HTTP/1.1\r\n\r\n")]
    #[case::cut(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0")]
    fn other_protocols_pass_unchanged(#[case] bytes: &[u8]) {
        assert_eq!(rewrite_in_chunks(bytes, 1), bytes);
    }

    #[test]
    fn a_malformed_block_disables_rewriting() {
        let bytes = [
            HTTP2_PREFACE.to_vec(),
            frame(HEADERS_FRAME, END_HEADERS_FLAG, &[0x40 | 62, 1, b'%']),
            frame(HEADERS_FRAME, END_HEADERS_FLAG, &block("%2F", false)),
        ]
        .concat();
        assert_eq!(rewrite_in_chunks(&bytes, 7), bytes);
    }
}
