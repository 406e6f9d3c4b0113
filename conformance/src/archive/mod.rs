//! Reads a checkpoint archive, from any runtime, into what the cases of the archive suite judge.
//!
//! ```text
//!  file or stream -> decompress -> source -> walk (headers) -+-> documents   (bounded JSON)
//!                                              +-> images      (CRIU's, entry by entry)
//!                                              +-> pages       (their size, and a search through them)
//!                                              +-> log         (line by line)
//!                                              '-> passed over
//!                                                        all of it -> Inspected
//! ```
//!
//! An archive is hostile input: it is read once, nothing is extracted, no name in it is ever used as a path, and memory
//! stays bounded whatever it says: see [`Limits`], and the constants of each reader.
//!
//! Ways to fail: [`InspectError`] alone, when the file cannot be opened or read. Whatever is wrong with the archive
//! itself is part of what was [`InspectedArchive`].

mod compressed_blocks;
mod decompress;
mod documents;
mod extension_headers;
mod images;
mod input_kind;
mod inspector;
mod log_stats;
mod member_reader;
mod model;
pub mod mutant;
mod open_files;
mod pagemap;
pub mod sample;
mod search;
mod secrets;
mod source;
mod tar_header;
mod tar_reader;

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read, Seek as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;

pub use self::{
    compressed_blocks::{CompressedBlocks, Segment},
    documents::{Documents, ParsedDocument},
    images::{ImageProblem, ImageProblems, Images},
    input_kind::{ForeignInput, InputKind},
    log_stats::LogStats,
    model::{FileMetadata, InspectedArchive, Layout, Member, NameIssue, NestedTar},
    open_files::{EpollTarget, OpenFile},
    pagemap::{PageRange, Pagemap},
    search::MatchPosition,
    secrets::from_environment,
    tar_reader::{Compression, Corruption, MemberKind, TarEnd, TrailingData},
};
use self::{inspector::Inspector, source::ArchiveSource};

/// Why an archive could not be looked at.
#[derive(Debug, Error)]
pub enum InspectError {
    /// The file cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is a directory, a FIFO, a socket or a device.
    #[error("{path} is no regular file but a {kind}")]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Reading failed.
    #[error("cannot read the archive")]
    Read(#[from] io::Error),
}

/// How much of an archive is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the archive. Of a file most of them are passed over without being read.
    pub bytes: u64,
    /// Members.
    pub members: usize,
    /// Bytes of all members' names.
    pub name_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 16 << 40,
            members: 1 << 16,
            name_bytes: 16 << 20,
        }
    }
}

/// What the caller knows of the container, and the archive must show or hide.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    /// Bytes that are in the memory of the container, and nowhere else.
    pub memory: Option<Vec<u8>>,
    /// Values that may stand in the memory and in `spec.dump` (the environment does), and nowhere else.
    pub secrets: Vec<Vec<u8>>,
    /// Whose layout it must have; `None` for that of the engine which `spec.dump` names.
    pub layout: Option<Layout>,
}

/// Reads the archive at `path`.
///
/// # Errors
/// When the file cannot be opened or read, or is no regular file. What is wrong with the archive is no error.
pub fn inspect_file(path: &Path, expected: &Expectations, limits: Limits) -> Result<InspectedArchive, InspectError> {
    let open_error = |source| InspectError::Open {
        path: path.to_owned(),
        source,
    };
    let symlink = path.symlink_metadata().map_err(open_error)?.is_symlink();
    // Opening a FIFO waits for its writer unless it is told not to.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path);
    let file: File = file.map_err(open_error)?;
    let metadata = file.metadata().map_err(open_error)?;
    if !metadata.is_file() {
        let kind = match metadata.file_type() {
            kind if kind.is_dir() => "directory",
            kind if kind.is_fifo() => "FIFO",
            kind if kind.is_socket() => "socket",
            _ => "device",
        };
        return Err(InspectError::NotAFile {
            path: path.to_owned(),
            kind,
        });
    }
    let metadata = FileMetadata {
        path: path.to_owned(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        bytes: metadata.len(),
        link_count: metadata.nlink(),
        symlink,
    };
    let second_handle = file.try_clone()?;
    let source = ArchiveSource::from_file(file, limits.bytes)?;
    let inspected = Inspector::new(expected, limits).run(source, Some(metadata.clone()))?;
    let compressed = inspected.images.compressed_pagemaps();
    let late_pages: BTreeMap<_, _> = compressed
        .filter(|(id, _)| inspected.images.unread_pages.contains(id))
        .map(|(id, map)| (id, map.segments.clone()))
        .collect();
    if late_pages.is_empty() {
        return Ok(inspected);
    }
    // The page maps stood behind the pages that they are needed to read.
    drop(inspected);
    let mut second_handle = second_handle;
    second_handle.rewind()?;
    let source = ArchiveSource::from_file(second_handle, limits.bytes)?;
    Inspector::new(expected, limits)
        .with_segments(late_pages)
        .run(source, Some(metadata))
}

/// Says what is at a path where [`inspect_file`] found no regular file but a `kind`.
///
/// # Errors
/// When the path cannot be looked at.
pub fn inspect_non_file(
    path: &Path,
    expected: &Expectations,
    kind: &'static str,
) -> Result<InspectedArchive, InspectError> {
    let inspector = Inspector::new(expected, Limits::default());
    let mut inspected = inspector.run(ArchiveSource::new(io::empty(), 0), None)?;
    inspected.end = TarEnd::Corrupt(Corruption {
        offset: 0,
        reason: format!("a {kind} is no tar"),
    });
    inspected.input = InputKind::classify_path(path, kind);
    Ok(inspected)
}

/// Reads an archive from a stream.
///
/// # Errors
/// When reading fails. What is wrong with the archive is no error.
pub fn inspect_stream(
    stream: impl Read,
    expected: &Expectations,
    limits: Limits,
) -> Result<InspectedArchive, InspectError> {
    Inspector::new(expected, limits).run(ArchiveSource::open(stream, limits.bytes)?, None)
}

/// Says where in the archive's pages `needle` stands: the first place.
///
/// # Errors
/// As [`inspect_file`]. An archive that cannot be read to its end is searched as far as it can.
pub fn find_in_pages(path: &Path, needle: &[u8]) -> Result<Option<MatchPosition>, InspectError> {
    let expected = Expectations {
        memory: Some(needle.to_owned()),
        ..Expectations::default()
    };
    Ok(inspect_file(path, &expected, Limits::default())?.memory.flatten())
}
