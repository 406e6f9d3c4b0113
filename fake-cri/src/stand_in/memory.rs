//! Memory that is really there.

use super::Pattern;

/// So many bytes of memory (rounded up to whole words), every page of it written.
///
/// In words, and in the plainest loop, because it must be fast in a build without optimisation too.
pub(super) fn fill(bytes: usize, pattern: Pattern, seed: u64) -> Vec<u64> {
    // The pages come from the kernel with the first write, none is touched before.
    let mut memory = vec![0; bytes.div_ceil(8)];
    match pattern {
        Pattern::Random => {
            let mut random = Random(seed | 1);
            let mut index = 0;
            while index < memory.len() {
                memory[index] = random.next();
                index += 1;
            }
        }
        // Pages read as zero without being there; only the write brings them.
        Pattern::Zero => memory.fill(0),
        Pattern::Text => {
            let line = words(b"................ the quick brown fox jumps over the lazy dog...\n");
            let page: Vec<u64> = line.repeat(PAGE / line.len());
            for (number, part) in memory.chunks_mut(PAGE).enumerate() {
                part.copy_from_slice(&page[..part.len()]);
                // So that no two pages are equal here either.
                let number = words(format!("{number:016}").as_bytes());
                part.iter_mut().zip(number).for_each(|(word, number)| *word = number);
            }
        }
    }
    memory
}

/// Words in a page.
const PAGE: usize = 512;

/// Text as words.
fn words(text: &[u8]) -> Vec<u64> {
    text.as_chunks::<8>()
        .0
        .iter()
        .map(|text| u64::from_ne_bytes(*text))
        .collect()
}

/// xorshift64*: cheap, and nothing that a compressor could use.
struct Random(u64);

impl Random {
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
        for pattern in [Pattern::Random, Pattern::Text] {
            let memory = fill(64 * 8 * PAGE + 5, pattern, 7);
            assert_eq!(memory.len(), 64 * PAGE + 1);
            let pages: HashSet<&[u64]> = memory.chunks(PAGE).collect();
            assert_eq!(pages.len(), 65, "{pattern:?}");
        }
        assert_ne!(fill(99, Pattern::Random, 7), fill(99, Pattern::Random, 9));
    }

    #[test]
    fn each_pattern_has_the_asked_size() {
        for pattern in [Pattern::Random, Pattern::Zero, Pattern::Text] {
            assert_eq!(fill(10_000, pattern, 1).len(), 1250, "{pattern:?}");
            assert_eq!(fill(0, pattern, 1).len(), 0, "{pattern:?}");
        }
        assert!(fill(10_000, Pattern::Zero, 1).iter().all(|&word| word == 0));
        let text: Vec<u8> = fill(10_000, Pattern::Text, 1)
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
