//! Bytes that stand in one place of the memory alone: on the stack, on a thread's stack, in shared memory, on the heap.
//!
//! All come from the canary that the log tells, so whoever reads the log can look for them; none is ever told or copied
//! itself. Each is made word by word where it stays, so that no other place holds it whole.

use std::{
    hint::black_box,
    io,
    sync::{Arc, Barrier},
    thread,
};

use crate::process::workload;

/// Words of a canary.
const WORDS: usize = 8;

/// A place that has a canary of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first thread's stack.
    Stack,
    /// The stack of a thread more.
    Thread,
    /// Shared anonymous memory.
    Shared,
    /// The heap: it is followed by the number of the last tick, as 8 bytes in the machine's order.
    Pulse,
}

impl Place {
    /// What stands there in a process whose log told this canary; `None` when that is none.
    pub fn bytes(self, canary: &str) -> Option<Vec<u8>> {
        let mut words = [0; WORDS];
        fill(&mut words, seed(canary)?, self);
        Some(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
    }
}

/// Canaries that a process holds until its end.
#[derive(Debug)]
pub(super) struct Held {
    shared: &'static mut [u64],
    pulse: Box<[u64]>,
}

impl Held {
    /// Takes shared memory and a thread more, and puts a canary into each, but for the stack's.
    pub(super) fn new(canary: &str) -> Result<Held, String> {
        let seed = seed(canary).ok_or("the canary is too short")?;
        let failed = |error: io::Error| format!("hold canaries: {error}");
        let shared = workload::shared_words(WORDS).map_err(failed)?;
        fill(shared, seed, Place::Shared);
        let mut pulse = vec![0; WORDS + 1].into_boxed_slice();
        fill(&mut pulse[..WORDS], seed, Place::Pulse);
        let up = Arc::new(Barrier::new(2));
        let there = Arc::clone(&up);
        thread::Builder::new()
            .name("canary".to_owned())
            .stack_size(128 << 10)
            .spawn(move || {
                let mut stack = [0; WORDS];
                fill(&mut stack, seed, Place::Thread);
                there.wait();
                loop {
                    black_box(&mut stack);
                    thread::park();
                }
            })
            .map_err(failed)?;
        // Whoever reads in the log that this process is up may look for it at once.
        up.wait();
        Ok(Held { shared, pulse })
    }

    /// A tick more.
    pub(super) fn beat(&mut self, tick: u64) {
        self.pulse[WORDS] = tick;
        black_box((&mut self.pulse, &mut self.shared));
    }
}

/// Words on the stack of whoever holds them.
pub(super) fn on_stack(stack: &mut [u64; WORDS], canary: &str) {
    if let Some(seed) = seed(canary) {
        fill(stack, seed, Place::Stack);
    }
}

fn seed(canary: &str) -> Option<u64> {
    u64::from_str_radix(canary.get(..16)?, 16).ok()
}

/// SplitMix64 (Steele, Lea, Flood 2014), each place with a stream of its own.
fn fill(words: &mut [u64], seed: u64, place: Place) {
    let stream = seed ^ (place as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93);
    for (number, word) in words.iter_mut().enumerate() {
        let mut bits = stream.wrapping_add((number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *word = bits ^ (bits >> 31);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_and_each_canary_has_bytes_of_its_own() {
        let (one, two) = ("0123456789abcdef01", "0123456789abcdee01");
        let all: Vec<_> = [Place::Stack, Place::Thread, Place::Shared, Place::Pulse]
            .into_iter()
            .flat_map(|place| [place.bytes(one), place.bytes(two)])
            .map(Option::unwrap)
            .collect();
        for (number, bytes) in all.iter().enumerate() {
            assert_eq!(bytes.len(), 64);
            assert!(!all[..number].contains(bytes));
        }
        assert_eq!(Place::Stack.bytes("abc"), None);
    }
}
