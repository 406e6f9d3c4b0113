//! Memory that is really there.

use super::Pattern;

/// So much memory, every page of it written.
pub(super) fn fill(bytes: usize, pattern: Pattern, seed: u64) -> Vec<u8> {
    match pattern {
        Pattern::Random => {
            let mut random = Random(seed | 1);
            // Written once, front to back: no page is touched twice, and none is only reserved.
            let mut memory = Vec::with_capacity(bytes);
            let mut block = [0; BLOCK];
            while memory.len() < bytes {
                random.fill(&mut block);
                memory.extend_from_slice(&block[..BLOCK.min(bytes - memory.len())]);
            }
            memory
        }
        // Pages from the kernel read as zero without being there; only a write brings them.
        Pattern::Zero => {
            let mut memory = Vec::with_capacity(bytes);
            memory.resize(bytes, 1);
            memory.fill(0);
            memory
        }
        Pattern::Text => {
            let mut memory = Vec::with_capacity(bytes);
            let mut line = 0u64;
            while memory.len() < bytes {
                let text = format!("{line:016} the quick brown fox jumps over the lazy dog\n");
                memory.extend_from_slice(&text.as_bytes()[..text.len().min(bytes - memory.len())]);
                line += 1;
            }
            memory
        }
    }
}

const BLOCK: usize = 4096;

/// xorshift64*: cheap, and nothing that a compressor could use.
struct Random(u64);

impl Random {
    fn fill(&mut self, block: &mut [u8; BLOCK]) {
        let (words, _) = block.as_chunks_mut::<8>();
        for word in words {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            *word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_ne_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_random_pages_are_equal() {
        let memory = fill(64 * BLOCK + 5, Pattern::Random, 7);
        assert_eq!(memory.len(), 64 * BLOCK + 5);
        let pages: HashSet<&[u8]> = memory.chunks(BLOCK).collect();
        assert_eq!(pages.len(), 65);
    }

    #[test]
    fn each_pattern_has_the_asked_size() {
        for pattern in [Pattern::Random, Pattern::Zero, Pattern::Text] {
            assert_eq!(fill(10_000, pattern, 1).len(), 10_000, "{pattern:?}");
            assert_eq!(fill(0, pattern, 1).len(), 0, "{pattern:?}");
        }
        assert!(fill(10_000, Pattern::Zero, 1).iter().all(|&byte| byte == 0));
    }
}
