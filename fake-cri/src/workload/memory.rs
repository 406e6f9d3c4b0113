//! Allocates resident memory.

use super::MemoryPattern;

/// Allocates memory, rounded up to whole words, and writes every page.
///
/// A plain loop over words, because it must be fast in an unoptimized build too.
pub(super) fn fill_memory(bytes: usize, pattern: MemoryPattern, seed: u64) -> Vec<u64> {
    // Zeroed by the kernel: no page is resident before its first write.
    let mut memory = vec![0; bytes.div_ceil(8)];
    match pattern {
        MemoryPattern::Random => {
            let mut random = XorShift(seed | 1);
            let mut index = 0;
            while index < memory.len() {
                memory[index] = random.next();
                index += 1;
            }
        }
        // Unwritten pages read as zero without being resident; the write makes them resident.
        MemoryPattern::Zero => memory.fill(0),
        MemoryPattern::Text => {
            let line = to_words(b"................ the quick brown fox jumps over the lazy dog...\n");
            let page: Vec<u64> = line.repeat(PAGE_WORDS / line.len());
            for (page_number, page_words) in memory.chunks_mut(PAGE_WORDS).enumerate() {
                page_words.copy_from_slice(&page[..page_words.len()]);
                // The prefix makes all pages different.
                let prefix = to_words(format!("{page_number:016}").as_bytes());
                page_words
                    .iter_mut()
                    .zip(prefix)
                    .for_each(|(word, prefix_word)| *word = prefix_word);
            }
        }
    }
    memory
}

/// Words of a page of 4 KiB.
const PAGE_WORDS: usize = 512;

fn to_words(text: &[u8]) -> Vec<u64> {
    text.as_chunks::<8>()
        .0
        .iter()
        .map(|text| u64::from_ne_bytes(*text))
        .collect()
}

/// xorshift64*: fast, and not compressible.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_pages_are_equal() {
        for pattern in [MemoryPattern::Random, MemoryPattern::Text] {
            let memory = fill_memory(64 * 8 * PAGE_WORDS + 5, pattern, 7);
            assert_eq!(memory.len(), 64 * PAGE_WORDS + 1);
            let pages: HashSet<&[u64]> = memory.chunks(PAGE_WORDS).collect();
            assert_eq!(pages.len(), 65, "{pattern:?}");
        }
        assert_ne!(
            fill_memory(99, MemoryPattern::Random, 7),
            fill_memory(99, MemoryPattern::Random, 9)
        );
    }

    #[test]
    fn patterns_have_the_requested_size() {
        for pattern in [MemoryPattern::Random, MemoryPattern::Zero, MemoryPattern::Text] {
            assert_eq!(fill_memory(10_000, pattern, 1).len(), 1250, "{pattern:?}");
            assert_eq!(fill_memory(0, pattern, 1).len(), 0, "{pattern:?}");
        }
        assert!(
            fill_memory(10_000, MemoryPattern::Zero, 1)
                .iter()
                .all(|&word| word == 0)
        );
        let text: Vec<u8> = fill_memory(10_000, MemoryPattern::Text, 1)
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        let text = String::from_utf8(text).expect("it is text");
        assert_eq!(
            text.lines().nth(1),
            Some("................ the quick brown fox jumps over the lazy dog...")
        );
    }
}
