//! Internals for the benchmarks. Not part of the public interface.

use std::{io, ops::Range, path::Path};

use crate::{
    checkpoint::{archive::Archive, error::Error},
    process::{Pid, pagemap::PageMap},
};

/// Scans the page map of a thread. Returns the number of present regions and their bytes.
///
/// # Errors
///
/// The page map cannot be read.
pub fn scan_page_map(pid: Pid, range: Range<u64>) -> io::Result<(usize, u64)> {
    let (mut regions, mut bytes) = (0, 0);
    PageMap::open(pid.main_thread())?.scan(range, |region| {
        regions += 1;
        bytes += region.range.end - region.range.start;
    })?;
    Ok((regions, bytes))
}

/// Writes an archive with these members and a reserved member that is filled in chunks. Returns its size in bytes.
///
/// # Errors
///
/// The archive cannot be written.
pub fn write_archive(
    location: &Path,
    members: &[(String, Vec<u8>)],
    pages: &[u8],
    chunk_bytes: usize,
) -> io::Result<u64> {
    let write = || {
        let mut archive = Archive::create(&location.with_extension("part"), location, |file| Box::new(file))?;
        for (name, content) in members {
            archive.add_member(name, content)?;
        }
        let reserved = archive.reserve_member("checkpoint/pages-1.img", pages.len() as u64)?;
        for (index, bytes) in pages.chunks(chunk_bytes).enumerate() {
            archive.write_at(reserved, (index * chunk_bytes) as u64, bytes)?;
        }
        archive.end_archive()?;
        archive.persist(location, false)
    };
    write().map_err(|error: Error| io::Error::other(error))
}
