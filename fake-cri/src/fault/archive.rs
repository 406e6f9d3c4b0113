//! Faults of an archive: work on a complete tar file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
};

use cri_proto::criu::{
    Decoder, Kind, decode_single,
    message::{MmEntry, PagemapEntry, PagemapHead, VmaEntry},
    pages_file_name,
};

use super::MemoryRegion;
use crate::process::pagemap::PAGE_SIZE;

/// The directory of the images in the archive.
const IMAGE_DIR: &str = "checkpoint/";
/// The offset of the checksum in a header.
const CHECKSUM_OFFSET: u64 = 148;

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// What [`rewrite`] does with a member.
pub(crate) enum Edit {
    Keep,
    Omit,
    Replace(Vec<u8>),
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn name_of<R: io::Read>(entry: &tar::Entry<'_, R>) -> io::Result<String> {
    Ok(entry.path()?.to_string_lossy().into_owned())
}

/// Changes the members of an archive.
pub(crate) fn rewrite(path: &Path, mut edit: impl FnMut(&str) -> io::Result<Edit>) -> io::Result<()> {
    rebuild(path, |archive, builder| {
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            let mut header = entry.header().clone();
            match edit(name_of(&entry)?.trim_end_matches('/'))? {
                Edit::Keep => builder.append(&header, &mut entry)?,
                Edit::Omit => {}
                Edit::Replace(content) => {
                    header.set_size(content.len() as u64);
                    header.set_cksum();
                    builder.append(&header, &*content)?;
                }
            }
        }
        Ok(())
    })
}

/// Replaces the images of an archive by those of another one.
pub(crate) fn replace_images(path: &Path, source: &Path) -> io::Result<()> {
    let source = File::open(source)?;
    rebuild(path, |archive, builder| {
        for (archive, images) in [(&source, true), (archive, false)] {
            for entry in tar::Archive::new(archive).entries()? {
                let mut entry = entry?;
                if name_of(&entry)?.starts_with(IMAGE_DIR) == images {
                    builder.append(&entry.header().clone(), &mut entry)?;
                }
            }
        }
        Ok(())
    })
}

/// Builds an archive anew, in the same file.
fn rebuild(path: &Path, build: impl FnOnce(&File, &mut tar::Builder<&File>) -> io::Result<()>) -> io::Result<()> {
    let mut file = open(path)?;
    let mut rebuilt = tempfile::tempfile_in(path.parent().unwrap_or(Path::new("/")))?;
    let mut builder = tar::Builder::new(&rebuilt);
    build(&file, &mut builder)?;
    builder.finish()?;
    drop(builder);
    file.set_len(0)?;
    file.rewind()?;
    rebuilt.rewind()?;
    io::copy(&mut rebuilt, &mut file).map(drop)
}

/// Keeps the first N percent of a file.
pub(super) fn truncate(path: &Path, percent: u8) -> io::Result<()> {
    let bytes = fs::metadata(path)?.len();
    open(path)?.set_len((u128::from(bytes) * u128::from(percent.min(100)) / 100) as u64)
}

/// Corrupts the checksum of every header and a byte in the middle of every member.
pub(super) fn corrupt(path: &Path) -> io::Result<()> {
    let file = open(path)?;
    let mut offsets = Vec::new();
    for entry in tar::Archive::new(&file).entries_with_seek()? {
        let entry = entry?;
        offsets.push(entry.raw_header_position() + CHECKSUM_OFFSET);
        offsets.extend((entry.size() > 0).then(|| entry.raw_file_position() + entry.size() / 2));
    }
    offsets
        .into_iter()
        .try_for_each(|offset| file.write_all_at(b"\xff", offset))
}

/// Zeroes memory in the pages files, which the archive's own images locate.
pub(super) fn zero_regions(path: &Path, regions: &[MemoryRegion]) -> io::Result<()> {
    let file = open(path)?;
    let (mut mms, mut pagemaps, mut pages_files) = (Vec::new(), Vec::new(), Vec::new());
    for entry in tar::Archive::new(&file).entries_with_seek()? {
        let mut entry = entry?;
        let name = name_of(&entry)?;
        let name = name.strip_prefix(IMAGE_DIR).unwrap_or_default().to_owned();
        if let Some(id) = name.strip_prefix("mm-") {
            let id = id.to_owned();
            let mm: MmEntry = decode_single(&name, Kind::Mm, &read(&mut entry)?).map_err(io::Error::other)?;
            mms.push((id, mm));
        } else if name.starts_with("pages-") {
            let start = entry.raw_file_position();
            pages_files.push((name, start..start + entry.size()));
        } else if let Some(id) = name.strip_prefix("pagemap-") {
            pagemaps.push((id.to_owned(), decode_pagemap(&name, &read(&mut entry)?)?));
        }
    }
    let zero = |range: Range<u64>| {
        range.clone().step_by(ZEROES.len()).try_for_each(|start| {
            let bytes = (range.end - start).min(ZEROES.len() as u64);
            file.write_all_at(&ZEROES[..bytes as usize], start)
        })
    };
    for (id, (pages_id, runs)) in pagemaps {
        let pages_name = pages_file_name(pages_id);
        let Some((_, pages)) = pages_files.iter().find(|(name, _)| *name == pages_name) else {
            continue;
        };
        if id.starts_with("shmem-") {
            if regions.contains(&MemoryRegion::Shared) {
                zero(pages.clone())?;
            }
            continue;
        }
        let mm = mms
            .iter()
            .find(|(mm_id, _)| *mm_id == id)
            .map(|(_, mm)| private_regions(mm));
        let zeroed: Vec<_> = mm
            .into_iter()
            .flatten()
            .filter(|(region, _)| regions.contains(region))
            .collect();
        let mut offset = pages.start;
        for run in runs {
            for (_, range) in &zeroed {
                let (start, end) = (range.start.max(run.start), range.end.min(run.end));
                if start < end {
                    zero(offset + (start - run.start)..offset + (end - run.start))?;
                }
            }
            offset += run.end - run.start;
        }
    }
    Ok(())
}

fn read(entry: &mut impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The id of the pages file of a page map, and its runs of pages.
fn decode_pagemap(name: &str, image: &[u8]) -> io::Result<(u32, Vec<Range<u64>>)> {
    let decode = || {
        let mut decoder = Decoder::open_as(name, Kind::Pagemap, image)?;
        let head: PagemapHead = decoder.message()?.unwrap_or_default();
        let mut runs = Vec::new();
        while let Some(entry) = decoder.message::<PagemapEntry>()? {
            let pages = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages));
            runs.push(entry.vaddr..entry.vaddr + pages * PAGE_SIZE);
        }
        Ok::<_, cri_proto::criu::ImageError>((head.pages_id, runs))
    };
    decode().map_err(io::Error::other)
}

/// The private memory of a process by region. The stack of a thread is recognised by the guard pages below it.
fn private_regions(mm: &MmEntry) -> Vec<(MemoryRegion, Range<u64>)> {
    /// A guard of a thread's stack has one or a few pages; memory that an allocator reserves is larger.
    const MAX_GUARD_BYTES: u64 = 64 << 10;
    let has_flag = |vma: &VmaEntry, flag: i32| vma.flags & flag as u32 != 0;
    let has_protection = |vma: &VmaEntry, protection: i32| vma.prot & protection as u32 != 0;
    let mut regions = Vec::new();
    let mut guard_end = 0;
    for vma in &mm.vmas {
        let (start, end) = (vma.start, vma.end);
        if !has_flag(vma, libc::MAP_ANONYMOUS) || has_flag(vma, libc::MAP_SHARED) {
            continue;
        }
        let is_writable = has_protection(vma, libc::PROT_WRITE);
        if (start..=end).contains(&mm.mm_start_stack) {
            regions.push((MemoryRegion::Stack, start..mm.mm_env_start.clamp(start, end)));
            regions.push((MemoryRegion::Stack, mm.mm_env_end.clamp(start, end)..end));
        } else if !is_writable && !has_protection(vma, libc::PROT_READ) {
            if end - start <= MAX_GUARD_BYTES {
                guard_end = end;
            }
        } else if is_writable && guard_end == start {
            regions.push((MemoryRegion::Threads, start..end));
        } else if is_writable {
            regions.push((MemoryRegion::Heap, start..end));
        }
    }
    regions.push((MemoryRegion::Environment, mm.mm_env_start..mm.mm_env_end));
    regions
}
