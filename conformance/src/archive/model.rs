//! What is known of an archive after it was read.

use std::path::PathBuf;

use super::{
    documents::Documents,
    image::Images,
    input::Input,
    log::LogFacts,
    search::Found,
    walk::{Compression, End, Kind, Tail},
};

/// What the file system says of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
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
    pub names: u64,
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
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Its size in bytes.
    pub size: u64,
    /// When it was changed, in seconds since the epoch.
    pub mtime: i64,
    /// What it links to, for people.
    pub link: String,
    /// What is odd about its name.
    pub oddities: Vec<Oddity>,
}

/// What a member's name should not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Oddity {
    /// It begins with a slash.
    Absolute,
    /// It has a component `..`.
    Parent,
    /// It has been used by a member before.
    Duplicate,
    /// It is empty, not UTF-8, holds control characters, empty components or `.` in its middle, or is longer than a path may be.
    Unclean,
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
    pub fn of_manager(manager: Option<&str>) -> Self {
        match manager {
            Some("cri-o") => Layout::CriO,
            Some("libpod") => Layout::Podman,
            _ => Layout::Containerd,
        }
    }
}

/// A checkpoint archive as it was read.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What the file system says; `None` for a stream.
    pub file: Option<FileFacts>,
    /// What it is.
    pub input: Input,
    /// How the tar ended.
    pub end: End,
    /// What stands behind its end; `None` where it has none.
    pub tail: Option<Tail>,
    /// How the file is compressed, where it is. By gzip and zstd the tar within is what was read.
    pub compression: Option<Compression>,
    /// All members, in their order.
    pub members: Vec<Member>,
    /// The JSON documents.
    pub documents: Documents,
    /// CRIU's images.
    pub images: Images,
    /// The container's log and the member's name.
    pub container_log: Option<(String, LogFacts)>,
    /// CRIU's log.
    pub dump_log: Option<LogFacts>,
    /// What the first bytes of `rootfs-diff.tar` are.
    pub rootfs_diff: Option<Nested>,
    /// Where the expected memory was found; `None` when none was expected.
    pub memory: Option<Option<Found>>,
    /// Where secrets were found outside of memory and `spec.dump`; `None` when none were expected.
    pub leaks: Option<Vec<Found>>,
    /// Whose layout is expected, where the caller said so.
    pub layout: Option<Layout>,
}

/// What a member begins with that is to be a tar, be it compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nested {
    /// A tar, in this compression if in any.
    Tar(Option<Compression>),
    /// What is only recognised by its magic.
    Compressed(Compression),
    /// Anything else, in words.
    Other(String),
}

impl Inspected {
    /// Whether the archive was read to its end, so that what was not seen is not there.
    pub fn is_complete(&self) -> bool {
        matches!(self.end, End::Marker | End::NoMarker)
    }

    /// Whose layout it is to have: as the caller said, else that of the engine which `spec.dump` names.
    pub fn expected_layout(&self) -> Layout {
        let annotations = self.documents.spec.read().and_then(|spec| spec.annotations().as_ref());
        let manager = annotations.and_then(|annotations| annotations.get("io.container.manager"));
        self.layout
            .unwrap_or_else(|| Layout::of_manager(manager.map(String::as_str)))
    }

    /// The first member of this name, with or without a slash at its end.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| canonical(member.name.as_bytes()) == name.trim_end_matches('/').as_bytes())
    }

    /// Whether anything in it is CRIU's or of an engine that uses CRIU.
    pub fn is_criu(&self) -> bool {
        self.images.count.values().any(|count| *count > 0)
            || !self.images.pages.is_empty()
            || ["config.dump", "spec.dump", "dump.log"]
                .iter()
                .any(|name| self.member(name).is_some())
    }
}

/// A name without what does not change its meaning: `./` at its beginning, slashes at its end.
pub(super) fn canonical(name: &[u8]) -> &[u8] {
    let mut name = name;
    while let Some(rest) = name.strip_prefix(b"./") {
        name = rest;
    }
    while let Some(rest) = name.strip_suffix(b"/") {
        name = rest;
    }
    name
}
