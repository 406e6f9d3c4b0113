//! Reads a checkpoint archive of any runtime and collects what the cases of the archive suite check.
//!
//! ```text
//!  file or stream -> decompress -> source -> tar_reader (headers) -+-> documents   (bounded JSON)
//!                                                                  +-> images      (CRIU's, entry by entry)
//!                                                                  +-> pages       (size, and a search for bytes)
//!                                                                  +-> log_stats   (line by line)
//!                                                                  '-> skipped
//!                                                                        all of it -> InspectedArchive
//! ```
//!
//! An archive is hostile input. It is read in one pass (two if page maps follow their compressed pages). Nothing is
//! extracted, and no name in the archive is used as a path. Memory is bounded whatever the archive contains: see
//! [`Limits`] and the constants of each reader.
//!
//! Ways to fail: only [`InspectError`], if the file cannot be opened or read. Defects of the archive itself are part of
//! the [`InspectedArchive`].

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
mod open_files;
mod pagemap;
pub mod sample;
mod search;
mod secrets;
mod source;
pub(crate) mod tar_header;
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
    decompress::Compression,
    documents::{Documents, ParsedDocument},
    images::{ImageProblem, ImageProblems, Images},
    log_stats::LogStats,
    model::{FileMetadata, ForeignInput, InputKind, InspectedArchive, Layout, Member, NameIssue, NestedTar},
    open_files::{EpollTarget, OpenFile},
    pagemap::{PageRange, Pagemap},
    search::MatchPosition,
    secrets::from_environment,
    tar_reader::{Corruption, MemberKind, TarEnd, TrailingData},
};
use self::{inspector::Inspector, source::ArchiveSource};

/// An archive could not be read.
#[derive(Debug, Error)]
pub enum InspectError {
    /// The file cannot be opened.
    #[error("failed to open {path}")]
    Open {
        /// The path.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// The file is a directory, a FIFO, a socket or a device.
    #[error("{path} is a {kind}, not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// The kind of file.
        kind: &'static str,
    },
    /// Reading failed.
    #[error("failed to read the archive")]
    Read(#[from] io::Error),
}

/// The limits of a read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the archive. Most bytes of an uncompressed file are skipped without being read.
    pub bytes: u64,
    /// The number of members.
    pub members: usize,
    /// The total length of the members' names, in bytes.
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

/// What the archive must contain or must not contain.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    /// Bytes from the container's memory that are nowhere else.
    pub memory: Option<Vec<u8>>,
    /// Values that may be only in memory and in `spec.dump`, which contains the environment.
    pub secrets: Vec<Vec<u8>>,
    /// The layout that the archive must have; `None` for the layout of the engine that `spec.dump` names.
    pub layout: Option<Layout>,
}

/// Reads the archive at `path`.
///
/// # Errors
/// The file cannot be opened or read, or is not a regular file. A defect of the archive is not an error.
pub fn inspect_file(path: &Path, expected: &Expectations, limits: Limits) -> Result<InspectedArchive, InspectError> {
    let open_error = |source| InspectError::Open {
        path: path.to_owned(),
        source,
    };
    let symlink = path.symlink_metadata().map_err(open_error)?.is_symlink();
    // Without O_NONBLOCK, opening a FIFO blocks until a writer opens it.
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
    // The page maps follow the compressed pages, and the pages cannot be decompressed without them. So the archive is
    // read again.
    drop(inspected);
    let mut second_handle = second_handle;
    second_handle.rewind()?;
    let source = ArchiveSource::from_file(second_handle, limits.bytes)?;
    Inspector::new(expected, limits)
        .with_segments(late_pages)
        .run(source, Some(metadata))
}

/// The result for a path where [`inspect_file`] found a `kind` instead of a regular file.
///
/// # Errors
/// The path cannot be accessed.
pub fn inspect_non_file(
    path: &Path,
    expected: &Expectations,
    kind: &'static str,
) -> Result<InspectedArchive, InspectError> {
    let inspector = Inspector::new(expected, Limits::default());
    let mut inspected = inspector.run(ArchiveSource::new(io::empty(), 0), None)?;
    inspected.end = TarEnd::Corrupt(Corruption {
        offset: 0,
        reason: format!("a {kind} is not a tar"),
    });
    inspected.input = InputKind::classify_path(path, kind);
    Ok(inspected)
}

/// Reads an archive from a stream.
///
/// # Errors
/// The stream cannot be read. A defect of the archive is not an error.
pub fn inspect_stream(
    stream: impl Read,
    expected: &Expectations,
    limits: Limits,
) -> Result<InspectedArchive, InspectError> {
    Inspector::new(expected, limits).run(ArchiveSource::open(stream, limits.bytes)?, None)
}

/// The first position of `needle` in the archive's pages.
///
/// # Errors
/// As [`inspect_file`]. A damaged archive is searched up to the damage.
pub fn find_in_pages(path: &Path, needle: &[u8]) -> Result<Option<MatchPosition>, InspectError> {
    let expected = Expectations {
        memory: Some(needle.to_owned()),
        ..Expectations::default()
    };
    Ok(inspect_file(path, &expected, Limits::default())?.memory.flatten())
}
