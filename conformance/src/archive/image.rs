//! CRIU's images of an archive, decoded as they stream by, kept as what the cases need of them.
//!
//! What an image says is kept up to a bound of memory, whatever its size: entries beyond it are still decoded and
//! judged one by one, but cross-checks between images then say that they could not be made.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

use cri_proto::criu::{
    Decoder, Entries, FindingKind, ImageError, Kind, Payload, Problem, inspect,
    message::{
        CoreEntry, FdinfoEntry, FileEntry, FsEntry, InventoryEntry, MemfdInodeEntry, MmEntry, PstreeEntry, StatsEntry,
        TaskKobjIdsEntry,
    },
};
use prost::Message;

use super::{
    blocks::{Blocks, Segment},
    files::{OpenFile, is_files_of_one_kind, of_one_kind},
    pagemap::{Pagemap, Run},
};

/// How much memory decoded images may take, in bytes.
const KEPT: usize = 96 << 20;
/// The longest entry that is decoded whole, in bytes: while it is decoded it takes up to 24 times as much (a list of empty
/// strings), and lists grow by doubling.
const DECODED: usize = 8 << 20;
/// The longest `inventory.img` that is decoded: a real one has some hundred bytes.
const INVENTORY_BYTES: usize = 64 << 10;

/// How many flaws are kept in words; the others are counted.
const FLAWS: usize = 64;

/// Something wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The member.
    pub member: String,
    /// What is wrong, with its place in the member.
    pub text: String,
}

/// Flaws of one kind: the first ones in words, all of them counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// The first ones.
    pub first: Vec<Flaw>,
    /// How many there are.
    pub count: usize,
}

impl Flaws {
    pub(crate) fn push(&mut self, member: &str, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < FLAWS {
            self.first.push(Flaw {
                member: member.to_owned(),
                text: text(),
            });
        }
    }

    fn truncate(&mut self, count: usize) {
        self.count = count;
        self.first.truncate(count);
    }

    /// The first few in one line.
    pub fn summary(&self) -> String {
        let shown: Vec<_> = self
            .first
            .iter()
            .take(4)
            .map(|flaw| format!("{}: {}", flaw.member, flaw.text))
            .collect();
        let rest = self.count - shown.len();
        let more = if rest > 0 {
            format!("; and {rest} more")
        } else {
            String::new()
        };
        format!("{}{more}", shown.join("; "))
    }
}

/// What the images of an archive say.
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// How many images there are, by kind.
    pub count: BTreeMap<Kind, usize>,
    /// Entries read in all of them.
    pub entries: u64,
    /// Images whose framing or messages cannot be read.
    pub undecodable: Flaws,
    /// Images without an entry where one has to be.
    pub empty: Flaws,
    /// Required fields that are missing.
    pub missing: Flaws,
    /// Fields and enum values that CRIU's messages do not have.
    pub unknown: Flaws,
    /// Names in `checkpoint/` that end as images do and are none of CRIU's.
    pub unnamed: Flaws,
    /// Set where the bound of memory was reached: what follows was judged entry by entry, but not kept.
    pub beyond_bound: Option<String>,
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
    /// `fdinfo-ID.img`, by the id of the table.
    pub fdinfo: BTreeMap<u32, Vec<FdinfoEntry>>,
    /// `files.img`; `None` where there is no such image.
    pub files: Option<Vec<OpenFile>>,
    /// `pagemap-PID.img`.
    pub pagemaps: BTreeMap<u32, Pagemap>,
    /// `pagemap-shmem-ID.img`.
    pub shared_pagemaps: BTreeMap<u32, Pagemap>,
    /// The ids of shared memory that `memfd.img` names: CRIU dumps shared anonymous memory so where the kernel lets it.
    pub memfds: BTreeSet<u32>,
    /// Sizes of `pages-ID.img` in bytes.
    pub pages: BTreeMap<u32, u64>,
    /// Blocks of compressed pages that do not decompress.
    pub undecompressed: Flaws,
    /// Files of pages that were passed before the page map said that they are compressed.
    pub unread_pages: BTreeSet<u32>,
    /// `cipher.img` is there: the images are encrypted.
    pub encrypted: bool,
    /// `stats-dump`.
    pub stats: Option<StatsEntry>,
    kept: usize,
}

/// The counts of flaws at a moment.
pub(crate) struct Before([usize; 2]);

impl Images {
    /// Whether there is any image beside the statistics.
    pub fn has_any(&self) -> bool {
        self.count
            .iter()
            .any(|(kind, count)| *kind != Kind::Stats && *count > 0)
            || !self.pages.is_empty()
    }

    /// How many flaws there are that a cut tar makes.
    pub(crate) fn flaws(&self) -> Before {
        Before([self.undecodable.count, self.empty.count])
    }

    /// Forgets the flaws found since then.
    pub(crate) fn forget(&mut self, Before([undecodable, empty]): Before) {
        self.undecodable.truncate(undecodable);
        self.empty.truncate(empty);
    }

    /// Reads one image. An error is one of reading, not of the image.
    pub(crate) fn read<R: Read>(&mut self, name: &str, kind: Kind, id: Option<u64>, input: R) -> io::Result<()> {
        *self.count.entry(kind).or_default() += 1;
        match self.entries_of(name, kind, id, input) {
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
                self.empty.push(name, || error.problem.to_string());
                Ok(())
            }
            Err(ImageError {
                offset: 0,
                problem: Problem::Truncated { found: 0, .. },
                ..
            }) => {
                self.empty.push(name, || "a file of no bytes".to_owned());
                Ok(())
            }
            Err(error) => {
                let text = || format!("{} at byte {}", error.problem, error.offset);
                self.undecodable.push(name, text);
                Ok(())
            }
        }
    }

    fn entries_of<R: Read>(&mut self, name: &str, kind: Kind, id: Option<u64>, input: R) -> Result<(), ImageError> {
        let mut decoder = Decoder::expect(name, kind, input)?;
        let id = id.and_then(|id| u32::try_from(id).ok());
        let shared = name.contains("pagemap-shmem-");
        let mut index = 0;
        while let Some(entry) = decoder.entry()? {
            self.entries += 1;
            let intact = kind
                .message(index)
                .is_none_or(|message| self.inspect(name, message, index, entry));
            if intact {
                self.keep(name, kind, id, shared, index, entry);
            }
            if kind == Kind::Files || is_files_of_one_kind(kind) {
                self.files.get_or_insert_default();
            }
            let payload = Payload::after(kind, index, entry);
            index += 1;
            match payload {
                Ok(Payload::None) => {}
                Ok(Payload::Bytes(bytes)) => decoder.payload(bytes, &mut io::sink())?,
                Ok(Payload::Rest) => drop(decoder.rest(&mut io::sink())?),
                // The message is malformed, as was said already; where the next entry begins cannot be known.
                Err(_) => return Ok(()),
            }
        }
        match kind {
            // A process may have no open file, and no file may be open at all.
            Kind::Fdinfo => drop(id.map(|id| self.fdinfo.entry(id).or_default())),
            Kind::Files => drop(self.files.get_or_insert_default()),
            _ => {}
        }
        let needs_one = kind.entries() == Entries::One || matches!(kind, Kind::Pagemap | Kind::Pstree);
        if decoder.entries() == 0 && needs_one {
            let (file, offset) = (name.to_owned(), decoder.offset());
            return Err(ImageError {
                file,
                offset,
                problem: Problem::NoEntry,
            });
        }
        Ok(())
    }

    /// Reports what decoding would hide, and says whether the entry can be decoded.
    fn inspect(&mut self, name: &str, message: &str, index: u64, entry: &[u8]) -> bool {
        let mut intact = true;
        inspect(message, entry, |finding| {
            intact &= !finding.kind.is_fatal();
            let flaws = match finding.kind {
                FindingKind::MissingRequired => &mut self.missing,
                FindingKind::Malformed(_) => &mut self.undecodable,
                FindingKind::UnknownField(_) | FindingKind::UnknownValue(_) => &mut self.unknown,
            };
            flaws.push(name, || format!("entry {index}: {finding}"));
        });
        intact
    }

    fn keep(&mut self, name: &str, kind: Kind, id: Option<u32>, shared: bool, index: u64, entry: &[u8]) {
        match (kind, id) {
            (Kind::Inventory, _) if entry.len() > INVENTORY_BYTES => {
                self.beyond_bound.get_or_insert_with(|| name.to_owned());
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
                let file = self.decode_briefly(name, entry);
                self.keep_file(name, file.as_ref(), entry.len());
            }
            (kind, _) if is_files_of_one_kind(kind) => {
                let file = self
                    .afford(name, OpenFile::cost(entry.len()))
                    .then(|| of_one_kind(kind, entry));
                self.keep_file(name, file.flatten().as_ref(), entry.len());
            }
            (Kind::MemfdInode, _) => {
                let inode: Option<MemfdInodeEntry> = self.decode(name, entry);
                self.memfds.extend(inode.map(|inode| inode.shmid));
            }
            (Kind::Pagemap, Some(id)) => self.page_map(name, id, shared, index, entry),
            _ => {}
        }
    }

    fn page_map(&mut self, name: &str, id: u32, shared: bool, index: u64, entry: &[u8]) {
        if index > 0 && entry.len() > DECODED {
            self.beyond_bound.get_or_insert_with(|| name.to_owned());
            return;
        }
        let decoded = (index > 0)
            .then(|| cri_proto::criu::message::PagemapEntry::decode(entry).ok())
            .flatten();
        let cost = size_of::<Run>() + decoded.as_ref().map_or(0, Blocks::cost);
        let affordable = self.afford(name, cost);
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

    /// Keeps what the cases need of an entry of so many bytes.
    fn keep_file(&mut self, name: &str, file: Option<&FileEntry>, bytes: usize) {
        if let Some(file) = file
            && self.afford(name, OpenFile::cost(bytes))
        {
            self.files.get_or_insert_default().push(OpenFile::new(file));
        }
    }

    /// How the pages of this file stand in it, where its page map was read already and says that they are compressed.
    pub(crate) fn stored(&self, pages_id: u32) -> Option<&[Segment]> {
        let mut maps = self.pagemaps.values().chain(self.shared_pagemaps.values());
        let map = maps.find(|map| map.pages_id == pages_id && map.compressed)?;
        Some(&map.stored)
    }

    /// The ids of files of pages that are compressed, with how they stand in them.
    pub(crate) fn compressed(&self) -> impl Iterator<Item = (u32, &Pagemap)> {
        let maps = self.pagemaps.values().chain(self.shared_pagemaps.values());
        maps.filter(|map| map.compressed).map(|map| (map.pages_id, map))
    }

    /// Decodes a message that an inspection found whole, as long as there is room for it.
    fn decode<M: Message + Default>(&mut self, name: &str, entry: &[u8]) -> Option<M> {
        // A repeated number of one byte on the wire takes eight in memory, a mapping less than that.
        self.afford(name, size_of::<M>() + 8 * entry.len())
            .then(|| self.decode_briefly(name, entry))
            .flatten()
    }

    /// Decodes a message that is not kept, unless that would take too much memory for a moment.
    fn decode_briefly<M: Message + Default>(&mut self, name: &str, entry: &[u8]) -> Option<M> {
        if entry.len() > DECODED {
            self.beyond_bound.get_or_insert_with(|| name.to_owned());
            return None;
        }
        M::decode(entry).ok()
    }

    fn afford(&mut self, name: &str, bytes: usize) -> bool {
        if self.kept.saturating_add(bytes) > KEPT {
            self.beyond_bound.get_or_insert_with(|| name.to_owned());
            return false;
        }
        self.kept += bytes;
        true
    }
}
