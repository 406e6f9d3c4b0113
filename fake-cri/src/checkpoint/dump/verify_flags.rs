//! Flags of mappings that were foreseen, and are looked at in the copy once it was read.
//!
//! For `VmFlags` the kernel walks all pages of a mapping, which takes about as long as a fork. What the prescan told of them goes
//! into the image; the copy is asked when it has let its pages go, and its word counts.

use std::{io, ops::Range};

use cri_proto::criu::{Kind, encode, message::MmEntry};

use super::{CriuImage, unsupported, vma::set_flags};
use crate::{
    checkpoint::{dump_log::DumpLog, error::Error},
    process::proc_files::{self, Mapping},
};

/// What is worth being let go of before the copy is asked, in bytes.
const MIN_DISCARD_BYTES: u64 = 16 << 20;

/// An `mm-PID.img`, and the mappings in it whose flags only the prescan told of.
#[derive(Debug)]
pub(crate) struct DeferredMm {
    /// The process.
    pub(crate) pid: i32,
    /// The thread whose copy is looked at.
    pub(crate) proc_tid: i32,
    /// Its number in the images.
    pub(super) id: u64,
    /// What the image says.
    pub(super) entry: MmEntry,
    /// The mappings that a fork carries, as they were foreseen; none where they were looked at while the process stood.
    pub(super) mappings: Vec<Mapping>,
}

impl DeferredMm {
    /// The large pieces of memory that are no file's and that a copy can do without once it was read.
    pub(crate) fn discardable(&self) -> impl Iterator<Item = &Range<u64>> {
        let large = self.mappings.iter().filter(|mapping| {
            let bytes = mapping.range.end - mapping.range.start;
            !mapping.is_file_backed() && !mapping.execute && bytes >= MIN_DISCARD_BYTES
        });
        large.map(|mapping| &mapping.range)
    }

    /// Those of them that the copy itself may read.
    pub(crate) fn readable(&self) -> impl Iterator<Item = &Range<u64>> {
        let is_hidden = |range: &Range<u64>| {
            let mut mappings = self.mappings.iter().filter(|mapping| mapping.range == *range);
            mappings.any(|mapping| !mapping.read || mapping.protection_key != 0)
        };
        self.discardable().filter(move |range| !is_hidden(range))
    }

    /// The image with the flags that the copy has.
    ///
    /// # Errors
    ///
    /// The copy has not all of the mappings, or not what they held: they were advised so after the prescan.
    pub(crate) fn verify(mut self, snapshot_pid: i32, log: &mut DumpLog) -> Result<CriuImage, Error> {
        if self.mappings.is_empty() {
            return Ok(self.image());
        }
        let current = FlaggedMappings::read(self.pid, snapshot_pid)?;
        for mapping in &self.mappings {
            let actual = current.find(mapping).filter(|actual| !is_wiped(actual));
            let actual = actual.ok_or_else(|| current.flag_mismatch(mapping))?;
            if flags_match(actual, mapping) {
                continue;
            }
            unsupported::report_mapping(self.pid, actual, log);
            let vmas = &mut self.entry.vmas;
            if let Ok(index) = vmas.binary_search_by_key(&mapping.range.start, |vma| vma.start) {
                set_flags(&mut vmas[index], actual);
            }
        }
        Ok(self.image())
    }

    /// The image as it is.
    pub(crate) fn image(&self) -> CriuImage {
        CriuImage {
            name: Kind::Mm.file_name(self.id),
            bytes: encode(Kind::Mm, [&self.entry]),
        }
    }
}

/// Mappings with their flags.
pub(super) struct FlaggedMappings {
    pid: i32,
    mappings: Vec<Mapping>,
}

impl FlaggedMappings {
    /// Those of a process, seen through a thread of it or through its copy.
    pub(super) fn read(pid: i32, source_tid: i32) -> Result<Self, Error> {
        let mappings = proc_files::smaps(source_tid).map_err(|error| Error::capture(pid, "mappings", error))?;
        Ok(Self { pid, mappings })
    }

    /// The one that lies where this one lies.
    pub(super) fn find(&self, mapping: &Mapping) -> Option<&Mapping> {
        let position = self
            .mappings
            .binary_search_by_key(&mapping.range.start, |current| current.range.start);
        position
            .ok()
            .map(|index| &self.mappings[index])
            .filter(|current| current.range == mapping.range)
    }

    /// The prescan did not foresee that this one would be lost on the way to the copy.
    pub(super) fn flag_mismatch(&self, mapping: &Mapping) -> Error {
        let reason = "it was advised MADV_DONTFORK or MADV_WIPEONFORK while it was looked at; checkpoint again";
        Error::capture(
            self.pid,
            format!("the mapping {:x?}", mapping.range),
            io::Error::other(reason),
        )
    }
}

/// Whether a mapping has the flags that were foreseen. Whether its pages were written to since somebody asked is nobody's advice.
fn flags_match(actual: &Mapping, expected: &Mapping) -> bool {
    actual.protection_key == expected.protection_key && advice_flags(actual).eq(advice_flags(expected))
}

fn advice_flags(mapping: &Mapping) -> impl Iterator<Item = &[u8; 2]> {
    mapping.flags.iter().filter(|flag| *flag != b"sd")
}

/// Whether a copy has nothing in its place. The kernel may drop what is droppable at any time, so nothing is lost there.
fn is_wiped(mapping: &Mapping) -> bool {
    mapping.has_flag(b"wf") && !mapping.has_flag(b"dp")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use cri_proto::criu::{decode_single, message::VmaEntry};

    use super::*;

    /// What this process has on its heap, foreseen with these flags.
    fn heap(flags: &[[u8; 2]]) -> (Mapping, DeferredMm) {
        let own_pid = std::process::id() as i32;
        let mappings = proc_files::smaps(own_pid).unwrap();
        let heap = mappings
            .into_iter()
            .find(|mapping| mapping.name.as_os_str() == "[heap]");
        let heap = heap.expect("a heap");
        let deferred = DeferredMm {
            pid: own_pid,
            proc_tid: own_pid,
            id: 1,
            entry: MmEntry {
                vmas: vec![VmaEntry {
                    start: heap.range.start,
                    end: heap.range.end,
                    flags: (libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN) as u32,
                    madv: Some(1 << libc::MADV_DONTDUMP),
                    ..VmaEntry::default()
                }],
                ..MmEntry::default()
            },
            mappings: vec![Mapping {
                flags: flags.to_vec(),
                ..heap.clone()
            }],
        };
        (heap, deferred)
    }

    #[test]
    fn snapshot_flags_win() {
        let (_, deferred) = heap(&[*b"gd", *b"dd"]);
        let own_pid = deferred.pid;
        let mut log = DumpLog::new(Instant::now());
        let image = deferred.verify(own_pid, &mut log).unwrap();
        assert_eq!(image.name, "mm-1.img");
        let mm: MmEntry = decode_single("mm-1.img", Kind::Mm, &image.bytes).unwrap();
        let vma = &mm.vmas[0];
        assert_eq!(vma.flags, (libc::MAP_ANONYMOUS | libc::MAP_PRIVATE) as u32);
        assert_eq!(vma.madv, None);
    }

    #[test]
    fn matching_flags_are_kept() {
        let (heap, _) = heap(&[]);
        let flags: Vec<_> = advice_flags(&heap).copied().collect();
        let dirty = Mapping {
            flags: flags.iter().copied().chain([*b"sd"]).collect(),
            ..heap.clone()
        };
        let clean = Mapping { flags, ..heap.clone() };
        let with_advice = Mapping {
            flags: vec![*b"dd"],
            ..heap.clone()
        };
        assert!(flags_match(&dirty, &clean));
        assert!(!flags_match(&with_advice, &clean));
        let keyed = Mapping {
            protection_key: 1,
            ..clean.clone()
        };
        assert!(!flags_match(&keyed, &clean));
    }

    #[test]
    fn a_missing_mapping_is_named() {
        let (heap, mut deferred) = heap(&[]);
        let own_pid = deferred.pid;
        deferred.mappings[0].range.end += 1 << 40;
        let mut log = DumpLog::new(Instant::now());
        let error = deferred.verify(own_pid, &mut log).unwrap_err().to_string();
        assert!(error.contains(&format!("{:x}", heap.range.start)), "{error}");
        assert!(error.contains("checkpoint again"), "{error}");
    }

    #[test]
    fn only_large_anonymous_memory_is_discarded() {
        let (_, mut deferred) = heap(&[]);
        let mapping_at = |start: u64, bytes: u64| Mapping::anonymous(start..start + bytes, &[]);
        deferred.mappings = vec![
            mapping_at(0, MIN_DISCARD_BYTES),
            mapping_at(MIN_DISCARD_BYTES, MIN_DISCARD_BYTES - 4096),
            Mapping {
                inode: 1,
                ..mapping_at(2 * MIN_DISCARD_BYTES, MIN_DISCARD_BYTES)
            },
            Mapping {
                execute: true,
                ..mapping_at(3 * MIN_DISCARD_BYTES, MIN_DISCARD_BYTES)
            },
        ];
        assert_eq!(deferred.discardable().collect::<Vec<_>>(), [&(0..MIN_DISCARD_BYTES)]);
    }
}
