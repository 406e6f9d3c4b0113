//! Reads a checkpoint archive, from any runtime, into what the cases of the archive suite judge.
//!
//! ```text
//!  file or stream -> source -> walk (headers) -+-> documents   (bounded JSON)
//!                                              +-> images      (CRIU's, entry by entry)
//!                                              +-> pages       (their size, and a search through them)
//!                                              +-> log         (line by line)
//!                                              '-> passed over
//!                                                        all of it -> Inspected
//! ```
//!
//! An archive is hostile input: it is read once, nothing is extracted, no name in it is ever used as a path, and memory
//! stays bounded whatever it says (bounds in [`Limits`], [`documents`], [`image`] and [`extension`]).
//!
//! Ways to fail: [`InspectError`] alone, when the file cannot be opened or read. Whatever is wrong with the archive
//! itself is part of what was [`Inspected`].

mod documents;
mod extension;
mod files;
mod header;
mod image;
mod log;
mod pagemap;
mod search;
mod source;
mod walk;

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    hash::{BuildHasher as _, RandomState},
    io::{self, Read},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use cri_proto::{
    criu::ImageFile,
    document::{CONTAINER_LOG, CRIO_LOG, DUMP_LOG, ROOTFS_DIFF, SPEC_DUMP},
};
use thiserror::Error;

pub use self::{
    documents::{Document, Documents},
    files::OpenFile,
    image::{Flaw, Flaws, Images},
    log::LogFacts,
    pagemap::{Pagemap, Run},
    search::Found,
    walk::{Break, Compression, End, Kind, Tail},
};
use self::{
    search::Search,
    source::Source,
    walk::{Entry, Step, Walk},
};

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
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 16 << 40,
            members: 1 << 16,
            names: 16 << 20,
        }
    }
}

/// What the caller knows of the container, and the archive must show or hide.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Bytes that are in the memory of the container, and nowhere else.
    pub memory: Option<Vec<u8>>,
    /// Values that may stand in the memory and in `spec.dump` (the environment does), and nowhere else.
    pub secrets: Vec<Vec<u8>>,
}

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

/// A checkpoint archive as it was read.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What the file system says; `None` for a stream.
    pub file: Option<FileFacts>,
    /// How the tar ended.
    pub end: End,
    /// What stands behind its end; `None` where it has none.
    pub tail: Option<Tail>,
    /// What the file is, where it is a compressed one.
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
    /// The first bytes of `rootfs-diff.tar`.
    pub rootfs_diff: Option<Vec<u8>>,
    /// Where the expected memory was found; `None` when none was expected.
    pub memory: Option<Option<Found>>,
    /// Where secrets were found outside of memory and `spec.dump`; `None` when none were expected.
    pub leaks: Option<Vec<Found>>,
}

impl Inspected {
    /// Whether the archive was read to its end, so that what was not seen is not there.
    pub fn is_complete(&self) -> bool {
        matches!(self.end, End::Marker | End::NoMarker)
    }

    /// The first member of this name, with or without a slash at its end.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| canonical(member.name.as_bytes()) == name.trim_end_matches('/').as_bytes())
    }

    /// Whether anything in it is CRIU's or of an engine that uses CRIU. Another engine's format is its own affair.
    pub fn is_criu(&self) -> bool {
        self.images.count.values().any(|count| *count > 0)
            || !self.images.pages.is_empty()
            || ["config.dump", "spec.dump", "dump.log"]
                .iter()
                .any(|name| self.member(name).is_some())
    }
}

/// Reads the archive at `path`.
///
/// # Errors
/// When the file cannot be opened or read, or is no regular file. What is wrong with the archive is no error.
pub fn inspect_file(path: &Path, expected: &Expected, limits: Limits) -> Result<Inspected, InspectError> {
    let opening = |source| InspectError::Open {
        path: path.to_owned(),
        source,
    };
    let symlink = path.symlink_metadata().map_err(opening)?.is_symlink();
    // Opening a FIFO waits for its writer unless it is told not to.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path);
    let file: File = file.map_err(opening)?;
    let facts = file.metadata().map_err(opening)?;
    if !facts.is_file() {
        let kind = match facts.file_type() {
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
    let facts = FileFacts {
        path: path.to_owned(),
        mode: facts.mode() & 0o7777,
        uid: facts.uid(),
        gid: facts.gid(),
        bytes: facts.len(),
        names: facts.nlink(),
        symlink,
    };
    let source = Source::file(file, limits.bytes)?;
    Inspector::new(expected, limits).run(source, Some(facts))
}

/// Reads an archive from a stream.
///
/// # Errors
/// When reading fails. What is wrong with the archive is no error.
pub fn inspect_stream(stream: impl Read, expected: &Expected, limits: Limits) -> Result<Inspected, InspectError> {
    Inspector::new(expected, limits).run(Source::new(stream, limits.bytes), None)
}

/// Says where in the archive's pages `needle` stands: the first place.
///
/// # Errors
/// As [`inspect_file`]. An archive that cannot be read to its end is searched as far as it can.
pub fn find_in_pages(path: &Path, needle: &[u8]) -> Result<Option<Found>, InspectError> {
    let expected = Expected {
        memory: Some(needle.to_owned()),
        ..Expected::default()
    };
    Ok(inspect_file(path, &expected, Limits::default())?.memory.flatten())
}

/// A name without what does not change its meaning: `./` at its beginning, slashes at its end.
fn canonical(name: &[u8]) -> &[u8] {
    let mut name = name;
    while let Some(rest) = name.strip_prefix(b"./") {
        name = rest;
    }
    while let Some(rest) = name.strip_suffix(b"/") {
        name = rest;
    }
    name
}

struct Inspector {
    limits: Limits,
    memory: Option<Search>,
    secrets: Vec<Search>,
    /// Hashes of the names seen so far: names themselves may be long.
    seen: HashSet<u64>,
    hasher: RandomState,
    names: usize,
}

impl Inspector {
    fn new(expected: &Expected, limits: Limits) -> Self {
        Self {
            limits,
            memory: expected.memory.as_deref().map(Search::new),
            secrets: expected.secrets.iter().map(|secret| Search::new(secret)).collect(),
            seen: HashSet::new(),
            hasher: RandomState::new(),
            names: 0,
        }
    }

    fn run(mut self, source: Source<'_>, file: Option<FileFacts>) -> Result<Inspected, InspectError> {
        let mut walk = Walk::new(source);
        let mut inspected = Inspected {
            file,
            end: End::Empty,
            tail: None,
            compression: None,
            members: Vec::new(),
            documents: Documents::default(),
            images: Images::default(),
            container_log: None,
            dump_log: None,
            rootfs_diff: None,
            memory: None,
            leaks: None,
        };
        inspected.end = loop {
            let entry = match walk.next()? {
                Step::On(entry) => entry,
                Step::Ended(end) => break end,
            };
            self.names += entry.name.len() + entry.link.len();
            if inspected.members.len() >= self.limits.members || self.names > self.limits.names {
                let bound = format!("{} members with {} bytes of names", inspected.members.len(), self.names);
                break End::Bound {
                    offset: entry.offset,
                    bound,
                };
            }
            let member = self.member(&entry);
            // A second member of a name is judged by its being there; what it holds would hide the first.
            let duplicate = member.oddities.contains(&Oddity::Duplicate);
            inspected.members.push(member);
            if entry.kind == Kind::File && !duplicate {
                self.content(&mut walk, &entry, &mut inspected)?;
            }
        };
        if inspected.end == End::Marker {
            inspected.tail = Some(walk.tail()?);
        }
        inspected.compression = walk.compression();
        inspected.memory = self.memory.map(|search| search.first().cloned());
        if !self.secrets.is_empty() {
            inspected.leaks = Some(
                self.secrets
                    .iter()
                    .filter_map(|search| search.first().cloned())
                    .collect(),
            );
        }
        Ok(inspected)
    }

    fn member(&mut self, entry: &Entry) -> Member {
        let name = canonical(&entry.name);
        let mut oddities = Vec::new();
        let components = || name.split(|byte| *byte == b'/');
        if entry.name.starts_with(b"/") {
            oddities.push(Oddity::Absolute);
        }
        if components().any(|component| component == b"..") {
            oddities.push(Oddity::Parent);
        }
        if !self.seen.insert(self.hasher.hash_one(name)) {
            oddities.push(Oddity::Duplicate);
        }
        let odd_component = components().skip(usize::from(entry.name.starts_with(b"/")));
        let odd_component = odd_component
            .into_iter()
            .any(|component| matches!(component, b"" | b"."));
        let control = name.iter().any(|byte| byte.is_ascii_control());
        // `./` alone, for the archive's root, is what tar writes of a whole directory.
        let root = matches!(entry.name.as_slice(), b"." | b"./");
        let long = name.len() > nix::libc::PATH_MAX as usize || components().any(|component| component.len() > 255);
        if !root && (odd_component || control || long || std::str::from_utf8(name).is_err()) {
            oddities.push(Oddity::Unclean);
        }
        Member {
            name: walk::display(&entry.name),
            offset: entry.offset,
            kind: entry.kind,
            mode: entry.mode & 0o7777,
            size: entry.size,
            mtime: entry.mtime,
            link: walk::display(&entry.link),
            oddities,
        }
    }

    /// Reads a member's content as far as anything is to be learned from it.
    fn content(&mut self, walk: &mut Walk<'_>, entry: &Entry, inspected: &mut Inspected) -> io::Result<()> {
        let Ok(name) = std::str::from_utf8(canonical(&entry.name)) else {
            return Ok(());
        };
        let image = match name {
            "stats-dump" => ImageFile::from_name(name),
            _ => name
                .strip_prefix("checkpoint/")
                .filter(|name| !name.contains('/'))
                .and_then(ImageFile::from_name),
        };
        let is_pages = matches!(image, Some(ImageFile::Pages(_)));
        // What may hold secrets is not searched for them.
        let exempt =
            is_pages || name == SPEC_DUMP || matches!(image, Some(ImageFile::Image(kind, _)) if holds_memory(kind));
        let mut payload = Payload {
            walk,
            name,
            memory: self.memory.as_mut().filter(|_| is_pages),
            secrets: if exempt { &mut [] } else { &mut self.secrets },
            cut: false,
        };
        payload.begin();
        match image {
            Some(ImageFile::Pages(id)) => drop(inspected.images.pages.insert(id, entry.size)),
            Some(ImageFile::Image(kind, id)) => {
                let before = inspected.images.flaws();
                let file = name.rsplit('/').next().unwrap_or(name);
                inspected.images.read(file, kind, id, &mut payload)?;
                if payload.cut {
                    // It is the tar that is cut, not the image that is wrong.
                    inspected.images.forget(before);
                }
            }
            Some(ImageFile::Foreign) => {}
            None if documents::NAMES.contains(&name) => {
                let content = payload.document(entry.size)?;
                if !payload.cut {
                    inspected.documents.take(name, content.as_deref());
                }
            }
            None if name == CONTAINER_LOG || name == CRIO_LOG => {
                inspected.container_log = Some((name.to_owned(), payload.log()?));
            }
            None if name == DUMP_LOG => inspected.dump_log = Some(payload.log()?),
            None if name == ROOTFS_DIFF => {
                let mut first = [0; 512];
                let read = payload.walk.payload(&mut first)?;
                inspected.rootfs_diff = Some(first[..read].to_vec());
            }
            None => {
                if let Some(name) = name.strip_prefix("checkpoint/").filter(|name| name.ends_with(".img")) {
                    inspected
                        .images
                        .unnamed
                        .push(name, || "no image of CRIU has this name".to_owned());
                }
            }
        }
        payload.rest()
    }
}

/// Whether an image holds what processes sent, wrote or were given, beside the pages.
fn holds_memory(kind: cri_proto::criu::Kind) -> bool {
    use cri_proto::criu::Kind as Image;
    matches!(
        kind,
        Image::PipesData
            | Image::FifoData
            | Image::SkQueues
            | Image::TcpStream
            | Image::GhostFile
            | Image::TtyData
            | Image::IpcnsShm
            | Image::IpcnsMsg
    )
}

/// The content of one member, searched as it is read.
struct Payload<'w, 's> {
    walk: &'w mut Walk<'s>,
    name: &'w str,
    memory: Option<&'w mut Search>,
    secrets: &'w mut [Search],
    /// The tar ended before the member did.
    cut: bool,
}

impl Payload<'_, '_> {
    fn searches(&mut self) -> impl Iterator<Item = &mut Search> {
        self.memory
            .iter_mut()
            .map(|search| &mut **search)
            .chain(self.secrets.iter_mut())
    }

    fn begin(&mut self) {
        self.searches().for_each(Search::begin);
    }

    /// Reads what is left if anything is looked for in it; else it is passed over by the walk.
    fn rest(&mut self) -> io::Result<()> {
        if self.searches().next().is_some() {
            let mut buffer = vec![0; 1 << 20];
            while self.read(&mut buffer)? > 0 {}
        }
        Ok(())
    }

    /// The whole content, `None` if it is too large for a document.
    fn document(&mut self, size: u64) -> io::Result<Option<Vec<u8>>> {
        if size > documents::LARGEST {
            return Ok(None);
        }
        let mut content = Vec::new();
        self.read_to_end(&mut content)?;
        Ok(Some(content))
    }

    fn log(&mut self) -> io::Result<LogFacts> {
        let mut facts = LogFacts::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = self.read(&mut buffer)?;
            if read == 0 {
                return Ok(facts);
            }
            facts.feed(&buffer[..read]);
        }
    }
}

impl Read for Payload<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.walk.payload(buffer)?;
        self.cut |= read == 0 && !buffer.is_empty() && self.walk.left() > 0;
        let name = self.name;
        self.searches().for_each(|search| search.feed(name, &buffer[..read]));
        Ok(read)
    }
}
