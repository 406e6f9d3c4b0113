//! Writes images.

use prost::Message;

use super::Kind;

/// Builds an image in memory: its magics first, then each entry with its payload.
#[derive(Debug)]
pub struct Encoder {
    image: Vec<u8>,
}

impl Encoder {
    /// Starts an image with the magics of this kind.
    pub fn new(kind: Kind) -> Self {
        Self { image: kind.header() }
    }

    /// Appends an entry.
    ///
    /// # Panics
    /// The message has 4 GiB or more, which the format cannot express.
    pub fn entry(&mut self, message: &impl Message) {
        let length = u32::try_from(message.encoded_len()).expect("an image entry is shorter than 4 GiB");
        self.image.extend_from_slice(&length.to_le_bytes());
        message.encode(&mut self.image).expect("a Vec grows as needed");
    }

    /// Appends the payload of the previous entry, such as the content of a ghost file or of a pipe.
    pub fn payload(&mut self, bytes: &[u8]) {
        self.image.extend_from_slice(bytes);
    }

    /// Returns the image.
    pub fn finish(self) -> Vec<u8> {
        self.image
    }
}

/// Encodes an image without payloads.
pub fn encode<'a, M: Message + 'a>(kind: Kind, entries: impl IntoIterator<Item = &'a M>) -> Vec<u8> {
    let mut encoder = Encoder::new(kind);
    for entry in entries {
        encoder.entry(entry);
    }
    encoder.finish()
}
