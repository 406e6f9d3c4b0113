//! Writing images.

use std::io::{self, Write};

use prost::Message;

use super::Kind;

/// Writes one image: its magics first, then each entry as it comes. Nothing is held back; what `W` buffers is the
/// caller's to flush.
#[derive(Debug)]
pub struct Encoder<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> Encoder<W> {
    /// Begins an image of this kind.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(kind: Kind, mut out: W) -> io::Result<Self> {
        out.write_all(&kind.header())?;
        Ok(Self {
            out,
            buffer: Vec::new(),
        })
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// Those of `out`; [`io::ErrorKind::InvalidInput`] for a message of 4 GiB and more, which the format cannot hold.
    pub fn entry(&mut self, message: &impl Message) -> io::Result<()> {
        let length = u32::try_from(message.encoded_len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "image entry of 4 GiB or more"))?;
        self.buffer.clear();
        self.buffer.extend_from_slice(&length.to_le_bytes());
        message.encode(&mut self.buffer).expect("a vector grows as needed");
        self.out.write_all(&self.buffer)
    }

    /// Writes bytes that belong to the entry before: the content of a ghost file, of a pipe, of a socket's packet.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn payload(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Ends the image and gives the writer back.
    pub fn finish(self) -> W {
        self.out
    }
}

/// An image in memory, of entries that have no bytes after them.
pub fn encode<'a, M: Message + 'a>(kind: Kind, entries: impl IntoIterator<Item = &'a M>) -> Vec<u8> {
    let mut encoder = Encoder::new(kind, Vec::new()).expect("a vector takes all");
    for entry in entries {
        encoder
            .entry(entry)
            .expect("a vector takes all, and a message in memory is below 4 GiB");
    }
    encoder.finish()
}
