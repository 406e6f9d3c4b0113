//! The CRIU images of an archive, decoded while they are read, and reduced to what the cases need.
//!
//! The kept data is bounded, whatever the size of an image. Entries beyond the bound are still decoded and checked one
//! by one, but checks across images then report that they could not be made.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

use cri_proto::criu::{
    Decoder, Entries, FieldIssueKind, ImageError, Kind, Payload, Problem, inspect,
    message::{
        CoreEntry, FdinfoEntry, FileEntry, FsEntry, InventoryEntry, MemfdInodeEntry, MmEntry, PstreeEntry, StatsEntry,
        TaskKobjIdsEntry,
    },
};
use prost::Message;

use super::{
    compressed_blocks::{CompressedBlocks, Segment},
    open_files::{OpenFile, decode_single_kind, is_single_kind_image},
    pagemap::{PageRange, Pagemap},
};

const MAX_KEPT_BYTES: usize = 96 << 20;
/// The longest entry that is decoded at once, in bytes. During decoding an entry takes up to 24 times its length (a
/// list of empty strings), and lists grow by doubling.
const MAX_ENTRY_BYTES: usize = 8 << 20;
/// The longest `inventory.img` that is decoded. A real one has a few hundred bytes.
const MAX_INVENTORY_BYTES: usize = 64 << 10;

/// The number of problems whose text is kept. Further problems are only counted.
const MAX_KEPT_PROBLEMS: usize = 64;

/// A problem of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageProblem {
    /// The name of the member.
    pub member: String,
    /// The problem, with its position in the member.
    pub message: String,
}

/// Problems of one kind: the count, and the text of the first ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageProblems {
    /// The first problems.
    pub samples: Vec<ImageProblem>,
    /// The number of problems.
    pub count: usize,
}

impl ImageProblems {
    pub(crate) fn push(&mut self, member: &str, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.samples.len() < MAX_KEPT_PROBLEMS {
            self.samples.push(ImageProblem {
                member: member.to_owned(),
                message: text(),
            });
        }
    }

    fn truncate(&mut self, count: usize) {
        self.count = count;
        self.samples.truncate(count);
    }

    /// The first problems in one line.
    pub fn summary(&self) -> String {
        let messages: Vec<_> = self
            .samples
            .iter()
            .take(4)
            .map(|flaw| format!("{}: {}", flaw.member, flaw.message))
            .collect();
        let rest = self.count - messages.len();
        let suffix = if rest > 0 {
            format!("; and {rest} more")
        } else {
            String::new()
        };
        format!("{}{suffix}", messages.join("; "))
    }
}

/// The images of an archive.
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// The number of images by kind.
    pub image_counts: BTreeMap<Kind, usize>,
    /// The number of entries in all images.
    pub entry_count: u64,
    /// Images whose framing or messages cannot be decoded.
    pub undecodable: ImageProblems,
    /// Images without an entry that must have one.
    pub empty_images: ImageProblems,
    /// Missing required fields.
    pub missing_fields: ImageProblems,
    /// Fields and enum values that CRIU's messages do not define.
    pub unknown_fields: ImageProblems,
    /// Names in `checkpoint/` that end in `.img` and are no image names of CRIU.
    pub unknown_names: ImageProblems,
    /// The image at which the memory limit was reached. Later entries were checked, but not kept.
    pub limit_reached: Option<String>,
    /// `inventory.img`.
    pub inventory: Option<InventoryEntry>,
    /// `pstree.img`.
    pub pstree: Vec<PstreeEntry>,
    /// `core-TID.img`.
    pub cores: BTreeMap<u32, CoreEntry>,
    /// `mm-PID.img`.
    pub mms: BTreeMap<u32, MmEntry>,
    /// `ids-PID.img`.
    pub ids: BTreeMap<u32, TaskKobjIdsEntry>,
    /// `fs-PID.img`.
    pub fs: BTreeMap<u32, FsEntry>,
    /// `fdinfo-ID.img`, by the id of the fd table.
    pub fdinfo: BTreeMap<u32, Vec<FdinfoEntry>>,
    /// `files.img`; `None` if the image is missing.
    pub files: Option<Vec<OpenFile>>,
    /// `pagemap-PID.img`.
    pub pagemaps: BTreeMap<u32, Pagemap>,
    /// `pagemap-shmem-ID.img`.
    pub shared_pagemaps: BTreeMap<u32, Pagemap>,
    /// The shared memory ids in `memfd.img`. CRIU dumps shared anonymous memory as memfds where the kernel allows it.
    pub memfds: BTreeSet<u32>,
    /// The sizes of `pages-ID.img`, in bytes.
    pub pages_file_bytes: BTreeMap<u32, u64>,
    /// Compressed blocks of pages that cannot be decompressed.
    pub corrupt_blocks: ImageProblems,
    /// The ids of pages files that were read when no page map had declared them compressed yet.
    pub unread_pages: BTreeSet<u32>,
    /// Whether `cipher.img` exists: the images are encrypted.
    pub encrypted: bool,
    /// `stats-dump`.
    pub stats: Option<StatsEntry>,
    kept_bytes: usize,
}

/// The numbers of problems at one point of a read.
pub(crate) struct ProblemCounts([usize; 2]);

impl Images {
    /// Whether there is any image besides `stats-dump`.
    pub fn has_any(&self) -> bool {
        self.image_counts
            .iter()
            .any(|(kind, count)| *kind != Kind::Stats && *count > 0)
            || !self.pages_file_bytes.is_empty()
    }

    /// The numbers of those problems that a truncated tar also causes.
    pub(crate) fn problem_counts(&self) -> ProblemCounts {
        ProblemCounts([self.undecodable.count, self.empty_images.count])
    }

    /// Removes the problems found since [`Images::problem_counts`].
    pub(crate) fn roll_back(&mut self, ProblemCounts([undecodable, empty]): ProblemCounts) {
        self.undecodable.truncate(undecodable);
        self.empty_images.truncate(empty);
    }

    /// Reads one image. Returns only I/O errors; problems of the image are recorded.
    pub(crate) fn read<R: Read>(&mut self, name: &str, kind: Kind, id: Option<u64>, input: R) -> io::Result<()> {
        *self.image_counts.entry(kind).or_default() += 1;
        match self.read_entries(name, kind, id, input) {
            Ok(()) => Ok(()),
            Err(ImageError {
                problem: Problem::Io(error),
                ..
            }) => Err(error),
            Err(
                error @ ImageError {
                    problem: Problem::NoEntry,
                    ..
                },
            ) => {
                self.empty_images.push(name, || error.problem.to_string());
                Ok(())
            }
            Err(ImageError {
                offset: 0,
                problem: Problem::Truncated { available: 0, .. },
                ..
            }) => {
                self.empty_images.push(name, || "an empty file".to_owned());
                Ok(())
            }
            Err(error) => {
                let message = || format!("{} at byte {}", error.problem, error.offset);
                self.undecodable.push(name, message);
                Ok(())
            }
        }
    }

    fn read_entries<R: Read>(&mut self, name: &str, kind: Kind, id: Option<u64>, input: R) -> Result<(), ImageError> {
        let mut decoder = Decoder::open_as(name, kind, input)?;
        let id = id.and_then(|id| u32::try_from(id).ok());
        let shared = name.contains(cri_proto::criu::SHMEM_PAGEMAP_PREFIX);
        let mut index = 0;
        while let Some(entry) = decoder.entry()? {
            self.entry_count += 1;
            let intact = kind
                .message(index)
                .is_none_or(|message| self.report_problems(name, message, index, entry));
            if intact {
                self.keep_entry(name, kind, id, shared, index, entry);
            }
            if kind == Kind::Files || is_single_kind_image(kind) {
                self.files.get_or_insert_default();
            }
            let payload = Payload::after(kind, index, entry);
            index += 1;
            match payload {
                Ok(Payload::None) => {}
                Ok(Payload::Bytes(bytes)) => decoder.copy_payload(bytes, &mut io::sink())?,
                Ok(Payload::Rest) => drop(decoder.copy_rest(&mut io::sink())?),
                // The message is malformed, which is recorded already. The start of the next entry is unknown.
                Err(_) => return Ok(()),
            }
        }
        match kind {
            // A process may have no open files, and a container may have none at all.
            Kind::Fdinfo => drop(id.map(|id| self.fdinfo.entry(id).or_default())),
            Kind::Files => drop(self.files.get_or_insert_default()),
            _ => {}
        }
        let requires_entry = kind.entries() == Entries::One || matches!(kind, Kind::Pagemap | Kind::Pstree);
        if decoder.entries() == 0 && requires_entry {
            let (file, offset) = (name.to_owned(), decoder.offset());
            return Err(ImageError {
                file,
                offset,
                problem: Problem::NoEntry,
            });
        }
        Ok(())
    }

    /// Records problems that decoding would ignore, and returns whether the entry can be decoded.
    fn report_problems(&mut self, name: &str, message: &str, index: u64, entry: &[u8]) -> bool {
        let mut decodable = true;
        inspect(message, entry, |finding| {
            decodable &= !finding.kind.is_fatal();
            let problems = match finding.kind {
                FieldIssueKind::MissingRequired => &mut self.missing_fields,
                FieldIssueKind::Malformed(_) => &mut self.undecodable,
                FieldIssueKind::UnknownField(_) | FieldIssueKind::UnknownValue(_) => &mut self.unknown_fields,
            };
            problems.push(name, || format!("entry {index}: {finding}"));
        });
        decodable
    }

    fn keep_entry(&mut self, name: &str, kind: Kind, id: Option<u32>, shared: bool, index: u64, entry: &[u8]) {
        match (kind, id) {
            (Kind::Inventory, _) if entry.len() > MAX_INVENTORY_BYTES => {
                self.limit_reached.get_or_insert_with(|| name.to_owned());
            }
            (Kind::Inventory, _) => self.inventory = self.decode(name, entry),
            (Kind::Stats, _) if name == "stats-dump" => self.stats = self.decode(name, entry),
            (Kind::Pstree, _) => {
                let process = self.decode(name, entry);
                self.pstree.extend(process);
            }
            (Kind::Core, Some(id)) => {
                let core = self.decode(name, entry);
                self.cores.extend(core.map(|core| (id, core)));
            }
            (Kind::Mm, Some(id)) => {
                let mm = self.decode(name, entry);
                self.mms.extend(mm.map(|mm| (id, mm)));
            }
            (Kind::Ids, Some(id)) => {
                let ids = self.decode(name, entry);
                self.ids.extend(ids.map(|ids| (id, ids)));
            }
            (Kind::Fs, Some(id)) => {
                let fs = self.decode(name, entry);
                self.fs.extend(fs.map(|fs| (id, fs)));
            }
            (Kind::Fdinfo, Some(id)) => {
                let descriptor = self.decode(name, entry);
                self.fdinfo.entry(id).or_default().extend(descriptor);
            }
            (Kind::Files, _) => {
                let file = self.decode_transient(name, entry);
                self.keep_file(name, file.as_ref(), entry.len());
            }
            (kind, _) if is_single_kind_image(kind) => {
                let file = self
                    .reserve(name, OpenFile::memory_cost(entry.len()))
                    .then(|| decode_single_kind(kind, entry));
                self.keep_file(name, file.flatten().as_ref(), entry.len());
            }
            (Kind::MemfdInode, _) => {
                let inode: Option<MemfdInodeEntry> = self.decode(name, entry);
                self.memfds.extend(inode.map(|inode| inode.shmid));
            }
            (Kind::Pagemap, Some(id)) => self.add_pagemap_entry(name, id, shared, index, entry),
            _ => {}
        }
    }

    fn add_pagemap_entry(&mut self, name: &str, id: u32, shared: bool, index: u64, entry: &[u8]) {
        if index > 0 && entry.len() > MAX_ENTRY_BYTES {
            self.limit_reached.get_or_insert_with(|| name.to_owned());
            return;
        }
        let decoded = (index > 0)
            .then(|| cri_proto::criu::message::PagemapEntry::decode(entry).ok())
            .flatten();
        let cost = size_of::<PageRange>() + decoded.as_ref().map_or(0, CompressedBlocks::memory_cost);
        let affordable = self.reserve(name, cost);
        let maps = if shared {
            &mut self.shared_pagemaps
        } else {
            &mut self.pagemaps
        };
        if index == 0 {
            let head = cri_proto::criu::message::PagemapHead::decode(entry).ok();
            maps.extend(head.map(|head| (id, Pagemap::new(head.pages_id))));
        } else if let (Some(map), Some(entry)) = (maps.get_mut(&id), decoded) {
            map.add(&entry, affordable);
        }
    }

    fn keep_file(&mut self, name: &str, file: Option<&FileEntry>, bytes: usize) {
        if let Some(file) = file
            && self.reserve(name, OpenFile::memory_cost(bytes))
        {
            self.files.get_or_insert_default().push(OpenFile::new(file));
        }
    }

    /// The segments of a pages file, if its page map has been read and declares it compressed.
    pub(crate) fn segments_of(&self, pages_id: u32) -> Option<&[Segment]> {
        let mut maps = self.pagemaps.values().chain(self.shared_pagemaps.values());
        let map = maps.find(|map| map.pages_id == pages_id && map.compressed)?;
        Some(&map.segments)
    }

    /// The page maps with compressed pages, by the id of their pages file.
    pub(crate) fn compressed_pagemaps(&self) -> impl Iterator<Item = (u32, &Pagemap)> {
        let maps = self.pagemaps.values().chain(self.shared_pagemaps.values());
        maps.filter(|map| map.compressed).map(|map| (map.pages_id, map))
    }

    /// Decodes and keeps a message that was checked by `inspect`, if the memory limit allows it.
    fn decode<M: Message + Default>(&mut self, name: &str, entry: &[u8]) -> Option<M> {
        // The worst case of kept memory per byte of the image: a repeated integer takes one byte there and eight in
        // memory.
        self.reserve(name, size_of::<M>() + 8 * entry.len())
            .then(|| self.decode_transient(name, entry))
            .flatten()
    }

    /// Decodes a message that is not kept, unless it is too large to decode.
    fn decode_transient<M: Message + Default>(&mut self, name: &str, entry: &[u8]) -> Option<M> {
        if entry.len() > MAX_ENTRY_BYTES {
            self.limit_reached.get_or_insert_with(|| name.to_owned());
            return None;
        }
        M::decode(entry).ok()
    }

    fn reserve(&mut self, name: &str, bytes: usize) -> bool {
        if self.kept_bytes.saturating_add(bytes) > MAX_KEPT_BYTES {
            self.limit_reached.get_or_insert_with(|| name.to_owned());
            return false;
        }
        self.kept_bytes += bytes;
        true
    }
}
