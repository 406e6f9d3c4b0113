//! Goes through an archive and hands each member to what can read it.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    io,
};

use cri_proto::{
    criu::{ImageFile, Kind as Image},
    document::{CONTAINER_LOG, CRIO_LOG, DUMP_LOG, ROOTFS_DIFF, SPEC_DUMP},
};

use super::{
    Expected, InspectError, Limits,
    documents::{self, Documents},
    image::Images,
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
}

impl Inspector {
    pub(super) fn new(expected: &Expected, limits: Limits) -> Self {
        Self {
            limits,
            memory: expected.memory.as_deref().map(Search::new),
            secrets: expected.secrets.iter().map(|secret| Search::new(secret)).collect(),
            seen: HashSet::new(),
            hasher: RandomState::new(),
            names: 0,
            layout: expected.layout,
        }
    }

    pub(super) fn run(mut self, source: Source<'_>, file: Option<FileFacts>) -> Result<Inspected, InspectError> {
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
                if let Some(name) = name
                    .strip_prefix("checkpoint/")
                    .filter(|name| name.ends_with(".img") && !name.contains('/'))
                {
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
