//! Where an archive's bytes come from: a stream that can be skipped without being read where it is a file.
//!
//! A hostile file may say that a member holds exabytes, or be one hole of that size. Skipping moves the position of a
//! file and reads nothing; of a stream it reads and drops. Both count every byte and end at [`Source::new`]'s limit, so
//! that an endless stream ends too.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    os::unix::fs::FileExt as _,
};

use super::{
    decompress::{self, Flaw, Verdict},
    walk::Compression,
};

/// How much is read ahead.
const BUFFER: usize = 256 << 10;
/// As many bytes as say what a compressed file is.
const MAGIC_BYTES: u64 = 8;

/// A counted, limited, skippable stream.
pub(crate) struct Source<'a> {
    inner: Inner<'a>,
    position: u64,
    limit: u64,
    /// How the bytes were compressed, where they come decompressed.
    compression: Option<Compression>,
    verdict: Verdict,
}

enum Inner<'a> {
    File { file: BufReader<File>, length: u64 },
    Stream(BufReader<Box<dyn Read + 'a>>),
}

impl<'a> Source<'a> {
    /// Reads from any stream, and at most `limit` bytes of it.
    pub(crate) fn new(stream: impl Read + 'a, limit: u64) -> Self {
        let inner = Inner::Stream(BufReader::with_capacity(BUFFER, Box::new(stream)));
        Self {
            inner,
            position: 0,
            limit,
            compression: None,
            verdict: Verdict::default(),
        }
    }

    /// As [`Source::new`]; a stream that is compressed by gzip or zstd comes decompressed.
    pub(crate) fn open(mut stream: impl Read + 'a, limit: u64) -> io::Result<Self> {
        let mut first = Vec::new();
        (&mut stream).take(MAGIC_BYTES).read_to_end(&mut first)?;
        let compression = Compression::of(&first);
        let whole = io::Cursor::new(first).chain(stream);
        Ok(match compression {
            Some(compression) if compression.is_read() => Self::decompressed(compression, whole, limit),
            _ => Self::new(whole, limit),
        })
    }

    fn decompressed(compression: Compression, stream: impl Read + 'a, limit: u64) -> Self {
        let (reader, verdict) = decompress::reader(compression, stream);
        Self {
            compression: Some(compression),
            verdict,
            ..Self::new(reader, limit)
        }
    }

    /// How the bytes were compressed, where they come decompressed.
    pub(crate) fn compression(&self) -> Option<Compression> {
        self.compression
    }

    /// What is wrong with the compressed data, if that ended the reading.
    pub(crate) fn flaw(&self) -> Option<Flaw> {
        self.verdict.borrow().clone()
    }

    /// Reads from a regular file, from its beginning.
    /// One that is compressed by gzip or zstd comes decompressed.
    pub(crate) fn file(file: File, limit: u64) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut first = [0; MAGIC_BYTES as usize];
        let read = file.read_at(&mut first, 0)?;
        if let Some(compression) = Compression::of(&first[..read]).filter(|compression| compression.is_read()) {
            return Ok(Self::decompressed(compression, file, limit));
        }
        let file = BufReader::with_capacity(BUFFER, file);
        Ok(Self {
            inner: Inner::File { file, length },
            position: 0,
            limit,
            compression: None,
            verdict: Verdict::default(),
        })
    }

    /// Bytes passed so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Whether the limit, not the end, is what ended the reading.
    pub(crate) fn exhausted(&self) -> bool {
        self.position >= self.limit
    }

    /// Fills `buffer` as far as the source goes and returns how far that was.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Passes over `bytes` and returns how many there were.
    pub(crate) fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let bytes = bytes.min(self.limit.saturating_sub(self.position));
        match &mut self.inner {
            Inner::File { file, length } => {
                let bytes = bytes.min(length.saturating_sub(self.position));
                // A file that is never longer than `i64::MAX` is what every kernel gives.
                file.seek_relative(i64::try_from(bytes).unwrap_or(i64::MAX))?;
                self.position += bytes;
                Ok(bytes)
            }
            Inner::Stream(stream) => {
                let mut left = bytes;
                while left > 0 {
                    let ready = match stream.fill_buf() {
                        Ok([]) => break,
                        Ok(ready) => (ready.len() as u64).min(left),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => return Err(error),
                    };
                    stream.consume(ready as usize);
                    left -= ready;
                }
                self.position += bytes - left;
                Ok(bytes - left)
            }
        }
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.limit.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let room = room.min(buffer.len());
        let buffer = &mut buffer[..room];
        let read = match &mut self.inner {
            Inner::File { file, .. } => file.read(buffer)?,
            Inner::Stream(stream) => stream.read(buffer)?,
        };
        self.position += read as u64;
        Ok(read)
    }
}
