//! What is known of an archive after it was read.

use std::path::PathBuf;

use super::{
    documents::Documents,
    images::Images,
    input_kind::InputKind,
    log_stats::LogStats,
    search::MatchPosition,
    tar_reader::{Compression, MemberKind, TarEnd, TrailingData},
};

/// What the file system says of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMetadata {
    /// Where it is.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its size in bytes.
    pub bytes: u64,
    /// How many names it has.
    pub link_count: u64,
    /// Whether the path's last component is a symbolic link.
    pub symlink: bool,
}

/// A member of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name as it stands in the archive, for people: control characters escaped, cut to a line.
    pub name: String,
    /// Where its header begins, in bytes.
    pub offset: u64,
    /// Its kind.
    pub kind: MemberKind,
    /// Permission bits.
    pub mode: u32,
    /// Its size in bytes.
    pub size: u64,
    /// When it was changed, in seconds since the epoch.
    pub mtime: i64,
    /// What it links to, for people.
    pub link: String,
    /// What is odd about its name.
    pub name_issues: Vec<NameIssue>,
}

/// What a member's name should not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameIssue {
    /// It begins with a slash.
    Absolute,
    /// It has a component `..`.
    ParentComponent,
    /// It has been used by a member before.
    Duplicate,
    /// It is empty, not UTF-8, holds control characters, empty components or `.` in its middle, or is longer than a path may be.
    Malformed,
}

/// An engine's way to lay an archive out: which members stand beside CRIU's images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// containerd's, 2.2 and later.
    Containerd,
    /// CRI-O's.
    CriO,
    /// Podman's, as `podman container checkpoint --export` writes it.
    Podman,
}

impl Layout {
    /// All layouts.
    pub const ALL: [Layout; 3] = [Layout::Containerd, Layout::CriO, Layout::Podman];

    /// The engine's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Layout::Containerd => "containerd",
            Layout::CriO => "cri-o",
            Layout::Podman => "podman",
        }
    }

    /// That of the engine which the annotation `io.container.manager` names: as checkpointctl takes it, any other one is
    /// containerd's, which sets none.
    pub fn from_manager(manager: Option<&str>) -> Self {
        match manager {
            Some("cri-o") => Layout::CriO,
            Some("libpod") => Layout::Podman,
            _ => Layout::Containerd,
        }
    }
}

/// A checkpoint archive as it was read.
#[derive(Clone, Debug)]
pub struct InspectedArchive {
    /// What the file system says; `None` for a stream.
    pub file: Option<FileMetadata>,
    /// What it is.
    pub input: InputKind,
    /// How the tar ended.
    pub end: TarEnd,
    /// What stands behind its end; `None` where it has none.
    pub trailing_data: Option<TrailingData>,
    /// How the file is compressed, where it is. By gzip and zstd the tar within is what was read.
    pub compression: Option<Compression>,
    /// All members, in their order.
    pub members: Vec<Member>,
    /// The JSON documents.
    pub documents: Documents,
    /// CRIU's images.
    pub images: Images,
    /// The container's log and the member's name.
    pub container_log: Option<(String, LogStats)>,
    /// CRIU's log.
    pub dump_log: Option<LogStats>,
    /// What the first bytes of `rootfs-diff.tar` are.
    pub rootfs_diff: Option<NestedTar>,
    /// Where the expected memory was found; `None` when none was expected.
    pub memory: Option<Option<MatchPosition>>,
    /// Where secrets were found outside of memory and `spec.dump`; `None` when none were expected.
    pub secret_leaks: Option<Vec<MatchPosition>>,
    /// Whose layout is expected, where the caller said so.
    pub layout: Option<Layout>,
}

/// What a member begins with that is to be a tar, be it compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NestedTar {
    /// A tar, in this compression if in any.
    Tar(Option<Compression>),
    /// What is only recognised by its magic.
    Compressed(Compression),
    /// Anything else, in words.
    Other(String),
}

impl InspectedArchive {
    /// Whether the archive was read to its end, so that what was not seen is not there.
    pub fn is_complete(&self) -> bool {
        matches!(self.end, TarEnd::Marker | TarEnd::NoMarker)
    }

    /// Whose layout it is to have: as the caller said, else that of the engine which `spec.dump` names.
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

    /// The first member of this name, with or without a slash at its end.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| canonical_name(member.name.as_bytes()) == name.trim_end_matches('/').as_bytes())
    }

    /// Whether anything in it is CRIU's or of an engine that uses CRIU.
    pub fn is_criu(&self) -> bool {
        self.images.image_counts.values().any(|count| *count > 0)
            || !self.images.pages_file_bytes.is_empty()
            || ["config.dump", "spec.dump", "dump.log"]
                .iter()
                .any(|name| self.member(name).is_some())
    }
}

/// A name without what does not change its meaning: `./` at its beginning, slashes at its end.
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
