//! Reads a tar in one pass, header by header, with bounded memory for any input.
//!
//! ```text
//! extension headers (x, g, L, K) -> header -> sparse maps -> payload, padded to 512 -> ... -> two zero blocks -> zeros
//! ```
//!
//! The `tar` crate is not used for reading: it keeps long names and PAX headers in memory, follows sparse maps, and
//! tolerates defects that a conformance test must report. Nothing is extracted. A read ends in one of the ways of
//! [`TarEnd`].

use std::io;

use thiserror::Error;

use super::{
    decompress::{Compression, DecompressError},
    extension_headers::{self, ExtensionError, ExtensionHeaders},
    source::ArchiveSource,
    tar_header::{BLOCK_BYTES, HeaderError, TarHeader},
};

const MAX_SPARSE_BLOCKS: usize = 1024;

/// The maximum number of zero bytes after the end: tars are padded to a blocking factor (20 blocks by default).
const MAX_PADDING_BYTES: u64 = 1 << 20;

/// How a tar ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TarEnd {
    /// With two zero blocks, as a tar must end.
    Marker,
    /// Between two members, without two zero blocks.
    NoMarker,
    /// The input is empty.
    Empty,
    /// At data that is not a valid tar.
    Corrupt(Corruption),
    /// At a limit of this reader. The rest was not read.
    LimitReached {
        /// The offset in bytes.
        offset: u64,
        /// The limit.
        limit: String,
    },
}

/// The position of the first defect of a tar, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("at byte {offset}: {reason}")]
pub struct Corruption {
    /// The offset in bytes.
    pub offset: u64,
    /// The defect.
    pub reason: String,
}

/// The data after the two zero blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrailingData {
    /// Only zero bytes, this many.
    Zeros(u64),
    /// A byte that is not zero, at this offset.
    NonZero(u64),
    /// More zero bytes than any blocking factor requires.
    TooManyZeros,
}

/// The kind of a member, from its type flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A hard link to another member.
    HardLink,
    /// A character or block device.
    Device,
    /// A FIFO.
    Fifo,
    /// A file with holes: GNU's old type flag, or the PAX records of GNU's newer formats.
    Sparse,
    /// Any other type flag.
    Other(u8),
}

/// A member's header, with its extension headers applied.
#[derive(Clone, Debug)]
pub(crate) struct TarEntry {
    pub(crate) offset: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) kind: MemberKind,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) link: Vec<u8>,
}

/// Reads the members of a tar. After [`TarReader::next_member`] returned an entry, the source's next `size` bytes are
/// its payload. The next call skips the part of the payload that was not read.
pub(crate) struct TarReader<'a> {
    pub(crate) source: ArchiveSource<'a>,
    /// The end of the current member's payload, without padding.
    payload_end: u64,
    current_name: String,
    first_bytes: Vec<u8>,
}

pub(crate) enum Next<T> {
    Item(T),
    End(TarEnd),
}

impl<'a> TarReader<'a> {
    pub(crate) fn new(source: ArchiveSource<'a>) -> Self {
        Self {
            source,
            payload_end: 0,
            current_name: String::new(),
            first_bytes: Vec::new(),
        }
    }

    /// The first block of the tar, or less if the input is shorter.
    pub(crate) fn first_bytes(&self) -> &[u8] {
        &self.first_bytes
    }

    pub(crate) fn remaining(&self) -> u64 {
        self.payload_end.saturating_sub(self.source.position())
    }

    /// Reads the current member's payload. Fills `buffer` unless the payload ends or the tar is truncated.
    pub(crate) fn read_payload(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted_bytes = usize::try_from(self.remaining())
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        self.source.fill(&mut buffer[..wanted_bytes])
    }

    /// Reads the next member's header. Returns only I/O errors; a defect of the tar is a [`TarEnd`].
    pub(crate) fn next_member(&mut self) -> io::Result<Next<TarEntry>> {
        let mut extension = ExtensionHeaders::default();
        let mut global_headers = 0;
        loop {
            if let Some(end) = self.skip_member_rest()? {
                return Ok(Next::End(end));
            }
            let offset = self.source.position();
            let mut block = [0; BLOCK_BYTES];
            let read = self.source.fill(&mut block)?;
            if offset == 0 {
                self.first_bytes = block[..read].to_vec();
            }
            if read < BLOCK_BYTES {
                return Ok(Next::End(self.truncated_end(offset, read, &extension)));
            }
            if block == [0; BLOCK_BYTES] {
                return self.end_marker(offset, &extension).map(Next::End);
            }
            let header = match TarHeader::parse(&block) {
                Ok(header) => header,
                Err(error) => return Ok(Next::End(self.not_a_header(offset, error))),
            };
            if !matches!(header.type_flag, b'x' | b'g' | b'L' | b'K') {
                return self.member_entry(offset, header, extension);
            }
            global_headers += usize::from(header.type_flag == b'g');
            if header.size > extension_headers::MAX_EXTENSION_BYTES || global_headers > 16 {
                let limit = format!("an extension header of {} bytes or too many of them", header.size);
                return Ok(Next::End(TarEnd::LimitReached { offset, limit }));
            }
            if let Err(end) = self.read_extension(offset, &header, &mut extension)? {
                return Ok(Next::End(end));
            }
        }
    }

    pub(crate) fn read_trailing_data(&mut self) -> io::Result<TrailingData> {
        let mut zeros = 0;
        let mut buffer = [0; 16 << 10];
        loop {
            let offset = self.source.position();
            let read = self.source.fill(&mut buffer)?;
            if let Some(byte) = buffer[..read].iter().position(|byte| *byte != 0) {
                return Ok(TrailingData::NonZero(offset + byte as u64));
            }
            zeros += read as u64;
            if zeros > MAX_PADDING_BYTES {
                return Ok(TrailingData::TooManyZeros);
            }
            if read < buffer.len() {
                return Ok(TrailingData::Zeros(zeros));
            }
        }
    }

    /// Skips the rest of the current member with its padding. Returns `Some` if the tar ends before that.
    fn skip_member_rest(&mut self) -> io::Result<Option<TarEnd>> {
        let padded = self.payload_end.next_multiple_of(BLOCK_BYTES as u64);
        let remaining = padded.saturating_sub(self.source.position());
        if self.source.skip(remaining)? == remaining {
            return Ok(None);
        }
        let offset = self.source.position();
        if let Some(end) = self.decompression_end() {
            return Ok(Some(end));
        }
        if self.source.limit_reached() {
            let limit = format!("{offset} bytes, inside the member {}", self.current_name);
            return Ok(Some(TarEnd::LimitReached { offset, limit }));
        }
        Ok(Some(corrupt(
            offset,
            format!("the tar is truncated inside the member {}", self.current_name),
        )))
    }

    /// The end caused by the compressed data around the tar, if any.
    fn decompression_end(&self) -> Option<TarEnd> {
        let offset = self.source.position();
        Some(match self.source.decompress_error()? {
            DecompressError::Corrupt(reason) => corrupt(offset, reason),
            DecompressError::ExpandsTooFar(limit) => TarEnd::LimitReached { offset, limit },
        })
    }

    fn truncated_end(&self, offset: u64, read: usize, extension: &ExtensionHeaders) -> TarEnd {
        if let Some(end) = self.decompression_end() {
            return end;
        }
        if self.source.limit_reached() {
            return TarEnd::LimitReached {
                offset,
                limit: format!("{} bytes", self.source.position()),
            };
        }
        match read {
            0 if extension.is_pending() => corrupt(offset, "an extension header without its member"),
            0 if offset == 0 => TarEnd::Empty,
            0 => TarEnd::NoMarker,
            _ => corrupt(
                offset,
                format!("the tar is truncated inside a header, after {read} of {BLOCK_BYTES} bytes"),
            ),
        }
    }

    fn end_marker(&mut self, offset: u64, extension: &ExtensionHeaders) -> io::Result<TarEnd> {
        if extension.is_pending() {
            return Ok(corrupt(offset, "an extension header without its member"));
        }
        let mut block = [0; BLOCK_BYTES];
        let second_offset = self.source.position();
        Ok(match self.source.fill(&mut block)? {
            BLOCK_BYTES if block == [0; BLOCK_BYTES] => TarEnd::Marker,
            0 => TarEnd::NoMarker,
            BLOCK_BYTES => corrupt(second_offset, "one zero block without a second one"),
            read => corrupt(
                second_offset,
                format!("the second zero block is truncated after {read} of {BLOCK_BYTES} bytes"),
            ),
        })
    }

    fn read_extension(
        &mut self,
        offset: u64,
        header: &TarHeader,
        extension: &mut ExtensionHeaders,
    ) -> io::Result<Result<(), TarEnd>> {
        self.current_name = format!("of an extension header at byte {offset}");
        self.payload_end = self.source.position() + header.size;
        let mut content = vec![0; header.size as usize];
        let read = self.read_payload(&mut content)?;
        if read < content.len() {
            return Ok(Err(self.skip_member_rest()?.unwrap_or(TarEnd::NoMarker)));
        }
        Ok(extension
            .add(header.type_flag, &content)
            .map_err(|error: ExtensionError| corrupt(offset, error.to_string())))
    }

    fn member_entry(
        &mut self,
        offset: u64,
        header: TarHeader,
        extension: ExtensionHeaders,
    ) -> io::Result<Next<TarEntry>> {
        let name = extension.path.unwrap_or(header.name);
        let size = extension.size.unwrap_or(header.size);
        let kind = match header.type_flag {
            b'S' => MemberKind::Sparse,
            b'0' | 0 if extension.sparse => MemberKind::Sparse,
            // Before ustar, a directory was a file with a trailing slash in its name.
            0 | b'0' if name.ends_with(b"/") => MemberKind::Directory,
            b'0' | 0 => MemberKind::File,
            b'1' => MemberKind::HardLink,
            b'2' => MemberKind::Symlink,
            b'3' | b'4' => MemberKind::Device,
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            other => MemberKind::Other(other),
        };
        self.current_name = display_name(&name);
        let has_payload = matches!(kind, MemberKind::File | MemberKind::Sparse | MemberKind::Other(_));
        // In POSIX the size of a directory is a limit of its disk space (if not zero), and no content follows.
        let size = if kind == MemberKind::Directory && header.type_flag == b'5' {
            0
        } else {
            size
        };
        if size > 0 && !has_payload {
            let reason = format!(
                "the member {} must have no content because of its type, but has the size {size}",
                self.current_name
            );
            return Ok(Next::End(corrupt(offset, reason)));
        }
        if header.sparse_continues
            && let Err(end) = self.sparse_maps()?
        {
            return Ok(Next::End(end));
        }
        self.payload_end = self.source.position().saturating_add(size);
        let link = extension.link.unwrap_or(header.link);
        Ok(Next::Item(TarEntry {
            offset,
            name,
            kind,
            mode: header.mode,
            size,
            mtime: header.mtime,
            link,
        }))
    }

    fn not_a_header(&self, offset: u64, error: HeaderError) -> TarEnd {
        match Compression::detect(&self.first_bytes).filter(|_| offset == 0) {
            Some(compression) => corrupt(offset, format!("the file is {compression}, not tar")),
            None => corrupt(offset, error.to_string()),
        }
    }

    /// Skips the sparse map blocks of an old GNU sparse member: 21 entries each, and a byte that says whether another
    /// block follows.
    fn sparse_maps(&mut self) -> io::Result<Result<(), TarEnd>> {
        for _ in 0..MAX_SPARSE_BLOCKS {
            let offset = self.source.position();
            let mut block = [0; BLOCK_BYTES];
            if self.source.fill(&mut block)? < BLOCK_BYTES {
                return Ok(Err(corrupt(
                    offset,
                    format!("the tar is truncated inside the sparse map of {}", self.current_name),
                )));
            }
            if block[504] == 0 {
                return Ok(Ok(()));
            }
        }
        let limit = format!("{MAX_SPARSE_BLOCKS} blocks of a sparse map of {}", self.current_name);
        Ok(Err(TarEnd::LimitReached {
            offset: self.source.position(),
            limit,
        }))
    }
}

/// A member's name for messages: control characters escaped, at most 120 bytes of the name.
pub(crate) fn display_name(name: &[u8]) -> String {
    let prefix = &name[..name.len().min(120)];
    let mut text: String = String::from_utf8_lossy(prefix)
        .chars()
        .flat_map(char::escape_debug)
        .collect();
    if prefix.len() < name.len() {
        text.push('…');
    }
    text
}

fn corrupt(offset: u64, reason: impl Into<String>) -> TarEnd {
    TarEnd::Corrupt(Corruption {
        offset,
        reason: reason.into(),
    })
}
