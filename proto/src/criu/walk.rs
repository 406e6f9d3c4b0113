//! Reads a whole image of any kind and reports its defects.

use std::io::{self, Read};

use prost::Message;

use super::{Decoder, FieldIssue, ImageError, Kind, Problem, inspect, message};

/// `S_IFMT` is the mask of the file type in a mode, `S_IFREG` a regular file.
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

/// The bytes after an entry that belong to the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// No payload.
    None,
    /// This many bytes.
    Bytes(u64),
    /// The rest of the file.
    Rest,
}

impl Payload {
    /// Returns the payload of entry `index`, according to the content of the entry.
    ///
    /// # Errors
    /// The entry does not decode as a message of its kind.
    pub fn after(kind: Kind, index: u64, entry: &[u8]) -> Result<Payload, prost::DecodeError> {
        Ok(match (kind, index) {
            (Kind::PipesData | Kind::FifoData, _) => {
                Payload::Bytes(message::PipeDataEntry::decode(entry)?.bytes.into())
            }
            (Kind::SkQueues, _) => Payload::Bytes(message::SkPacketEntry::decode(entry)?.length.into()),
            (Kind::TcpStream, _) => {
                let stream = message::TcpStreamEntry::decode(entry)?;
                Payload::Bytes(u64::from(stream.inq_len) + u64::from(stream.outq_len))
            }
            (Kind::GhostFile, 0) => {
                let ghost = message::GhostFileEntry::decode(entry)?;
                let has_inline_content = ghost.mode & S_IFMT == S_IFREG && !ghost.chunks();
                if has_inline_content {
                    Payload::Rest
                } else {
                    Payload::None
                }
            }
            (Kind::GhostFile, _) => Payload::Bytes(message::GhostChunkEntry::decode(entry)?.len),
            (Kind::IpcnsShm, _) => {
                let segment = message::IpcShmEntry::decode(entry)?;
                // The content is padded to whole 32-bit words.
                let size = segment.size.checked_next_multiple_of(4).unwrap_or(segment.size);
                if segment.in_pagemaps() {
                    Payload::None
                } else {
                    Payload::Bytes(size)
                }
            }
            (Kind::IpcnsSem, _) => {
                // 16-bit values, padded to whole 64-bit words.
                let value_bytes = u64::from(message::IpcSemEntry::decode(entry)?.nsems) * 2;
                Payload::Bytes(value_bytes.next_multiple_of(8))
            }
            // Message queues have nested entries, BPF maps have no message here. Both are skipped.
            (Kind::IpcnsMsg | Kind::BpfmapData, _) => Payload::Rest,
            _ => Payload::None,
        })
    }
}

/// The result of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkSummary {
    /// The kind that the magics give.
    pub kind: Kind,
    /// The number of entries.
    pub entries: u64,
    /// The size of the image in bytes.
    pub bytes: u64,
}

/// Reads the rest of an image and reports the [`inspect()`] findings of each entry. Kinds without messages in this
/// crate are checked only for their framing.
///
/// # Errors
/// Those of [`Decoder`]; [`Problem::NoEntry`] for an image that must have an entry. Findings reported before an error
/// remain valid.
pub fn walk<R: Read>(
    mut decoder: Decoder<R>,
    mut report: impl FnMut(u64, FieldIssue),
) -> Result<WalkSummary, ImageError> {
    let kind = decoder.kind();
    while decoder.entry()?.is_some() {
        let index = decoder.entries() - 1;
        if let Some(name) = kind.message(index) {
            inspect(name, decoder.last_entry(), |finding| report(index, finding));
        }
        let payload = Payload::after(kind, index, decoder.last_entry()).map_err(|source| {
            let message = kind.message(index).unwrap_or_default().to_owned();
            decoder.error_at(
                decoder.entry_offset(),
                Problem::MalformedMessage { index, message, source },
            )
        })?;
        match payload {
            Payload::None => {}
            Payload::Bytes(count) => decoder.copy_payload(count, &mut io::sink())?,
            Payload::Rest => drop(decoder.copy_rest(&mut io::sink())?),
        }
    }
    if decoder.entries() == 0 && (kind.entries() == super::Entries::One || kind == Kind::Pagemap) {
        return Err(decoder.error_at(decoder.offset(), Problem::NoEntry));
    }
    Ok(WalkSummary {
        kind,
        entries: decoder.entries(),
        bytes: decoder.offset(),
    })
}
