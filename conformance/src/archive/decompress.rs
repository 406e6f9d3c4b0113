//! Reading through a compressed archive, in bounded memory.
//!
//! Podman exports archives compressed by zstd unless told otherwise, or by gzip (`podman container checkpoint --compress`). Damage
//! is a property of the archive, not an error of reading: it ends the stream, and [`Flaw`] says what it was. The expansion is
//! bounded, since a few kilobytes can stand for terabytes of zeros.

use std::{
    cell::{Cell, RefCell},
    io::{self, BufRead, BufReader, Read},
    rc::Rc,
};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

use super::walk::Compression;

/// The largest window of a zstd frame that is decompressed, in bytes: eight times what every decoder must support
/// (RFC 8878, 3.1.1.1.2), and what `zstd --ultra` uses without `--long`.
const ZSTD_WINDOW_BYTES: u64 = 64 << 20;
/// Decompressed bytes that are always read, and how many more for each compressed byte. Deflate reaches 1032 to 1.
const FREE_BYTES: u64 = 1 << 30;
const MOST_BYTES_PER_BYTE: u64 = 2000;

/// Why a decompressed stream ended before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The compressed data is damaged or cut.
    Damaged(String),
    /// It expands beyond the bound of this reader.
    Expands(String),
}

/// Where the reader leaves what it found, for those who hold the other end.
pub(crate) type Verdict = Rc<RefCell<Option<Flaw>>>;

/// The decompressed stream; one of a compression that is only recognised ([`Compression::is_read`]) comes as it is.
pub(crate) fn reader<'a>(compression: Compression, stream: impl Read + 'a) -> (Box<dyn Read + 'a>, Verdict) {
    reader_within(FREE_BYTES, compression, stream)
}

fn reader_within<'a>(free: u64, compression: Compression, stream: impl Read + 'a) -> (Box<dyn Read + 'a>, Verdict) {
    let counted = Counted::new(stream);
    let (taken, failed) = (Rc::clone(&counted.taken), Rc::clone(&counted.failed));
    let inner: Box<dyn Read + 'a> = match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(counted))),
        Compression::Zstd => Box::new(Zstd::new(BufReader::new(counted))),
        Compression::Xz | Compression::Bzip2 | Compression::Lz4 => Box::new(counted),
    };
    let verdict = Verdict::default();
    let bounded = Bounded {
        inner,
        compression,
        taken,
        failed,
        free,
        given: 0,
        verdict: Rc::clone(&verdict),
    };
    (Box::new(bounded), verdict)
}

/// Counts the compressed bytes, and remembers whether reading them failed.
struct Counted<R> {
    inner: R,
    taken: Rc<Cell<u64>>,
    failed: Rc<Cell<bool>>,
}

impl<R> Counted<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            taken: Rc::default(),
            failed: Rc::default(),
        }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        match &read {
            Ok(read) => self.taken.set(self.taken.get() + *read as u64),
            Err(error) => self.failed.set(error.kind() != io::ErrorKind::Interrupted),
        }
        read
    }
}

/// Turns damage and excessive expansion into an end of the stream.
struct Bounded<'a> {
    inner: Box<dyn Read + 'a>,
    compression: Compression,
    taken: Rc<Cell<u64>>,
    failed: Rc<Cell<bool>>,
    free: u64,
    given: u64,
    verdict: Verdict,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.verdict.borrow().is_some() {
            return Ok(0);
        }
        let flaw = match self.inner.read(buffer) {
            Ok(read) => {
                self.given += read as u64;
                let most = self
                    .free
                    .saturating_add(self.taken.get().saturating_mul(MOST_BYTES_PER_BYTE));
                if self.given <= most {
                    return Ok(read);
                }
                Flaw::Expands(format!(
                    "{} bytes of {} expand to more than {most} bytes",
                    self.taken.get(),
                    self.compression
                ))
            }
            Err(error) if self.failed.get() || error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => Flaw::Damaged(format!(
                "the {} data is damaged or cut after {} bytes ({error})",
                self.compression,
                self.taken.get()
            )),
        };
        *self.verdict.borrow_mut() = Some(flaw);
        Ok(0)
    }
}

/// All frames of a zstd stream, skippable ones passed over.
struct Zstd<R> {
    source: R,
    frame: FrameDecoder,
    started: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(ZSTD_WINDOW_BYTES);
        Self {
            source,
            frame,
            started: false,
        }
    }

    /// Begins the next frame; false at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.frame.init(&mut self.source) {
                Ok(()) => {
                    self.started = true;
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

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.started && self.frame.can_collect() > 0 {
                return self.frame.read(buffer);
            }
            if !self.started || self.frame.is_finished() {
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
        encoder.write_all(bytes).expect("a vector takes all");
        encoder.finish().expect("a vector takes all")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn read(compression: Compression, bytes: &[u8]) -> (Vec<u8>, Option<Flaw>) {
        let (mut reader, verdict) = reader(compression, bytes);
        let mut out = Vec::new();
        reader.read_to_end(&mut out).expect("damage is no error of reading");
        let flaw = verdict.borrow().clone();
        (out, flaw)
    }

    #[test]
    fn one_stream_and_several_are_read_to_their_end() {
        let text: Vec<u8> = (0..300_000_u32).map(|at| (at * 31 % 251) as u8).collect();
        for (compression, compress) in [
            (Compression::Gzip, gzip as fn(&[u8]) -> Vec<u8>),
            (Compression::Zstd, zstd),
        ] {
            assert_eq!(read(compression, &compress(&text)), (text.clone(), None));
            let two = [compress(&text[..1000]), compress(&text[1000..])].concat();
            assert_eq!(read(compression, &two), (text.clone(), None));
        }
        // A skippable frame of three bytes stands between two frames.
        let skip = [&0x184d_2a50_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
        let three = [zstd(b"one"), skip, zstd(b"two")].concat();
        assert_eq!(read(Compression::Zstd, &three), (b"onetwo".to_vec(), None));
    }

    #[test]
    fn damage_ends_the_stream_and_is_named() {
        let text = vec![7_u8; 100_000];
        for (compression, bytes) in [(Compression::Gzip, gzip(&text)), (Compression::Zstd, zstd(&text))] {
            let (_, flaw) = read(compression, &bytes[..bytes.len() - 3]);
            assert!(
                matches!(&flaw, Some(Flaw::Damaged(text)) if text.contains(&compression.to_string())),
                "{flaw:?}"
            );
        }
    }

    #[test]
    fn what_expands_without_end_is_bounded() {
        // 200 frames of one run-length block each, 128 KiB of zeros in ten bytes.
        let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58][..], &[0x03, 0x00, 0x10, 0x00]].concat();
        let bomb = frame.repeat(200);
        let (mut reader, verdict) = reader_within(1 << 20, Compression::Zstd, &bomb[..]);
        let given = io::copy(&mut reader, &mut io::sink()).expect("read");
        assert!(given <= (1 << 20) + bomb.len() as u64 * MOST_BYTES_PER_BYTE, "{given}");
        assert!(
            matches!(&*verdict.borrow(), Some(Flaw::Expands(_))),
            "{:?} after {given} bytes",
            verdict.borrow()
        );
    }
}
