//! Decompresses an archive with bounded memory.
//!
//! Podman exports archives compressed by zstd by default, or by gzip (`podman container checkpoint --compress`). Damage
//! is a property of the archive, not an I/O error: it ends the stream, and [`DecompressError`] describes it. The
//! expansion is bounded, since a few kilobytes can expand to terabytes of zeros.

use std::{
    cell::{Cell, RefCell},
    fmt,
    io::{self, BufRead, BufReader, Read},
    rc::Rc,
};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// The maximum window of a zstd frame, in bytes. The zstd library and program have the same default limit
/// (`ZSTD_WINDOWLOG_LIMIT_DEFAULT` in zstd's lib/zstd.h), which suffices for every compression level.
const MAX_ZSTD_WINDOW_BYTES: u64 = 128 << 20;
/// The limit of decompressed bytes: a base, plus a multiple of the compressed bytes. Deflate reaches 1032 to 1.
const FREE_OUTPUT_BYTES: u64 = 1 << 30;
const MAX_EXPANSION_RATIO: u64 = 2000;

/// A compression format, recognised by its magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
    /// XZ.
    Xz,
    /// bzip2.
    Bzip2,
    /// LZ4 frames.
    Lz4,
}

impl Compression {
    /// Detects the compression from the first bytes of a file.
    pub fn detect(first: &[u8]) -> Option<Self> {
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
    /// Whether this reader can decompress the format. The others are only recognised.
    pub fn is_decompressed(self) -> bool {
        matches!(self, Self::Gzip | Self::Zstd)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Lz4 => "lz4",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DecompressError {
    /// The compressed data is damaged or truncated.
    Corrupt(String),
    /// The data expands beyond the limit of this reader.
    ExpandsTooFar(String),
}

/// The defect that the reader found, shared with the caller.
pub(crate) type DecompressStatus = Rc<RefCell<Option<DecompressError>>>;

/// The decompressed stream. Data in a compression that is only recognised ([`Compression::is_decompressed`]) is passed
/// through.
pub(crate) fn decompressing_reader<'a>(
    compression: Compression,
    stream: impl Read + 'a,
) -> (Box<dyn Read + 'a>, DecompressStatus) {
    decompressing_reader_within(FREE_OUTPUT_BYTES, compression, stream)
}

fn decompressing_reader_within<'a>(
    free: u64,
    compression: Compression,
    stream: impl Read + 'a,
) -> (Box<dyn Read + 'a>, DecompressStatus) {
    let counted = CountingInput::new(stream);
    let (input_bytes, failed) = (Rc::clone(&counted.input_bytes), Rc::clone(&counted.input_failed));
    let inner: Box<dyn Read + 'a> = match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(counted))),
        Compression::Zstd => Box::new(ZstdReader::new(BufReader::new(counted))),
        Compression::Xz | Compression::Bzip2 | Compression::Lz4 => Box::new(counted),
    };
    let status = DecompressStatus::default();
    let bounded = BoundedOutput {
        inner,
        compression,
        input_bytes,
        input_failed: failed,
        free_bytes: free,
        output_bytes: 0,
        status: Rc::clone(&status),
    };
    (Box::new(bounded), status)
}

struct CountingInput<R> {
    inner: R,
    input_bytes: Rc<Cell<u64>>,
    input_failed: Rc<Cell<bool>>,
}

impl<R> CountingInput<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            input_bytes: Rc::default(),
            input_failed: Rc::default(),
        }
    }
}

impl<R: Read> Read for CountingInput<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        match &read {
            Ok(read) => self.input_bytes.set(self.input_bytes.get() + *read as u64),
            Err(error) => self.input_failed.set(error.kind() != io::ErrorKind::Interrupted),
        }
        read
    }
}

/// Ends the stream at damaged data and at the expansion limit.
struct BoundedOutput<'a> {
    inner: Box<dyn Read + 'a>,
    compression: Compression,
    input_bytes: Rc<Cell<u64>>,
    input_failed: Rc<Cell<bool>>,
    free_bytes: u64,
    output_bytes: u64,
    status: DecompressStatus,
}

impl Read for BoundedOutput<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.status.borrow().is_some() {
            return Ok(0);
        }
        let problem = match self.inner.read(buffer) {
            Ok(read) => {
                self.output_bytes += read as u64;
                let limit = self
                    .free_bytes
                    .saturating_add(self.input_bytes.get().saturating_mul(MAX_EXPANSION_RATIO));
                if self.output_bytes <= limit {
                    return Ok(read);
                }
                DecompressError::ExpandsTooFar(format!(
                    "{} bytes of {} expand to more than {limit} bytes",
                    self.input_bytes.get(),
                    self.compression
                ))
            }
            Err(error) if self.input_failed.get() || error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => DecompressError::Corrupt(format!(
                "the {} data is damaged or truncated after {} bytes ({error})",
                self.compression,
                self.input_bytes.get()
            )),
        };
        *self.status.borrow_mut() = Some(problem);
        Ok(0)
    }
}

struct ZstdReader<R> {
    source: R,
    frame: FrameDecoder,
    frame_open: bool,
}

impl<R: BufRead> ZstdReader<R> {
    fn new(source: R) -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(MAX_ZSTD_WINDOW_BYTES);
        Self {
            source,
            frame,
            frame_open: false,
        }
    }

    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.frame.init(&mut self.source) {
                Ok(()) => {
                    self.frame_open = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.frame_open && self.frame.can_collect() > 0 {
                return self.frame.read(buffer);
            }
            if !self.frame_open || self.frame.is_finished() {
                if !self.next_frame()? {
                    return Ok(0);
                }
                continue;
            }
            let decoded = self
                .frame
                .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1));
            decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression as Level, write::GzEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
        encoder.write_all(bytes).expect("writing to a vector cannot fail");
        encoder.finish().expect("writing to a vector cannot fail")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn read(compression: Compression, bytes: &[u8]) -> (Vec<u8>, Option<DecompressError>) {
        let (mut reader, status) = decompressing_reader(compression, bytes);
        let mut out = Vec::new();
        reader.read_to_end(&mut out).expect("damage is not an I/O error");
        let problem = status.borrow().clone();
        (out, problem)
    }

    #[test]
    fn reads_concatenated_streams() {
        let text: Vec<u8> = (0..300_000_u32).map(|at| (at * 31 % 251) as u8).collect();
        for (compression, compress) in [
            (Compression::Gzip, gzip as fn(&[u8]) -> Vec<u8>),
            (Compression::Zstd, zstd),
        ] {
            assert_eq!(read(compression, &compress(&text)), (text.clone(), None));
            let two = [compress(&text[..1000]), compress(&text[1000..])].concat();
            assert_eq!(read(compression, &two), (text.clone(), None));
        }
        // A skippable frame of three bytes between two frames.
        let skip = [&0x184d_2a50_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
        let three = [zstd(b"one"), skip, zstd(b"two")].concat();
        assert_eq!(read(Compression::Zstd, &three), (b"onetwo".to_vec(), None));
    }

    #[test]
    fn reports_damage() {
        let text = vec![7_u8; 100_000];
        for (compression, bytes) in [(Compression::Gzip, gzip(&text)), (Compression::Zstd, zstd(&text))] {
            let (_, problem) = read(compression, &bytes[..bytes.len() - 3]);
            assert!(
                matches!(&problem, Some(DecompressError::Corrupt(text)) if text.contains(&compression.to_string())),
                "{problem:?}"
            );
        }
    }

    #[test]
    fn reads_windows_of_the_highest_compression_level() {
        // A frame header with a window of 2^log bytes (RFC 8878, 3.1.1.1.2), and one raw block.
        let frame = |log: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3, 0x19, 0, 0][..], b"abc"].concat();
        assert_eq!(read(Compression::Zstd, &frame(27)), (b"abc".to_vec(), None));
        let (_, problem) = read(Compression::Zstd, &frame(28));
        assert!(matches!(problem, Some(DecompressError::Corrupt(_))), "{problem:?}");
    }

    #[test]
    fn bounds_the_expansion() {
        // 200 frames with one run-length block each: 128 KiB of zeros in ten bytes.
        let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58][..], &[0x03, 0x00, 0x10, 0x00]].concat();
        let expanding = frame.repeat(200);
        let (mut reader, status) = decompressing_reader_within(1 << 20, Compression::Zstd, &expanding[..]);
        let output = io::copy(&mut reader, &mut io::sink()).expect("read");
        assert!(
            output <= (1 << 20) + expanding.len() as u64 * MAX_EXPANSION_RATIO,
            "{output}"
        );
        assert!(
            matches!(&*status.borrow(), Some(DecompressError::ExpandsTooFar(_))),
            "{:?} after {output} bytes",
            status.borrow()
        );
    }
}
