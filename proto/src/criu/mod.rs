//! CRIU's image files: messages, framing and the checks that protobuf leaves out.
//!
//! ```text
//! common   u32 0x54564319 | u32 magic of the kind | entry | entry | ...
//! inventory                 u32 0x58313116         | entry
//! service  u32 0x55105940 | u32 magic of the kind | entry              (stats-dump, irmap-cache)
//! raw      pages-N.img: page after page, nothing else
//!
//! entry    u32 length | proto2 message of that length       (all numbers little-endian)
//! ```
//!
//! In a few kinds an entry is followed by bytes of its own that no length announces but the message itself:
//! [`Payload`] says which. [`Encoder`] writes an image, [`Decoder`] reads one from any [`Read`](std::io::Read) with
//! bounded memory, [`walk()`] reads a whole one and reports everything that is wrong with it.
//!
//! Ways to fail: [`ImageError`] names the file and the offset. A wrong magic, a file that ends within an entry, a
//! length above the limit, bytes after the end and a malformed message are errors. prost fills in missing required
//! fields and drops unknown ones without a word; [`inspect()`] tells both.
//!
//! Source: criu's `images/*.proto`, `criu/include/magic.h`, `criu/image-desc.c` (4.2).

mod decode;
mod encode;
mod error;
mod file;
mod inspect;
mod kind;
mod walk;

pub use decode::{DEFAULT_ENTRY_LIMIT, Decoder, decode_entries, decode_single};
pub use encode::{Encoder, encode};
pub use error::{ImageError, Problem};
pub use file::{ImageFile, PAGES_PREFIX, STATS_DUMP, STATS_RESTORE, pages_file_name};
pub use inspect::{FieldIssue, FieldIssueKind, descriptors, first_fatal_issue, inspect};
pub use kind::{COMMON_MAGIC, Entries, Kind, SERVICE_MAGIC};
pub use walk::{Payload, WalkSummary, walk};

/// The encoded `FileDescriptorSet` of the image messages, for dynamic readers.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/criu-descriptors.bin"));

/// The messages as CRIU names them (proto2).
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated from the .proto files, whose comments are the docs"
)]
pub mod message {
    include!(concat!(env!("OUT_DIR"), "/criu.rs"));
}
