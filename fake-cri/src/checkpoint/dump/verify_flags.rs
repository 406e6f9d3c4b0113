//! Verifies flags of mappings from the prescan in the snapshot.
//!
//! Reading `VmFlags` makes the kernel walk every page, about as slow as a fork. The image uses the flags of the
//! prescan. They are verified on the snapshot after its pages are discarded, and the snapshot's flags win.

use std::{io, ops::Range};

use cri_proto::criu::{Kind, encode, message::MmEntry};

use super::{CriuImage, context::TaskCtx, unsupported, vma::set_flags};
use crate::{
    checkpoint::{dump_log::DumpLog, error::Error},
    process::{
        Pid, Tid,
        proc_files::{self, Mapping},
    },
};

/// The smallest mapping that is discarded before the verification, in bytes.
const MIN_DISCARD_BYTES: u64 = 16 << 20;

/// An `mm-PID.img`, and its mappings whose flags come from the prescan.
#[derive(Debug)]
pub(crate) struct DeferredMm {
    pub(crate) pid: Pid,
    /// The `proc_tid` of the original.
    pub(crate) proc_tid: Tid,
    /// The pid in the images.
    pub(super) id: u64,
    pub(super) entry: MmEntry,
    /// The mappings that fork preserves, with their flags from the prescan. Empty if the flags were read during the
    /// freeze.
    pub(super) mappings: Vec<Mapping>,
}

impl DeferredMm {
    /// Large anonymous mappings that the snapshot does not need after the dump.
    pub(crate) fn discardable(&self) -> impl Iterator<Item = &Range<u64>> {
        let large = self.mappings.iter().filter(|mapping| {
            let bytes = mapping.range.end - mapping.range.start;
            !mapping.is_file_backed() && !mapping.execute && bytes >= MIN_DISCARD_BYTES
        });
        large.map(|mapping| &mapping.range)
    }

    /// The discardable mappings that the snapshot itself may read.
    pub(crate) fn readable(&self) -> impl Iterator<Item = &Range<u64>> {
        let is_hidden = |range: &Range<u64>| {
            let mut mappings = self.mappings.iter().filter(|mapping| mapping.range == *range);
            mappings.any(|mapping| !mapping.read || mapping.protection_key != 0)
        };
        self.discardable().filter(move |range| !is_hidden(range))
    }

    /// Returns the image with the flags of the snapshot.
    ///
    /// # Errors
    ///
    /// A mapping or its content is missing in the snapshot, because of a madvise after the prescan.
    pub(crate) fn verify(mut self, snapshot_pid: Pid, log: &mut DumpLog) -> Result<CriuImage, Error> {
        if self.mappings.is_empty() {
            return Ok(self.image());
        }
        let snapshot_tid = snapshot_pid.main_thread();
        let current = FlaggedMappings::read(self.pid, snapshot_tid)?;
        for mapping in &self.mappings {
            let actual = current.find(mapping).filter(|actual| !is_wiped(actual));
            let actual = actual.ok_or_else(|| current.flag_mismatch(mapping))?;
            if flags_match(actual, mapping) {
                continue;
            }
            unsupported::report_mapping(&mut TaskCtx::new(self.pid, snapshot_tid, log), actual);
            let vmas = &mut self.entry.vmas;
            if let Ok(index) = vmas.binary_search_by_key(&mapping.range.start, |vma| vma.start) {
                set_flags(&mut vmas[index], actual);
            }
        }
        Ok(self.image())
    }

    pub(crate) fn image(&self) -> CriuImage {
        CriuImage {
            name: Kind::Mm.file_name(self.id),
            bytes: encode(Kind::Mm, [&self.entry]),
        }
    }
}

/// Mappings with their flags.
pub(super) struct FlaggedMappings {
    pid: Pid,
    mappings: Vec<Mapping>,
}

impl FlaggedMappings {
    /// The mappings of a process, through one of its threads or through its snapshot.
    pub(super) fn read(pid: Pid, source_tid: Tid) -> Result<Self, Error> {
        let mappings = proc_files::smaps(source_tid).map_err(|error| Error::capture(pid, "mappings", error))?;
        Ok(Self { pid, mappings })
    }

    /// The mapping with the same range.
    pub(super) fn find(&self, mapping: &Mapping) -> Option<&Mapping> {
        let position = self
            .mappings
            .binary_search_by_key(&mapping.range.start, |current| current.range.start);
        position
            .ok()
            .map(|index| &self.mappings[index])
            .filter(|current| current.range == mapping.range)
    }

    /// The error for a mapping that fork did not preserve although the prescan said so.
    pub(super) fn flag_mismatch(&self, mapping: &Mapping) -> Error {
        let reason = "MADV_DONTFORK or MADV_WIPEONFORK was applied during the checkpoint; checkpoint again";
        Error::capture(
            self.pid,
            format!("the mapping {:x?}", mapping.range),
            io::Error::other(reason),
        )
    }
}

/// Whether a mapping has the expected flags. `sd` (soft-dirty) is ignored: it changes with every write.
fn flags_match(actual: &Mapping, expected: &Mapping) -> bool {
    actual.protection_key == expected.protection_key && advice_flags(actual).eq(advice_flags(expected))
}

fn advice_flags(mapping: &Mapping) -> impl Iterator<Item = &[u8; 2]> {
    mapping.flags.iter().filter(|flag| *flag != b"sd")
}

/// Whether the snapshot has no content in the mapping. The kernel may drop droppable memory at any time, so nothing is
/// lost.
fn is_wiped(mapping: &Mapping) -> bool {
    mapping.has_flag(b"wf") && !mapping.has_flag(b"dp")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use cri_proto::criu::{decode_single, message::VmaEntry};

    use super::*;

    /// The heap of this process, as a mapping with these prescan flags.
    fn heap(flags: &[[u8; 2]]) -> (Mapping, DeferredMm) {
        let own_pid = Pid::current();
        let mappings = proc_files::smaps(own_pid.main_thread()).unwrap();
        let heap = mappings
            .into_iter()
            .find(|mapping| mapping.name.as_os_str() == "[heap]");
        let heap = heap.expect("a heap");
        let deferred = DeferredMm {
            pid: own_pid,
            proc_tid: own_pid.main_thread(),
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
