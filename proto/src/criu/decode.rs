//! Reading images, from any source and with bounded memory.

use std::{
    any::type_name,
    io::{self, Read, Write},
};

use prost::Message;

use super::{COMMON_MAGIC, Entries, ImageError, Kind, Problem, SERVICE_MAGIC};

/// The longest entry that a [`Decoder`] holds unless told otherwise, in bytes. A mapping takes about 60 bytes of its
/// address space's entry and a kernel allows 65530 of them by default, so this is four times what such a process needs.
pub const DEFAULT_ENTRY_LIMIT: u32 = 16 << 20;

/// Reads an image entry by entry. Memory: one entry, at most the limit; it grows with what really comes, not with what
/// a length claims.
#[derive(Debug)]
pub struct Decoder<R> {
    file: String,
    kind: Kind,
    input: R,
    entry_limit: u32,
    offset: u64,
    /// Where the latest entry begins (its length word).
    entry_offset: u64,
    entries: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Decoder<R> {
    /// Reads the magics and takes the kind they name. `file` is what errors call it.
    ///
    /// # Errors
    /// [`Problem::UnknownMagic`], [`Problem::Truncated`], [`Problem::Io`].
    pub fn open(file: impl Into<String>, input: R) -> Result<Self, ImageError> {
        let mut decoder = Self {
            file: file.into(),
            kind: Kind::Inventory,
            input,
            entry_limit: DEFAULT_ENTRY_LIMIT,
            offset: 0,
            entry_offset: 0,
            entries: 0,
            buffer: Vec::new(),
        };
        let first_magic = decoder.read_magic()?;
        decoder.kind = if first_magic == Kind::Inventory.magic() {
            Kind::Inventory
        } else if first_magic == COMMON_MAGIC || first_magic == SERVICE_MAGIC {
            let second_magic = decoder.read_magic()?;
            let kind = Kind::from_magic(second_magic)
                .ok_or_else(|| decoder.error_at(4, Problem::UnknownMagic(second_magic)))?;
            if kind.header() != [first_magic.to_le_bytes(), second_magic.to_le_bytes()].concat() {
                return Err(decoder.error_at(
                    0,
                    Problem::WrongMagic {
                        expected: kind,
                        actual: first_magic,
                    },
                ));
            }
            kind
        } else {
            return Err(decoder.error_at(0, Problem::UnknownMagic(first_magic)));
        };
        Ok(decoder)
    }

    /// As [`Decoder::open`], and the kind must be this one.
    ///
    /// # Errors
    /// Those of [`Decoder::open`], and [`Problem::WrongMagic`].
    pub fn open_as(file: impl Into<String>, kind: Kind, input: R) -> Result<Self, ImageError> {
        let decoder = Self::open(file, input)?;
        if decoder.kind == kind {
            Ok(decoder)
        } else {
            let actual = decoder.kind.magic();
            Err(decoder.error_at(decoder.offset - 4, Problem::WrongMagic { expected: kind, actual }))
        }
    }

    /// Holds entries up to this many bytes instead of [`DEFAULT_ENTRY_LIMIT`].
    #[must_use]
    pub fn with_entry_limit(mut self, bytes: u32) -> Self {
        self.entry_limit = bytes;
        self
    }

    /// The kind the magics named.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Entries read so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Where the latest entry begins.
    pub fn entry_offset(&self) -> u64 {
        self.entry_offset
    }

    /// The bytes of the next entry; `None` at the image's end.
    ///
    /// # Errors
    /// [`Problem::Truncated`], [`Problem::EntryTooLong`], [`Problem::Io`]; [`Problem::TrailingBytes`] for a second entry in an
    /// image that has one.
    pub fn entry(&mut self) -> Result<Option<&[u8]>, ImageError> {
        self.entry_offset = self.offset;
        let mut length_bytes = [0; 4];
        match self.read_full(&mut length_bytes)? {
            0 => return Ok(None),
            _ if self.entries > 0 && self.kind.entries() == Entries::One => {
                return Err(self.error_at(self.entry_offset, Problem::TrailingBytes));
            }
            4 => {}
            count => {
                let problem = Problem::Truncated {
                    part: "the length of an entry",
                    expected: 4,
                    available: count as u64,
                };
                return Err(self.error_at(self.entry_offset, problem));
            }
        }
        let length = u32::from_le_bytes(length_bytes);
        if length > self.entry_limit {
            let problem = Problem::EntryTooLong {
                length: length.into(),
                limit: self.entry_limit.into(),
            };
            return Err(self.error_at(self.entry_offset, problem));
        }
        self.buffer.clear();
        let read = (&mut self.input).take(length.into()).read_to_end(&mut self.buffer);
        let read_bytes = read.map_err(|error| self.error_at(self.offset, Problem::Io(error)))? as u64;
        if read_bytes < length.into() {
            let problem = Problem::Truncated {
                part: "an entry",
                expected: length.into(),
                available: read_bytes,
            };
            return Err(self.error_at(self.entry_offset, problem));
        }
        self.offset += read_bytes;
        self.entries += 1;
        Ok(Some(&self.buffer))
    }

    /// The next entry as a message; `None` at the image's end.
    ///
    /// # Errors
    /// Those of [`Decoder::entry`], and [`Problem::MalformedMessage`].
    pub fn message<M: Message + Default>(&mut self) -> Result<Option<M>, ImageError> {
        if self.entry()?.is_none() {
            return Ok(None);
        }
        M::decode(&*self.buffer).map(Some).map_err(|source| {
            let message = type_name::<M>().rsplit("::").next().unwrap_or_default().to_owned();
            let index = self.entries - 1;
            self.error_at(self.entry_offset, Problem::MalformedMessage { index, message, source })
        })
    }

    /// The one entry of an image that has no more.
    ///
    /// # Errors
    /// Those of [`Decoder::message`], [`Problem::NoEntry`], [`Problem::TrailingBytes`].
    pub fn single<M: Message + Default>(mut self) -> Result<M, ImageError> {
        let message = self
            .message()?
            .ok_or_else(|| self.error_at(self.offset, Problem::NoEntry))?;
        let end = self.offset;
        match self.read_full(&mut [0])? {
            0 => Ok(message),
            _ => Err(self.error_at(end, Problem::TrailingBytes)),
        }
    }

    /// Copies the bytes that follow the latest entry and belong to it; [`io::sink`] skips them.
    ///
    /// # Errors
    /// [`Problem::Truncated`] when the file has fewer; [`Problem::Io`], also for what `sink` says.
    pub fn copy_payload(&mut self, length: u64, sink: &mut impl Write) -> Result<(), ImageError> {
        let start = self.offset;
        let copied = self.copy(Some(length), sink)?;
        if copied < length {
            let problem = Problem::Truncated {
                part: "the content after an entry",
                expected: length,
                available: copied,
            };
            return Err(self.error_at(start, problem));
        }
        Ok(())
    }

    /// Copies all that is left of the file and says how many bytes that were.
    ///
    /// # Errors
    /// [`Problem::Io`], also for what `sink` says.
    pub fn copy_rest(&mut self, sink: &mut impl Write) -> Result<u64, ImageError> {
        self.copy(None, sink)
    }

    /// The latest entry's bytes again, as [`Decoder::entry`] gave them.
    pub(super) fn last_entry(&self) -> &[u8] {
        &self.buffer
    }

    /// An error of this file at this offset.
    pub(super) fn error_at(&self, offset: u64, problem: Problem) -> ImageError {
        ImageError {
            file: self.file.clone(),
            offset,
            problem,
        }
    }

    fn copy(&mut self, length: Option<u64>, sink: &mut impl Write) -> Result<u64, ImageError> {
        let copied = match length {
            Some(length) => io::copy(&mut (&mut self.input).take(length), sink),
            None => io::copy(&mut self.input, sink),
        };
        let copied = copied.map_err(|error| self.error_at(self.offset, Problem::Io(error)))?;
        self.offset += copied;
        Ok(copied)
    }

    fn read_magic(&mut self) -> Result<u32, ImageError> {
        let start = self.offset;
        let mut magic_bytes = [0; 4];
        match self.read_full(&mut magic_bytes)? {
            4 => Ok(u32::from_le_bytes(magic_bytes)),
            count => Err(self.error_at(
                start,
                Problem::Truncated {
                    part: "the magic",
                    expected: 4,
                    available: count as u64,
                },
            )),
        }
    }

    /// Reads as much of `buffer` as the file has.
    fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error_at(self.offset, Problem::Io(error))),
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }
}

/// The entries of an image of one message type that is in memory.
///
/// # Errors
/// Those of [`Decoder`].
pub fn decode_entries<M: Message + Default>(file: &str, kind: Kind, image: &[u8]) -> Result<Vec<M>, ImageError> {
    let mut decoder = Decoder::open_as(file, kind, image)?;
    let mut entries = Vec::new();
    while let Some(entry) = decoder.message()? {
        entries.push(entry);
    }
    Ok(entries)
}

/// The one entry of an image that is in memory.
///
/// # Errors
/// Those of [`Decoder::single`].
pub fn decode_single<M: Message + Default>(file: &str, kind: Kind, image: &[u8]) -> Result<M, ImageError> {
    Decoder::open_as(file, kind, image)?.single()
}
