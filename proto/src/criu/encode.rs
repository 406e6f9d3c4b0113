//! Writes images.

use std::io::{self, Write};

use prost::Message;

use super::Kind;

/// Writes one image: its magics first, then each entry. The encoder does not buffer; the caller must flush `W`.
#[derive(Debug)]
pub struct Encoder<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> Encoder<W> {
    /// Writes the magics of this kind.
    ///
    /// # Errors
    /// A write to `out` fails.
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
    /// A write to `out` fails; [`io::ErrorKind::InvalidInput`] for a message of 4 GiB or more, which the format cannot
    /// express.
    pub fn entry(&mut self, message: &impl Message) -> io::Result<()> {
        let length = u32::try_from(message.encoded_len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "image entry of 4 GiB or more"))?;
        self.buffer.clear();
        self.buffer.extend_from_slice(&length.to_le_bytes());
        message.encode(&mut self.buffer).expect("a Vec grows as needed");
        self.out.write_all(&self.buffer)
    }

    /// Writes the payload of the previous entry, such as the content of a ghost file or of a pipe.
    ///
    /// # Errors
    /// A write to `out` fails.
    pub fn payload(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Returns the writer.
    pub fn finish(self) -> W {
        self.out
    }
}

/// Encodes an image without payloads in memory.
pub fn encode<'a, M: Message + 'a>(kind: Kind, entries: impl IntoIterator<Item = &'a M>) -> Vec<u8> {
    let mut encoder = Encoder::new(kind, Vec::new()).expect("a write to a Vec succeeds");
    for entry in entries {
        encoder
            .entry(entry)
            .expect("a write to a Vec succeeds, and the message is below 4 GiB");
    }
    encoder.finish()
}
