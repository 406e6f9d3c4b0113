//! Where an archive's bytes come from: a stream that can be skipped without being read where it is a file.
//!
//! A hostile file may say that a member holds exabytes, or be one hole of that size. Skipping moves the position of a
//! file and reads nothing; of a stream it reads and drops. Both count every byte and end at [`Source::new`]'s limit, so
//! that an endless stream ends too.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
};

/// How much is read ahead.
const BUFFER: usize = 256 << 10;

/// A counted, limited, skippable stream.
pub(crate) struct Source<'a> {
    inner: Inner<'a>,
    position: u64,
    limit: u64,
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
        }
    }

    /// Reads from a regular file, from its beginning.
    pub(crate) fn file(file: File, limit: u64) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let file = BufReader::with_capacity(BUFFER, file);
        Ok(Self {
            inner: Inner::File { file, length },
            position: 0,
            limit,
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
