//! One pass over a tar, header by header, in bounded memory whatever the bytes say.
//!
//! ```text
//!  extension headers (x, g, L, K) -> header -> sparse maps -> payload, padded to 512 -> ... -> two zero blocks -> zeros
//! ```
//!
//! The `tar` crate is not used to read: it holds long names and PAX headers whole, follows sparse maps, and forgives
//! what a judge must see. Nothing is ever extracted. The walk ends in one of the ways of [`End`].

use std::io;

use thiserror::Error;

use super::{
    decompress::Flaw,
    extension::{self, Extension, ExtensionError},
    header::{BLOCK, Header, HeaderError},
    source::Source,
};

/// How many blocks of an old GNU sparse map are passed over.
const SPARSE_BLOCKS: usize = 1024;

/// How many zero bytes may follow the end, as tars are padded to a blocking factor (20 blocks by default).
const PADDING: u64 = 1 << 20;

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With the two zero blocks that end a tar.
    Marker,
    /// At a boundary between members, without the two zero blocks.
    NoMarker,
    /// There is not one byte.
    Empty,
    /// At something that is no tar.
    Broken(Break),
    /// At a bound of this reader: what follows was not looked at.
    Bound {
        /// Where, in bytes from the beginning.
        offset: u64,
        /// Which bound.
        bound: String,
    },
}

/// Where and why a tar cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("at byte {offset}: {why}")]
pub struct Break {
    /// In bytes from the beginning.
    pub offset: u64,
    /// What is wrong there.
    pub why: String,
}

/// What stands after the two zero blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing but so many zero bytes.
    Zeros(u64),
    /// A byte that is not zero, at this offset from the beginning.
    Bytes(u64),
    /// More zeros than any blocking factor asks for.
    TooManyZeros,
}

/// The kind of a member, by its type flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
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
    /// A file with holes: GNU's old type flag, or PAX records of its newer formats.
    Sparse,
    /// Any other type flag.
    Other(u8),
}

/// A member's header with its extensions applied.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) link: Vec<u8>,
}

/// The walk. After [`Walk::next`] gave an entry, its payload is the source's next `size` bytes; what is not read of
/// it is passed over by the next call.
pub(crate) struct Walk<'a> {
    pub(crate) source: Source<'a>,
    /// Where the payload of the current member ends, and its padding.
    payload_end: u64,
    /// The current member's name, for messages.
    current: String,
    /// The first bytes, as far as there are any.
    first: Vec<u8>,
}

/// Either the walk goes on with this, or it has ended.
pub(crate) enum Step<T> {
    On(T),
    Ended(End),
}

impl<'a> Walk<'a> {
    pub(crate) fn new(source: Source<'a>) -> Self {
        Self {
            source,
            payload_end: 0,
            current: String::new(),
            first: Vec::new(),
        }
    }

    /// The first bytes of what was walked, up to a block.
    pub(crate) fn first(&self) -> &[u8] {
        &self.first
    }

    /// Bytes of the current member's payload that were not read yet.
    pub(crate) fn left(&self) -> u64 {
        self.payload_end.saturating_sub(self.source.position())
    }

    /// Reads as much of the current member's payload as `buffer` holds; less only at its end or where the tar is cut.
    pub(crate) fn payload(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left()).unwrap_or(usize::MAX).min(buffer.len());
        self.source.fill(&mut buffer[..room])
    }

    /// Goes to the next member. An error is one of reading, not of the tar.
    pub(crate) fn next(&mut self) -> io::Result<Step<Entry>> {
        let mut extension = Extension::default();
        let mut globals = 0;
        loop {
            if let Some(end) = self.finish()? {
                return Ok(Step::Ended(end));
            }
            let offset = self.source.position();
            let mut block = [0; BLOCK];
            let read = self.source.fill(&mut block)?;
            if offset == 0 {
                self.first = block[..read].to_vec();
            }
            if read < BLOCK {
                return Ok(Step::Ended(self.cut(offset, read, &extension)));
            }
            if block == [0; BLOCK] {
                return self.zero_block(offset, &extension).map(Step::Ended);
            }
            let header = match Header::parse(&block) {
                Ok(header) => header,
                Err(error) => return Ok(Step::Ended(self.not_a_header(offset, error))),
            };
            if !matches!(header.flag, b'x' | b'g' | b'L' | b'K') {
                return self.entry(offset, header, extension);
            }
            globals += usize::from(header.flag == b'g');
            if header.size > extension::LIMIT || globals > 16 {
                let bound = format!("an extension header of {} bytes or too many of them", header.size);
                return Ok(Step::Ended(End::Bound { offset, bound }));
            }
            if let Err(end) = self.extend(offset, &header, &mut extension)? {
                return Ok(Step::Ended(end));
            }
        }
    }

    /// Reads what follows the two zero blocks.
    pub(crate) fn tail(&mut self) -> io::Result<Tail> {
        let mut zeros = 0;
        let mut buffer = [0; 16 << 10];
        loop {
            let at = self.source.position();
            let read = self.source.fill(&mut buffer)?;
            if let Some(byte) = buffer[..read].iter().position(|byte| *byte != 0) {
                return Ok(Tail::Bytes(at + byte as u64));
            }
            zeros += read as u64;
            if zeros > PADDING {
                return Ok(Tail::TooManyZeros);
            }
            if read < buffer.len() {
                return Ok(Tail::Zeros(zeros));
            }
        }
    }

    /// Passes over what is left of the current member and its padding; `Some` where the tar is cut before its end.
    fn finish(&mut self) -> io::Result<Option<End>> {
        let padded = self.payload_end.next_multiple_of(BLOCK as u64);
        let left = padded.saturating_sub(self.source.position());
        if self.source.skip(left)? == left {
            return Ok(None);
        }
        let offset = self.source.position();
        if let Some(end) = self.flawed() {
            return Ok(Some(end));
        }
        if self.source.exhausted() {
            let bound = format!("{offset} bytes, inside the member {}", self.current);
            return Ok(Some(End::Bound { offset, bound }));
        }
        Ok(Some(broken(
            offset,
            format!("the tar is cut inside the member {}", self.current),
        )))
    }

    /// The end, where the compressed data around the tar is what ended it.
    fn flawed(&self) -> Option<End> {
        let offset = self.source.position();
        Some(match self.source.flaw()? {
            Flaw::Damaged(why) => broken(offset, why),
            Flaw::Expands(bound) => End::Bound { offset, bound },
        })
    }

    fn cut(&self, offset: u64, read: usize, extension: &Extension) -> End {
        if let Some(end) = self.flawed() {
            return end;
        }
        if self.source.exhausted() {
            return End::Bound {
                offset,
                bound: format!("{} bytes", self.source.position()),
            };
        }
        match read {
            0 if extension.is_pending() => broken(offset, "an extension header without its member"),
            0 if offset == 0 => End::Empty,
            0 => End::NoMarker,
            _ => broken(
                offset,
                format!("the tar is cut inside a header, after {read} of {BLOCK} bytes"),
            ),
        }
    }

    fn zero_block(&mut self, offset: u64, extension: &Extension) -> io::Result<End> {
        if extension.is_pending() {
            return Ok(broken(offset, "an extension header without its member"));
        }
        let mut block = [0; BLOCK];
        let at = self.source.position();
        Ok(match self.source.fill(&mut block)? {
            BLOCK if block == [0; BLOCK] => End::Marker,
            0 => End::NoMarker,
            BLOCK => broken(at, "one zero block, and no second one after it"),
            read => broken(
                at,
                format!("the second zero block is cut after {read} of {BLOCK} bytes"),
            ),
        })
    }

    fn extend(&mut self, offset: u64, header: &Header, extension: &mut Extension) -> io::Result<Result<(), End>> {
        self.current = format!("of an extension header at byte {offset}");
        self.payload_end = self.source.position() + header.size;
        let mut content = vec![0; header.size as usize];
        let read = self.payload(&mut content)?;
        if read < content.len() {
            return Ok(Err(self.finish()?.unwrap_or(End::NoMarker)));
        }
        Ok(extension
            .take(header.flag, &content)
            .map_err(|error: ExtensionError| broken(offset, error.to_string())))
    }

    fn entry(&mut self, offset: u64, header: Header, extension: Extension) -> io::Result<Step<Entry>> {
        let name = extension.path.unwrap_or(header.name);
        let size = extension.size.unwrap_or(header.size);
        let kind = match header.flag {
            b'S' => Kind::Sparse,
            b'0' | 0 if extension.sparse => Kind::Sparse,
            // Before ustar a directory was a file whose name ends with a slash.
            0 | b'0' if name.ends_with(b"/") => Kind::Directory,
            b'0' | 0 => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        self.current = display(&name);
        let payload = matches!(kind, Kind::File | Kind::Sparse | Kind::Other(_));
        // POSIX lets a directory have a size, the space it may use, and gives it no content.
        let size = if kind == Kind::Directory && header.flag == b'5' {
            0
        } else {
            size
        };
        if size > 0 && !payload {
            let why = format!(
                "the member {} has no content by its kind, but a size of {size}",
                self.current
            );
            return Ok(Step::Ended(broken(offset, why)));
        }
        if header.sparse_goes_on
            && let Err(end) = self.sparse_maps()?
        {
            return Ok(Step::Ended(end));
        }
        self.payload_end = self.source.position().saturating_add(size);
        let link = extension.link.unwrap_or(header.link);
        Ok(Step::On(Entry {
            offset,
            name,
            kind,
            mode: header.mode,
            size,
            mtime: header.mtime,
            link,
        }))
    }

    fn not_a_header(&self, offset: u64, error: HeaderError) -> End {
        match Compression::of(&self.first).filter(|_| offset == 0) {
            Some(compression) => broken(offset, format!("the file is {compression}, not tar")),
            None => broken(offset, error.to_string()),
        }
    }

    /// Passes over the maps of an old GNU sparse member: 21 entries a block, and a byte that says whether it goes on.
    fn sparse_maps(&mut self) -> io::Result<Result<(), End>> {
        for _ in 0..SPARSE_BLOCKS {
            let offset = self.source.position();
            let mut block = [0; BLOCK];
            if self.source.fill(&mut block)? < BLOCK {
                return Ok(Err(broken(
                    offset,
                    format!("the tar is cut inside the sparse map of {}", self.current),
                )));
            }
            if block[504] == 0 {
                return Ok(Ok(()));
            }
        }
        let bound = format!("{SPARSE_BLOCKS} blocks of a sparse map of {}", self.current);
        Ok(Err(End::Bound {
            offset: self.source.position(),
            bound,
        }))
    }
}

/// A member's name for messages: no control characters, no more than a line.
pub(crate) fn display(name: &[u8]) -> String {
    let cut = &name[..name.len().min(120)];
    let mut text: String = String::from_utf8_lossy(cut)
        .chars()
        .flat_map(char::escape_debug)
        .collect();
    if cut.len() < name.len() {
        text.push('…');
    }
    text
}

fn broken(offset: u64, why: impl Into<String>) -> End {
    End::Broken(Break {
        offset,
        why: why.into(),
    })
}

/// A compression by its magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// XZ.
    Xz,
    /// bzip2.
    Bzip2,
    /// LZ4, as a frame.
    Lz4,
}

impl Compression {
    /// What the first bytes of a file say.
    pub fn of(first: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 5] = [
            (&[0x1f, 0x8b], Self::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd], Self::Zstd),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Self::Xz),
            (b"BZh", Self::Bzip2),
            (&[0x04, 0x22, 0x4d, 0x18], Self::Lz4),
        ];
        magics
            .into_iter()
            .find(|(magic, _)| first.starts_with(magic))
            .map(|(_, compression)| compression)
    }
}

impl Compression {
    /// Whether this reader decompresses it; the others are only recognised.
    pub fn is_read(self) -> bool {
        matches!(self, Self::Gzip | Self::Zstd)
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Lz4 => "lz4",
        })
    }
}
