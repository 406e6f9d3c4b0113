//! The errors of image files.

use std::io;

use super::Kind;

/// An image that cannot be read, with the file and the offset of the problem.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem} at offset {offset}")]
pub struct ImageError {
    /// The file name that the caller gave.
    pub file: String,
    /// The offset at which the invalid part starts.
    pub offset: u64,
    /// The problem at this offset.
    #[source]
    pub problem: Problem,
}

/// The problem of an image.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A read of the file failed, or a write to the sink of the caller.
    #[error("cannot be read ({0})")]
    Io(#[source] io::Error),
    /// The file ends too early.
    #[error("{part} is truncated: {expected} bytes expected, {available} found")]
    Truncated {
        /// The part that is incomplete.
        part: &'static str,
        /// The expected size of the part in bytes.
        expected: u64,
        /// The number of bytes that the file has.
        available: u64,
    },
    /// The magics of the file are not those of the expected kind.
    #[error("magic {actual:#010x} instead of {} ({:#010x})", .expected.name(), .expected.magic())]
    WrongMagic {
        /// The expected kind.
        expected: Kind,
        /// The wrong word.
        actual: u32,
    },
    /// No kind has this magic.
    #[error("unknown magic {0:#010x}")]
    UnknownMagic(u32),
    /// An entry is longer than the limit of the reader.
    #[error("entry of {length} bytes exceeds the limit of {limit}")]
    EntryTooLong {
        /// The claimed length.
        length: u64,
        /// The limit of the reader.
        limit: u64,
    },
    /// An entry does not decode as its message.
    #[error("entry {index} is not a valid {message} ({source})")]
    MalformedMessage {
        /// The position of the entry, counted from 0.
        index: u64,
        /// The name of the message type.
        message: String,
        /// The error of prost.
        source: prost::DecodeError,
    },
    /// The image has magics but no entry, although its kind requires an entry.
    #[error("image without an entry")]
    NoEntry,
    /// The file continues after the only entry of its kind.
    #[error("bytes after the end of the image")]
    TrailingBytes,
}
