//! The result of reading an archive.

use std::{fmt, path::PathBuf};

use super::{
    decompress::Compression,
    documents::Documents,
    images::Images,
    log_stats::LogStats,
    search::MatchPosition,
    tar_reader::{MemberKind, TarEnd, TrailingData},
};

/// The kind of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// Unknown: the input could not be read far enough.
    Unread,
    /// A checkpoint archive that must have this layout.
    Archive(Layout),
    /// Any other input.
    Foreign(ForeignInput),
}

/// An input that is not a checkpoint archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignInput {
    /// The description of the input.
    pub description: String,
    /// The advice for the user.
    pub remedy: &'static str,
}

impl fmt::Display for ForeignInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.description, self.remedy)
    }
}

/// The metadata of the archive file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMetadata {
    /// The path.
    pub path: PathBuf,
    /// The permission bits.
    pub mode: u32,
    /// The owner's uid.
    pub uid: u32,
    /// The owning group's gid.
    pub gid: u32,
    /// The size in bytes.
    pub bytes: u64,
    /// The number of hard links.
    pub link_count: u64,
    /// Whether the path's last component is a symbolic link.
    pub symlink: bool,
}

/// A member of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name for messages: control characters escaped, truncated.
    pub name: String,
    /// The offset of the header, in bytes.
    pub offset: u64,
    /// Its kind.
    pub kind: MemberKind,
    /// The permission bits.
    pub mode: u32,
    /// The size in bytes.
    pub size: u64,
    /// The modification time, in seconds since the Unix epoch.
    pub mtime: i64,
    /// The link target for messages: control characters escaped, truncated.
    pub link: String,
    /// The problems of the name.
    pub name_issues: Vec<NameIssue>,
}

/// A problem of a member's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameIssue {
    /// The name begins with a slash.
    Absolute,
    /// The name has a component `..`.
    ParentComponent,
    /// An earlier member has the same name.
    Duplicate,
    /// The name is empty, not UTF-8, or longer than a path can be, or contains control characters, empty components or
    /// a component `.` that is not at its start.
    Malformed,
}

/// The layout of an engine's archives: the members beside CRIU's images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// containerd, 2.2 and later.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman, as `podman container checkpoint --export` writes it.
    Podman,
}

impl Layout {
    /// All layouts.
    pub const ALL: [Layout; 3] = [Layout::Containerd, Layout::CriO, Layout::Podman];

    /// The name of the engine.
    pub fn as_str(self) -> &'static str {
        match self {
            Layout::Containerd => "containerd",
            Layout::CriO => "cri-o",
            Layout::Podman => "podman",
        }
    }

    /// The layout for a value of the annotation `io.container.manager`. containerd does not set the annotation, and
    /// like checkpointctl this function treats any unknown value as containerd.
    pub fn from_manager(manager: Option<&str>) -> Self {
        match manager {
            Some("cri-o") => Layout::CriO,
            Some("libpod") => Layout::Podman,
            _ => Layout::Containerd,
        }
    }
}

/// A checkpoint archive after it was read.
#[derive(Clone, Debug)]
pub struct InspectedArchive {
    /// The file's metadata; `None` for a stream.
    pub file: Option<FileMetadata>,
    /// The kind of the input.
    pub input: InputKind,
    /// How the tar ended.
    pub end: TarEnd,
    /// The data after the two zero blocks; `None` if the tar ended in another way.
    pub trailing_data: Option<TrailingData>,
    /// The compression of the file, if any. For gzip and zstd, the decompressed tar was read.
    pub compression: Option<Compression>,
    /// All members, in order.
    pub members: Vec<Member>,
    /// The JSON documents.
    pub documents: Documents,
    /// CRIU's images.
    pub images: Images,
    /// The container's log, with the name of its member.
    pub container_log: Option<(String, LogStats)>,
    /// CRIU's log.
    pub dump_log: Option<LogStats>,
    /// The kind of `rootfs-diff.tar`, by its first bytes.
    pub rootfs_diff: Option<NestedTar>,
    /// The position of the expected memory. The outer `None`: no memory was expected.
    pub memory: Option<Option<MatchPosition>>,
    /// The positions of secrets outside of memory and `spec.dump`; `None` if no secrets were given.
    pub secret_leaks: Option<Vec<MatchPosition>>,
    /// The expected layout, if the caller named one.
    pub layout: Option<Layout>,
}

/// The first bytes of a member that must be a tar, possibly compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NestedTar {
    /// A tar, with its compression if any.
    Tar(Option<Compression>),
    /// Data in a compression that this reader recognises and cannot decompress.
    Compressed(Compression),
    /// Anything else, described in words.
    Other(String),
}

impl InspectedArchive {
    /// Whether the archive was read to its end, so that a member that was not found does not exist.
    pub fn is_complete(&self) -> bool {
        matches!(self.end, TarEnd::Marker | TarEnd::NoMarker)
    }

    /// The layout that the archive must have: the caller's, or else that of the engine which `spec.dump` names.
    pub fn expected_layout(&self) -> Layout {
        let annotations = self
            .documents
            .spec
            .parsed()
            .and_then(|spec| spec.annotations().as_ref());
        let manager = annotations.and_then(|annotations| annotations.get("io.container.manager"));
        self.layout
            .unwrap_or_else(|| Layout::from_manager(manager.map(String::as_str)))
    }

    /// The first member of this name. Trailing slashes are ignored.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| canonical_name(member.name.as_bytes()) == name.trim_end_matches('/').as_bytes())
    }

    /// Whether any member is from CRIU or from an engine that uses CRIU.
    pub fn is_criu(&self) -> bool {
        self.images.image_counts.values().any(|count| *count > 0)
            || !self.images.pages_file_bytes.is_empty()
            || ["config.dump", "spec.dump", "dump.log"]
                .iter()
                .any(|name| self.member(name).is_some())
    }
}

/// The name without leading `./` and trailing slashes, which do not change its meaning.
pub(super) fn canonical_name(name: &[u8]) -> &[u8] {
    let mut name = name;
    while let Some(rest) = name.strip_prefix(b"./") {
        name = rest;
    }
    while let Some(rest) = name.strip_suffix(b"/") {
        name = rest;
    }
    name
}
