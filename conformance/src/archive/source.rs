//! The bytes of an archive: a stream, or a file in which skipping does not read.
//!
//! A hostile file can declare a member of exabytes, or be a sparse file of that size. Skipping in a file only moves the
//! position; skipping in a stream reads and discards. Both count every byte and end at the limit of
//! [`ArchiveSource::new`], so a read of an endless stream ends as well.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    os::unix::fs::FileExt as _,
};

use super::decompress::{self, Compression, DecompressError, DecompressStatus};

const READ_BUFFER_BYTES: usize = 256 << 10;
const MAGIC_BYTES: u64 = 8;

/// A byte source with a position, a limit, and skipping.
pub(crate) struct ArchiveSource<'a> {
    inner: SourceReader<'a>,
    position: u64,
    limit: u64,
    /// The compression of the input, if it is decompressed here.
    compression: Option<Compression>,
    decompress_status: DecompressStatus,
}

enum SourceReader<'a> {
    File { file: BufReader<File>, length: u64 },
    Stream(BufReader<Box<dyn Read + 'a>>),
}

impl<'a> ArchiveSource<'a> {
    /// Reads at most `limit` bytes of a stream.
    pub(crate) fn new(stream: impl Read + 'a, limit: u64) -> Self {
        let inner = SourceReader::Stream(BufReader::with_capacity(READ_BUFFER_BYTES, Box::new(stream)));
        Self {
            inner,
            position: 0,
            limit,
            compression: None,
            decompress_status: DecompressStatus::default(),
        }
    }

    /// As [`ArchiveSource::new`], and decompresses a gzip or zstd stream.
    pub(crate) fn open(mut stream: impl Read + 'a, limit: u64) -> io::Result<Self> {
        let mut first = Vec::new();
        (&mut stream).take(MAGIC_BYTES).read_to_end(&mut first)?;
        let compression = Compression::detect(&first);
        let rewound = io::Cursor::new(first).chain(stream);
        Ok(match compression {
            Some(compression) if compression.is_decompressed() => Self::decompressed(compression, rewound, limit),
            _ => Self::new(rewound, limit),
        })
    }

    fn decompressed(compression: Compression, stream: impl Read + 'a, limit: u64) -> Self {
        let (reader, verdict) = decompress::decompressing_reader(compression, stream);
        Self {
            compression: Some(compression),
            decompress_status: verdict,
            ..Self::new(reader, limit)
        }
    }

    /// The compression of the input, if it is decompressed here.
    pub(crate) fn compression(&self) -> Option<Compression> {
        self.compression
    }

    /// The defect of the compressed data that ended the read, if any.
    pub(crate) fn decompress_error(&self) -> Option<DecompressError> {
        self.decompress_status.borrow().clone()
    }

    /// Reads a regular file from its start. Decompresses a gzip or zstd file.
    pub(crate) fn from_file(file: File, limit: u64) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut first = [0; MAGIC_BYTES as usize];
        let read = file.read_at(&mut first, 0)?;
        if let Some(compression) =
            Compression::detect(&first[..read]).filter(|compression| compression.is_decompressed())
        {
            return Ok(Self::decompressed(compression, file, limit));
        }
        let file = BufReader::with_capacity(READ_BUFFER_BYTES, file);
        Ok(Self {
            inner: SourceReader::File { file, length },
            position: 0,
            limit,
            compression: None,
            decompress_status: DecompressStatus::default(),
        })
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Whether the read ended at the limit.
    pub(crate) fn limit_reached(&self) -> bool {
        self.position >= self.limit
    }

    /// Fills `buffer` as far as possible and returns the number of bytes.
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

    /// Skips up to `bytes` and returns the number of skipped bytes.
    pub(crate) fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let bytes = bytes.min(self.limit.saturating_sub(self.position));
        match &mut self.inner {
            SourceReader::File { file, length } => {
                let bytes = bytes.min(length.saturating_sub(self.position));
                // No kernel allows a file longer than `i64::MAX`.
                file.seek_relative(i64::try_from(bytes).unwrap_or(i64::MAX))?;
                self.position += bytes;
                Ok(bytes)
            }
            SourceReader::Stream(stream) => {
                let mut remaining = bytes;
                while remaining > 0 {
                    let ready = match stream.fill_buf() {
                        Ok([]) => break,
                        Ok(ready) => (ready.len() as u64).min(remaining),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => return Err(error),
                    };
                    stream.consume(ready as usize);
                    remaining -= ready;
                }
                self.position += bytes - remaining;
                Ok(bytes - remaining)
            }
        }
    }
}

impl Read for ArchiveSource<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.limit.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let limit = limit.min(buffer.len());
        let buffer = &mut buffer[..limit];
        let read = match &mut self.inner {
            SourceReader::File { file, .. } => file.read(buffer)?,
            SourceReader::Stream(stream) => stream.read(buffer)?,
        };
        self.position += read as u64;
        Ok(read)
    }
}
