//! Flags of mappings that were foreseen, and are looked at in the copy once it was read.
//!
//! For `VmFlags` the kernel walks all pages of a mapping, which takes about as long as a fork. What the outlook told of them goes
//! into the image; the copy is asked when it has let its pages go, and its word counts.

use std::{io, ops::Range};

use cri_proto::criu::{Kind, encode, message::MmEntry};

use super::{Image, uncarried, vma::set_flags};
use crate::{
    checkpoint::{error::Error, log::DumpLog},
    process::proc::{self, Mapping},
};

/// What is worth being let go of before the copy is asked, in bytes.
const LARGE: u64 = 16 << 20;

/// An `mm-PID.img`, and the mappings in it whose flags only the outlook told of.
#[derive(Debug)]
pub(crate) struct Foreseen {
    /// The process.
    pub(crate) pid: i32,
    /// The thread whose copy is looked at.
    pub(crate) window: i32,
    /// Its number in the images.
    pub(super) id: u64,
    /// What the image says.
    pub(super) entry: MmEntry,
    /// The mappings that a fork carries, as they were foreseen; none where they were looked at while the process stood.
    pub(super) mappings: Vec<Mapping>,
}

impl Foreseen {
    /// The large pieces of memory that are no file's and that a copy can do without once it was read.
    pub(crate) fn emptied(&self) -> impl Iterator<Item = &Range<u64>> {
        let large = self.mappings.iter().filter(|mapping| {
            let bytes = mapping.range.end - mapping.range.start;
            !mapping.of_file() && !mapping.execute && bytes >= LARGE
        });
        large.map(|mapping| &mapping.range)
    }

    /// Those of them that the copy itself may read.
    pub(crate) fn readable(&self) -> impl Iterator<Item = &Range<u64>> {
        let hidden = |range: &Range<u64>| {
            let mut mappings = self.mappings.iter().filter(|mapping| mapping.range == *range);
            mappings.any(|mapping| !mapping.read || mapping.protection_key != 0)
        };
        self.emptied().filter(move |range| !hidden(range))
    }

    /// The image with the flags that the copy has.
    ///
    /// # Errors
    ///
    /// The copy has not all of the mappings, or not what they held: they were advised so after the outlook.
    pub(crate) fn looked_at(mut self, copy: i32, log: &mut DumpLog) -> Result<Image, Error> {
        if self.mappings.is_empty() {
            return Ok(self.image());
        }
        let seen = Seen::of(self.pid, copy)?;
        for mapping in &self.mappings {
            let found = seen.find(mapping).filter(|found| !is_wiped(found));
            let found = found.ok_or_else(|| seen.missed(mapping))?;
            if are_same(found, mapping) {
                continue;
            }
            uncarried::mapping(self.pid, found, log);
            let vmas = &mut self.entry.vmas;
            if let Ok(at) = vmas.binary_search_by_key(&mapping.range.start, |vma| vma.start) {
                set_flags(&mut vmas[at], found);
            }
        }
        Ok(self.image())
    }

    /// The image as it is.
    pub(crate) fn image(&self) -> Image {
        Image {
            name: Kind::Mm.file_name(self.id),
            bytes: encode(Kind::Mm, [&self.entry]),
        }
    }
}

/// Mappings with their flags.
pub(super) struct Seen {
    pid: i32,
    mappings: Vec<Mapping>,
}

impl Seen {
    /// Those of a process, seen through a thread of it or through its copy.
    pub(super) fn of(pid: i32, eyes: i32) -> Result<Self, Error> {
        let mappings = proc::mappings(eyes).map_err(|error| Error::capture(pid, "mappings", error))?;
        Ok(Self { pid, mappings })
    }

    /// The one that lies where this one lies.
    pub(super) fn find(&self, mapping: &Mapping) -> Option<&Mapping> {
        let at = self
            .mappings
            .binary_search_by_key(&mapping.range.start, |seen| seen.range.start);
        at.ok()
            .map(|at| &self.mappings[at])
            .filter(|seen| seen.range == mapping.range)
    }

    /// The outlook did not foresee that this one would be lost on the way to the copy.
    pub(super) fn missed(&self, mapping: &Mapping) -> Error {
        let why = "it was advised MADV_DONTFORK or MADV_WIPEONFORK while it was looked at; checkpoint again";
        Error::capture(
            self.pid,
            format!("the mapping {:x?}", mapping.range),
            io::Error::other(why),
        )
    }
}

/// Whether a mapping has the flags that were foreseen. Whether its pages were written to since somebody asked is nobody's advice.
fn are_same(found: &Mapping, foreseen: &Mapping) -> bool {
    found.protection_key == foreseen.protection_key && advised(found).eq(advised(foreseen))
}

fn advised(mapping: &Mapping) -> impl Iterator<Item = &[u8; 2]> {
    mapping.flags.iter().filter(|flag| *flag != b"sd")
}

/// Whether a copy has nothing in its place. The kernel may drop what is droppable at any time, so nothing is lost there.
fn is_wiped(mapping: &Mapping) -> bool {
    mapping.has(b"wf") && !mapping.has(b"dp")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use cri_proto::criu::{decode_single, message::VmaEntry};

    use super::*;

    /// What this process has on its heap, foreseen with these flags.
    fn heap(flags: &[[u8; 2]]) -> (Mapping, Foreseen) {
        let own = std::process::id() as i32;
        let mappings = proc::mappings(own).unwrap();
        let heap = mappings
            .into_iter()
            .find(|mapping| mapping.name.as_os_str() == "[heap]");
        let heap = heap.expect("a heap");
        let foreseen = Foreseen {
            pid: own,
            window: own,
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
        (heap, foreseen)
    }

    #[test]
    fn the_flags_of_what_is_looked_at_count() {
        let (_, foreseen) = heap(&[*b"gd", *b"dd"]);
        let own = foreseen.pid;
        let mut log = DumpLog::new(Instant::now());
        let image = foreseen.looked_at(own, &mut log).unwrap();
        assert_eq!(image.name, "mm-1.img");
        let mm: MmEntry = decode_single("mm-1.img", Kind::Mm, &image.bytes).unwrap();
        let vma = &mm.vmas[0];
        assert_eq!(vma.flags, (libc::MAP_ANONYMOUS | libc::MAP_PRIVATE) as u32);
        assert_eq!(vma.madv, None);
    }

    #[test]
    fn what_is_as_foreseen_is_left_as_it_is() {
        let (heap, _) = heap(&[]);
        let flags: Vec<_> = advised(&heap).copied().collect();
        let dirty = Mapping {
            flags: flags.iter().copied().chain([*b"sd"]).collect(),
            ..heap.clone()
        };
        let clean = Mapping { flags, ..heap.clone() };
        let advised = Mapping {
            flags: vec![*b"dd"],
            ..heap.clone()
        };
        assert!(are_same(&dirty, &clean));
        assert!(!are_same(&advised, &clean));
        let keyed = Mapping {
            protection_key: 1,
            ..clean.clone()
        };
        assert!(!are_same(&keyed, &clean));
    }

    #[test]
    fn what_is_not_there_any_more_fails_by_name() {
        let (heap, mut foreseen) = heap(&[]);
        let own = foreseen.pid;
        foreseen.mappings[0].range.end += 1 << 40;
        let mut log = DumpLog::new(Instant::now());
        let error = foreseen.looked_at(own, &mut log).unwrap_err().to_string();
        assert!(error.contains(&format!("{:x}", heap.range.start)), "{error}");
        assert!(error.contains("checkpoint again"), "{error}");
    }

    #[test]
    fn only_large_memory_without_a_file_is_let_go_of() {
        let (_, mut foreseen) = heap(&[]);
        let at = |start: u64, bytes: u64| Mapping::anonymous(start..start + bytes, &[]);
        foreseen.mappings = vec![
            at(0, LARGE),
            at(LARGE, LARGE - 4096),
            Mapping {
                inode: 1,
                ..at(2 * LARGE, LARGE)
            },
            Mapping {
                execute: true,
                ..at(3 * LARGE, LARGE)
            },
        ];
        assert_eq!(foreseen.emptied().collect::<Vec<_>>(), [&(0..LARGE)]);
    }
}
