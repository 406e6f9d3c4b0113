//! What the benchmarks reach of closed rooms: each the work of one, as a checkpoint does it. No part of the interface.

use std::{io, ops::Range, path::Path};

use crate::{
    checkpoint::{archive::Archive, error::Error},
    process::pagemap::PageMap,
};

/// Scans the page map of a thread; answers how many regions hold something, and how many bytes they have.
///
/// # Errors
///
/// As reading the page map.
pub fn scan_page_map(tid: i32, range: Range<u64>) -> io::Result<(usize, u64)> {
    let (mut regions, mut bytes) = (0, 0);
    PageMap::open(tid)?.scan(range, |region| {
        regions += 1;
        bytes += region.range.end - region.range.start;
    })?;
    Ok((regions, bytes))
}

/// Writes an archive: members that are in memory, then one whose place is reserved and filled by pieces of this size. Answers how
/// many bytes it has.
///
/// # Errors
///
/// As writing files.
pub fn write_archive(
    location: &Path,
    members: &[(String, Vec<u8>)],
    pages: &[u8],
    chunk_bytes: usize,
) -> io::Result<u64> {
    let write = || {
        let mut archive = Archive::create(&location.with_extension("part"), location)?;
        for (name, content) in members {
            archive.add_member(name, content)?;
        }
        if let Some(slab) = archive.reserve_member("checkpoint/pages-1.img", pages.len() as u64)? {
            for (index, bytes) in pages.chunks(chunk_bytes).enumerate() {
                archive.write_at(slab, (index * chunk_bytes) as u64, bytes)?;
            }
        }
        archive.end_archive()?;
        archive.persist(location, false)
    };
    write().map_err(|error: Error| io::Error::other(error))
}
