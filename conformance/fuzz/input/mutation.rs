//! Mutates valid inputs like a fuzzer. The `hostile` tests use this strategy without nightly Rust.

use proptest::{prelude::*, sample::Index};

/// A single mutation.
#[derive(Clone, Debug)]
enum Mutation {
    /// Flips a bit.
    Flip(Index, u32),
    /// Replaces a byte, often by a value that is special in numbers, lengths or names.
    Byte(Index, u8),
    /// Replaces a little-endian 32-bit word, the type of lengths and magics.
    Word(Index, u32),
    /// Truncates the input.
    Cut(Index),
    /// Removes a range.
    Remove(Index, usize),
    /// Repeats a range.
    Repeat(Index, usize),
    /// Inserts a range of another valid input.
    Splice(Index, Index, Index, usize),
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        if bytes.is_empty() {
            return;
        }
        let part = |at: &Index, length: usize, of: &[u8]| {
            let start = at.index(of.len());
            start..(start + length).min(of.len())
        };
        match self {
            Self::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1_u8 << bit;
            }
            Self::Byte(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Word(at, word) => {
                let range = part(at, 4, bytes);
                let word = &word.to_le_bytes()[..range.len()];
                bytes[range].copy_from_slice(word);
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Remove(at, length) => drop(bytes.drain(part(at, *length, bytes))),
            Self::Repeat(at, length) => {
                let range = part(at, *length, bytes);
                let again = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, again);
            }
            Self::Splice(at, seed, from, length) => {
                let seed = &seeds[seed.index(seeds.len())];
                let range = part(from, *length, seed);
                let at = at.index(bytes.len());
                bytes.splice(at..at, seed[range].iter().copied());
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let byte = prop_oneof![
        Just(0),
        Just(0x7f),
        Just(0x80),
        Just(0xff),
        Just(b'/'),
        Just(b'.'),
        any::<u8>()
    ];
    let word = prop_oneof![
        Just(0),
        Just(u32::MAX),
        Just(i32::MAX as u32),
        Just(16 << 20),
        any::<u32>()
    ];
    // Half of the lengths are whole tar blocks.
    let length = || prop_oneof![1..64_usize, (1..8_usize).prop_map(|blocks| blocks * 512)];
    prop_oneof![
        4 => (at(), 0..8_u32).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        4 => (at(), byte).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        3 => (at(), word).prop_map(|(at, word)| Mutation::Word(at, word)),
        1 => at().prop_map(Mutation::Cut),
        2 => (at(), length()).prop_map(|(at, length)| Mutation::Remove(at, length)),
        2 => (at(), length()).prop_map(|(at, length)| Mutation::Repeat(at, length)),
        2 => (at(), at(), at(), length()).prop_map(|(at, seed, from, length)| Mutation::Splice(at, seed, from, length)),
    ]
}

/// Applies a few mutations to one of the seeds.
pub(crate) fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (any::<Index>(), prop::collection::vec(mutation(), 1..8)).prop_map(move |(seed, mutations)| {
        let mut bytes = seeds[seed.index(seeds.len())].clone();
        for mutation in mutations {
            mutation.apply(&mut bytes, &seeds);
        }
        bytes
    })
}
