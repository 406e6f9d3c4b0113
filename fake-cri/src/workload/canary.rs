//! Canaries that occur at one place of memory only: the main stack, a thread's stack, shared memory, the heap.
//!
//! All are derived from the canary in the log, so a test that reads the log can search for them. They are never logged
//! or copied, and each is computed word by word at its place, so that no other place holds a complete copy.

use std::{
    hint::black_box,
    io,
    sync::{Arc, Barrier},
    thread,
};

use crate::process::workload_syscalls;

/// The length of a canary in 64-bit words.
const CANARY_WORDS: usize = 8;

/// A place in memory with its own canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanaryLocation {
    /// The stack of the main thread.
    Stack,
    /// The stack of an additional thread.
    Thread,
    /// Shared anonymous memory.
    Shared,
    /// The heap. The number of the last heartbeat follows, as 8 bytes in native byte order.
    HeapHeartbeat,
}

impl CanaryLocation {
    /// Returns the bytes at this place in a process that logged `canary`; `None` if `canary` is malformed.
    pub fn bytes(self, canary: &str) -> Option<Vec<u8>> {
        let mut words = [0; CANARY_WORDS];
        fill_words(&mut words, parse_seed(canary)?, self);
        Some(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
    }
}

/// The canaries of a process, except the one on the main stack.
#[derive(Debug)]
pub(super) struct Canaries {
    shared: &'static mut [u64],
    heap_heartbeat: Box<[u64]>,
}

impl Canaries {
    /// Creates the shared memory, the heap block and the thread, each with its canary.
    pub(super) fn new(canary: &str) -> Result<Canaries, String> {
        let seed = parse_seed(canary).ok_or("the canary is too short")?;
        let failed = |error: io::Error| format!("create the canaries: {error}");
        let shared = workload_syscalls::shared_words(CANARY_WORDS).map_err(failed)?;
        fill_words(shared, seed, CanaryLocation::Shared);
        let mut heap_heartbeat = vec![0; CANARY_WORDS + 1].into_boxed_slice();
        fill_words(&mut heap_heartbeat[..CANARY_WORDS], seed, CanaryLocation::HeapHeartbeat);
        let ready = Arc::new(Barrier::new(2));
        let thread_ready = Arc::clone(&ready);
        thread::Builder::new()
            .name("canary".to_owned())
            .stack_size(128 << 10)
            .spawn(move || {
                let mut stack = [0; CANARY_WORDS];
                fill_words(&mut stack, seed, CanaryLocation::Thread);
                thread_ready.wait();
                loop {
                    black_box(&mut stack);
                    thread::park();
                }
            })
            .map_err(failed)?;
        // A test may search for the canary as soon as the log says that the process is ready.
        ready.wait();
        Ok(Canaries { shared, heap_heartbeat })
    }

    /// Stores the number of the last heartbeat.
    pub(super) fn record_heartbeat(&mut self, heartbeat: u64) {
        self.heap_heartbeat[CANARY_WORDS] = heartbeat;
        black_box((&mut self.heap_heartbeat, &mut self.shared));
    }
}

/// Writes the canary of [`CanaryLocation::Stack`] into words on the caller's stack.
pub(super) fn fill_stack(stack: &mut [u64; CANARY_WORDS], canary: &str) {
    if let Some(seed) = parse_seed(canary) {
        fill_words(stack, seed, CanaryLocation::Stack);
    }
}

fn parse_seed(canary: &str) -> Option<u64> {
    u64::from_str_radix(canary.get(..16)?, 16).ok()
}

/// SplitMix64 (Steele, Lea, Flood 2014), with one stream for each place.
fn fill_words(words: &mut [u64], seed: u64, location: CanaryLocation) {
    let stream = seed ^ (location as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93);
    for (index, word) in words.iter_mut().enumerate() {
        let mut bits = stream.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *word = bits ^ (bits >> 31);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_and_canaries_have_distinct_bytes() {
        let (one, two) = ("0123456789abcdef01", "0123456789abcdee01");
        let all: Vec<_> = [
            CanaryLocation::Stack,
            CanaryLocation::Thread,
            CanaryLocation::Shared,
            CanaryLocation::HeapHeartbeat,
        ]
        .into_iter()
        .flat_map(|location| [location.bytes(one), location.bytes(two)])
        .map(Option::unwrap)
        .collect();
        for (index, bytes) in all.iter().enumerate() {
            assert_eq!(bytes.len(), 64);
            assert!(!all[..index].contains(bytes));
        }
        assert_eq!(CanaryLocation::Stack.bytes("abc"), None);
    }
}
