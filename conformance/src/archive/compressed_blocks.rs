//! Compressed pages: their layout in a pages file, and their content.
//!
//! CRIU 4.3 can compress pages, one by one or in blocks of several pages, each as a separate LZ4 block
//! (checkpoint-restore/criu#2895). The page map contains the stored size of each block. The size 0 means a block of
//! zeros that is not stored. The uncompressed size of a block means that it is stored uncompressed. `pagemap.proto`
//! describes the two encodings of the sizes.

use std::io::{self, Read};

use cri_proto::criu::message::{PagemapBlocks, PagemapEntry};
use prost::Message as _;

/// The maximum pages of a block: CRIU's regions have up to 4 MiB of pages of at least 4 KiB.
const MAX_BLOCK_PAGES: u64 = 1024;
/// The page sizes of the architectures that CRIU supports, in bytes.
const PAGE_SIZES: [u64; 3] = [4 << 10, 16 << 10, 64 << 10];

/// A segment of a pages file, in the order of the page map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This many uncompressed pages.
    Raw(u64),
    /// Padding to the next page boundary.
    Align,
    /// Compressed pages.
    Blocks(CompressedBlocks),
}

/// The compressed pages of one entry of a page map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressedBlocks {
    pages: u64,
    pages_per_block: u64,
    sizes: Vec<u32>,
}

impl CompressedBlocks {
    /// The blocks of an entry with this many pages; `None` if the entry is not compressed.
    ///
    /// # Errors
    /// The blocks are inconsistent with the entry. The error says how.
    pub(super) fn from_entry(entry: &PagemapEntry, pages: u64) -> Result<Option<Self>, String> {
        let Some(bytes) = &entry.blocks else {
            return Ok(None);
        };
        let has_fields = entry.total_compressed_size.is_some() || entry.region_pages.is_some();
        let message = PagemapBlocks::decode(&bytes[..]).ok().filter(|_| !has_fields);
        let (pages_per_block, sizes, total) = match message {
            Some(message) => (message.pages_per_block(), message.size, message.total_size),
            None => {
                let sizes = decode_packed(bytes).ok_or("the block sizes are not valid varints")?;
                (entry.region_pages(), sizes, entry.total_compressed_size)
            }
        };
        let pages_per_block = u64::from(pages_per_block).max(1);
        if pages_per_block > MAX_BLOCK_PAGES {
            return Err(format!(
                "blocks of {pages_per_block} pages, more than {MAX_BLOCK_PAGES}"
            ));
        }
        let count = pages.div_ceil(pages_per_block);
        if sizes.len() as u64 != count {
            return Err(format!(
                "{} blocks of {pages_per_block} pages, not {count}",
                sizes.len()
            ));
        }
        let sum: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
        if total.is_some_and(|total| total != sum) {
            return Err(format!(
                "blocks of {sum} bytes in total, not {}",
                total.unwrap_or_default()
            ));
        }
        let blocks = Self {
            pages,
            pages_per_block,
            sizes,
        };
        let largest = PAGE_SIZES[PAGE_SIZES.len() - 1];
        if let Some((number, (size, pages))) = blocks
            .sizes_and_pages()
            .enumerate()
            .find(|(_, (size, pages))| u64::from(*size) > pages * largest)
        {
            return Err(format!("block {number} of {pages} pages has {size} bytes"));
        }
        Ok(Some(blocks))
    }

    pub(super) fn memory_cost(entry: &PagemapEntry) -> usize {
        // A size takes at least one byte in the image and four here, and the list's capacity may be twice its length.
        size_of::<Segment>() + 8 * entry.blocks.as_ref().map_or(0, Vec::len)
    }

    fn sizes_and_pages(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let last = self.sizes.len() as u64 - u64::from(!self.sizes.is_empty());
        self.sizes.iter().zip(0..).map(move |(size, number)| {
            let pages = if number == last {
                self.pages - last * self.pages_per_block
            } else {
                self.pages_per_block
            };
            (*size, pages)
        })
    }
}

/// The size of a pages file with these segments; `None` on overflow.
pub(super) fn stored_bytes(segments: &[Segment], page_bytes: u64) -> Option<u64> {
    segments.iter().try_fold(0_u64, |offset, segment| match segment {
        Segment::Raw(pages) => offset.checked_add(pages.checked_mul(page_bytes)?),
        Segment::Align => offset.checked_next_multiple_of(page_bytes),
        Segment::Blocks(blocks) => {
            let sum: u64 = blocks.sizes.iter().map(|size| u64::from(*size)).sum();
            offset.checked_add(sum)
        }
    })
}

/// Reads a pages file with these segments and passes its decompressed pages to `consume`, in order.
///
/// Returns the first block that does not decompress to its pages. Such blocks are skipped. A file that ends early is
/// not reported: another case checks the size of the file.
pub(super) fn decompress(
    mut file: impl Read,
    segments: &[Segment],
    mut consume: impl FnMut(&[u8]),
) -> io::Result<Option<String>> {
    let mut file = CountingReader {
        inner: &mut file,
        position: 0,
    };
    let mut problem = None;
    let mut stored = Vec::new();
    let mut pages = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        match segment {
            Segment::Raw(count) => {
                let mut remaining = count.saturating_mul(PAGE_SIZES[0]);
                while remaining > 0 {
                    let chunk_bytes = remaining.min(1 << 20);
                    if !file.read_exact_bytes(&mut stored, chunk_bytes)? {
                        return Ok(problem);
                    }
                    consume(&stored);
                    remaining -= chunk_bytes;
                }
            }
            Segment::Align => {
                let gap = file.position.next_multiple_of(PAGE_SIZES[0]) - file.position;
                if !file.read_exact_bytes(&mut stored, gap)? {
                    return Ok(problem);
                }
            }
            Segment::Blocks(blocks) => {
                for (block, (size, count)) in blocks.sizes_and_pages().enumerate() {
                    if !file.read_exact_bytes(&mut stored, size.into())? {
                        return Ok(problem);
                    }
                    match block_content(&stored, count, &mut pages) {
                        Ok(content) => consume(content),
                        Err(why) => drop(
                            problem.get_or_insert_with(|| format!("block {block} of compressed entry {number}: {why}")),
                        ),
                    }
                }
            }
        }
    }
    Ok(problem)
}

fn block_content<'a>(stored: &'a [u8], count: u64, pages: &'a mut Vec<u8>) -> Result<&'a [u8], String> {
    let sizes = PAGE_SIZES.map(|page| (count * page) as usize);
    if stored.is_empty() {
        pages.clear();
        pages.resize(sizes[0], 0);
        return Ok(pages);
    }
    if stored.len() == sizes[0] {
        return Ok(stored);
    }
    // An archive of aarch64 does not contain the page size.
    pages.resize(sizes[2], 0);
    let length = lz4_flex::block::decompress_into(stored, pages)
        .map_err(|error| format!("{} bytes are not a valid LZ4 block ({error})", stored.len()))?;
    if !sizes.contains(&length) {
        return Err(format!(
            "{} bytes decompress to {length}, not to {count} pages",
            stored.len()
        ));
    }
    Ok(&pages[..length])
}

struct CountingReader<'a, R> {
    inner: &'a mut R,
    position: u64,
}

impl<R: Read> CountingReader<'_, R> {
    /// Replaces the content of `buffer` with the next `bytes` bytes. False if there are fewer.
    fn read_exact_bytes(&mut self, buffer: &mut Vec<u8>, bytes: u64) -> io::Result<bool> {
        buffer.clear();
        (&mut *self.inner).take(bytes).read_to_end(buffer)?;
        self.position += buffer.len() as u64;
        Ok(buffer.len() as u64 == bytes)
    }
}

fn decode_packed(mut bytes: &[u8]) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    while !bytes.is_empty() {
        let number = prost::encoding::decode_varint(&mut bytes).ok()?;
        numbers.push(u32::try_from(number).ok()?);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::sample::{BlockSizesEncoding, compressed_entry};

    fn memory(pages: usize) -> Vec<u8> {
        (0..pages * 4096)
            .map(|at| match at / 4096 % 3 {
                // Zeros, compressible text, incompressible bytes.
                0 => 0,
                1 => b"compressible "[at % 13],
                _ => (at.wrapping_mul(2_654_435_761) >> 13) as u8,
            })
            .collect()
    }

    #[test]
    fn decompresses_both_encodings() {
        for form in [BlockSizesEncoding::Fields, BlockSizesEncoding::Message] {
            for pages_per_block in [1, 4] {
                let memory = memory(6);
                let (entry, stored) = compressed_entry(&memory, 0x1000, pages_per_block, form);
                let blocks = CompressedBlocks::from_entry(&entry, 6)
                    .expect("blocks that fit")
                    .expect("it is compressed");
                let segments = [Segment::Blocks(blocks)];
                assert_eq!(stored_bytes(&segments, 4096), Some(stored.len() as u64));
                let mut decompressed = Vec::new();
                let problem = decompress(&stored[..], &segments, |pages| decompressed.extend_from_slice(pages));
                assert_eq!(problem.expect("a slice can be read"), None);
                assert_eq!(decompressed, memory, "{form:?} {pages_per_block}");
            }
        }
    }

    #[test]
    fn names_a_corrupt_block() {
        let memory = memory(2);
        let (entry, mut stored) = compressed_entry(&memory, 0x1000, 1, BlockSizesEncoding::Fields);
        let blocks = CompressedBlocks::from_entry(&entry, 2)
            .expect("blocks that fit")
            .expect("it is compressed");
        stored[0] = 0xff;
        let problem = decompress(&stored[..], &[Segment::Blocks(blocks)], |_| ()).expect("a slice can be read");
        assert!(problem.is_some_and(|text| text.starts_with("block 1")));
    }

    #[test]
    fn rejects_sizes_that_contradict_the_entry() {
        let (entry, _) = compressed_entry(&memory(4), 0x1000, 1, BlockSizesEncoding::Fields);
        assert!(CompressedBlocks::from_entry(&entry, 5).is_err());
        let wrong_total = PagemapEntry {
            total_compressed_size: Some(1),
            ..entry.clone()
        };
        assert!(CompressedBlocks::from_entry(&wrong_total, 4).is_err());
        let oversized = PagemapEntry {
            region_pages: Some(u32::MAX),
            ..entry
        };
        assert!(CompressedBlocks::from_entry(&oversized, 4).is_err());
    }
}
