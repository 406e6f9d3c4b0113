//! Goes through an archive and hands each member to what can read it.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    io,
};

use cri_proto::{
    criu::{ImageFile, Kind as Image},
    document::{CONTAINER_LOG, CRIO_LOG, DUMP_LOG, PODMAN_LOG, ROOTFS_DIFF, SPEC_DUMP},
};

use super::{
    Expected, InspectError, Limits,
    blocks::{self, Segment},
    documents::{self, Documents},
    image::Images,
    input::{Clues, Input},
    model::{FileFacts, Inspected, Layout, Member, Oddity, canonical},
    payload::Payload,
    search::Search,
    source::Source,
    walk::{self, End, Entry, Kind, Step, Walk},
};

pub(super) struct Inspector {
    limits: Limits,
    memory: Option<Search>,
    secrets: Vec<Search>,
    /// Hashes of the names seen so far: names themselves may be long.
    seen: HashSet<u64>,
    hasher: RandomState,
    names: usize,
    layout: Option<Layout>,
    /// How compressed pages stand in their files, from an earlier reading.
    stored: BTreeMap<u32, Vec<Segment>>,
    clues: Clues,
}

/// How many secrets are looked for at most: each costs a search through all members.
const SECRETS: usize = 64;

impl Inspector {
    pub(super) fn new(expected: &Expected, limits: Limits) -> Self {
        Self {
            limits,
            memory: expected.memory.as_deref().map(Search::new),
            secrets: expected
                .secrets
                .iter()
                .take(SECRETS)
                .map(|secret| Search::new(secret))
                .collect(),
            seen: HashSet::new(),
            hasher: RandomState::new(),
            names: 0,
            layout: expected.layout,
            stored: BTreeMap::new(),
            clues: Clues::default(),
        }
    }

    /// With how compressed pages stand in their files: what an earlier reading met only behind them.
    pub(super) fn with_stored(mut self, stored: BTreeMap<u32, Vec<Segment>>) -> Self {
        self.stored = stored;
        self
    }

    pub(super) fn run(mut self, source: Source<'_>, file: Option<FileFacts>) -> Result<Inspected, InspectError> {
        let compression = source.compression();
        let mut walk = Walk::new(source);
        let mut inspected = Inspected {
            file,
            input: Input::Unread,
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
            layout: self.layout,
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
            self.clues.see(canonical(&entry.name));
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
        inspected.compression = compression.or_else(|| walk::Compression::of(walk.first()));
        inspected.input = Input::of(&inspected, walk.first(), &self.clues);
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
            Some(ImageFile::Pages(id)) => {
                inspected.images.pages.insert(id, entry.size);
                let known = self.stored.get(&id).map(Vec::as_slice);
                match known.or_else(|| inspected.images.stored(id)) {
                    Some(stored) => {
                        let mut search = payload.memory.take();
                        let flaw = blocks::decompress(&mut payload, stored, |pages| {
                            search.iter_mut().for_each(|search| search.feed(name, pages));
                        })?;
                        if let Some(flaw) = flaw {
                            inspected.images.undecompressed.push(name, || flaw);
                        }
                    }
                    None => drop(inspected.images.unread_pages.insert(id)),
                }
            }
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
            None if name == CONTAINER_LOG || name == CRIO_LOG || name == PODMAN_LOG => {
                inspected.container_log = Some((name.to_owned(), payload.log()?));
            }
            None if name == DUMP_LOG => inspected.dump_log = Some(payload.log()?),
            None if name == ROOTFS_DIFF => inspected.rootfs_diff = Some(payload.nested()?),
            None if name == CIPHER => inspected.images.encrypted = true,
            None if self.clues.wants(name, entry.size) => {
                let content = payload.document(entry.size)?.unwrap_or_default();
                self.clues.read(&content);
            }
            None => {
                if let Some(name) = name
                    .strip_prefix("checkpoint/")
                    .filter(|name| name.ends_with(".img") && !name.contains('/'))
                {
                    inspected.images.unnamed.push(name, || unnamed(name).to_owned());
                }
            }
        }
        payload.rest()
    }
}

/// The keys of encrypted images (checkpoint-restore/criu#2297).
const CIPHER: &str = "checkpoint/cipher.img";

/// What is to be said of an image that CRIU does not name so.
fn unnamed(name: &str) -> &'static str {
    if name.starts_with("pages-") && name.ends_with(".comp.img") {
        "pages that CRaC's CRIU compressed, which no other one reads"
    } else {
        "no image of CRIU has this name"
    }
}

/// Whether an image holds what processes sent, wrote or were given, beside the pages.
fn holds_memory(kind: Image) -> bool {
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
