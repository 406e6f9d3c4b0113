//! Reads images from any source with bounded memory.

use std::{
    any::type_name,
    io::{self, Read, Write},
};

use prost::Message;

use super::{COMMON_MAGIC, Entries, ImageError, Kind, Problem, SERVICE_MAGIC};

/// The default limit of a [`Decoder`] for one entry, in bytes. In `mm_entry` a mapping takes about 60 bytes, and the
/// kernel allows 65530 mappings by default, so the limit is four times what such a process needs.
pub const DEFAULT_ENTRY_LIMIT: u32 = 16 << 20;

/// Reads an image entry by entry. Memory holds one entry, at most the limit. It grows with the bytes that are read, not
/// with the claimed length.
#[derive(Debug)]
pub struct Decoder<R> {
    file: String,
    kind: Kind,
    input: R,
    entry_limit: u32,
    offset: u64,
    /// The offset of the length word of the latest entry.
    entry_offset: u64,
    entries: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Decoder<R> {
    /// Reads the magics, which determine the kind. `file` is the name in errors.
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

    /// Like [`Decoder::open`], but requires this kind.
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

    /// Replaces [`DEFAULT_ENTRY_LIMIT`].
    #[must_use]
    pub fn with_entry_limit(mut self, bytes: u32) -> Self {
        self.entry_limit = bytes;
        self
    }

    /// The kind that the magics give.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The number of bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The number of entries read so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The offset of the length word of the latest entry.
    pub fn entry_offset(&self) -> u64 {
        self.entry_offset
    }

    /// Reads the next entry. Returns `None` at the end of the image.
    ///
    /// # Errors
    /// [`Problem::Truncated`], [`Problem::EntryTooLong`], [`Problem::Io`]; [`Problem::TrailingBytes`] for a second
    /// entry of a kind with [`Entries::One`].
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

    /// Reads and decodes the next entry. Returns `None` at the end of the image.
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

    /// Reads the only entry of the image.
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

    /// Copies the payload that follows the latest entry to `sink`; [`io::sink`] skips the payload.
    ///
    /// # Errors
    /// [`Problem::Truncated`] if the file is shorter; [`Problem::Io`] for errors of the file or of `sink`.
    pub fn copy_payload(&mut self, length: u64, sink: &mut impl Write) -> Result<(), ImageError> {
        let start = self.offset;
        let copied = self.copy(Some(length), sink)?;
        if copied < length {
            let problem = Problem::Truncated {
                part: "the payload of an entry",
                expected: length,
                available: copied,
            };
            return Err(self.error_at(start, problem));
        }
        Ok(())
    }

    /// Copies the rest of the file to `sink` and returns the number of bytes.
    ///
    /// # Errors
    /// [`Problem::Io`] for errors of the file or of `sink`.
    pub fn copy_rest(&mut self, sink: &mut impl Write) -> Result<u64, ImageError> {
        self.copy(None, sink)
    }

    /// The bytes of the latest entry.
    pub(super) fn last_entry(&self) -> &[u8] {
        &self.buffer
    }

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

    /// Fills `buffer` as far as the file allows, and returns the number of bytes.
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

/// Decodes all entries of an image in memory.
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

/// Decodes the only entry of an image in memory.
///
/// # Errors
/// Those of [`Decoder::single`].
pub fn decode_single<M: Message + Default>(file: &str, kind: Kind, image: &[u8]) -> Result<M, ImageError> {
    Decoder::open_as(file, kind, image)?.single()
}
