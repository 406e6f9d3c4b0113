//! What can be wrong with an image.

use std::io;

use super::Kind;

/// An image that cannot be read: which file, where in it, and what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem} at offset {offset}")]
pub struct ImageError {
    /// The file, as the reader was told.
    pub file: String,
    /// Bytes from the file's beginning to where the wrong part starts.
    pub offset: u64,
    /// What is wrong there.
    #[source]
    pub problem: Problem,
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file could not be read.
    #[error("cannot be read ({0})")]
    Io(#[source] io::Error),
    /// The file ends too early.
    #[error("{part} is cut short: {expected} bytes expected, {available} found")]
    Truncated {
        /// What should have stood there.
        part: &'static str,
        /// Its size in bytes.
        expected: u64,
        /// The bytes left in the file.
        available: u64,
    },
    /// The file's magics belong to another kind, or to none.
    #[error("magic {actual:#010x} where {} ({:#010x}) was expected", .expected.name(), .expected.magic())]
    WrongMagic {
        /// The kind the file should have.
        expected: Kind,
        /// The word that does not fit.
        actual: u32,
    },
    /// No kind has this magic.
    #[error("unknown magic {0:#010x}")]
    UnknownMagic(u32),
    /// An entry is longer than the reader is willing to hold.
    #[error("entry of {length} bytes is above the limit of {limit}")]
    EntryTooLong {
        /// The length it claims.
        length: u64,
        /// The reader's limit.
        limit: u64,
    },
    /// An entry is no message of its type.
    #[error("entry {index} is no {message} ({source})")]
    MalformedMessage {
        /// Counts entries from 0.
        index: u64,
        /// The message's name.
        message: String,
        /// What prost says.
        source: prost::DecodeError,
    },
    /// Magics and nothing after them, where an entry has to be.
    #[error("image without an entry")]
    NoEntry,
    /// More in the file than its kind has.
    #[error("bytes after the end of the image")]
    TrailingBytes,
}
