//! CRIU's image files: messages, framing, and checks that protobuf does not make.
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
//! In some kinds, an entry is followed by a payload whose length only the entry itself gives: see [`Payload`].
//! [`Encoder`] writes an image. [`Decoder`] reads an image from any [`Read`](std::io::Read) with bounded memory.
//! [`walk()`] reads a whole image and reports all its defects.
//!
//! Failures: [`ImageError`] names the file and the offset. Errors are a wrong magic, a truncated entry, a length above
//! the limit, trailing bytes, and a malformed message. prost silently fills in missing required fields and drops
//! unknown fields; [`inspect()`] reports both.
//!
//! Sources: CRIU 4.2 `images/*.proto`, `criu/include/magic.h`, `criu/image-desc.c`.

mod consts;
mod decode;
mod encode;
mod error;
mod file;
mod inspect;
mod kind;
mod walk;

pub use consts::{
    FDINFO_CLOEXEC, IMAGE_DIR, IMAGES_V1, IMAGES_V1_1, MAX_AUXV_WORDS, PE_PRESENT, sigaction_signals, task_state,
    vma_status,
};
pub use decode::{DEFAULT_ENTRY_LIMIT, Decoder, decode_entries, decode_single};
pub use encode::{Encoder, encode};
pub use error::{ImageError, Problem};
pub use file::{
    ImageFile, PAGES_PREFIX, SHMEM_PAGEMAP_PREFIX, STATS_DUMP, STATS_RESTORE, pages_file_name, shmem_pagemap_file_name,
};
pub use inspect::{FieldIssue, FieldIssueKind, descriptors, first_fatal_issue, inspect};
pub use kind::{COMMON_MAGIC, Entries, Kind, SERVICE_MAGIC};
pub use walk::{Payload, WalkSummary, walk};

/// The encoded `FileDescriptorSet` of the image messages, for dynamic messages.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/criu-descriptors.bin"));

/// The image messages, with CRIU's names (proto2).
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated from the .proto files, whose comments are the docs"
)]
pub mod message {
    include!(concat!(env!("OUT_DIR"), "/criu.rs"));
}
