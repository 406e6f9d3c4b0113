//! The registers of a thread as CRIU's images hold them, one file an architecture.

#[cfg(target_arch = "x86_64")]
#[path = "registers/x86_64.rs"]
mod machine;

#[cfg(target_arch = "aarch64")]
#[path = "registers/aarch64.rs"]
mod machine;

use cri_proto::criu::message::CoreEntry;

pub(super) use self::machine::CORE_MARCH;
#[cfg(target_arch = "x86_64")]
pub(in crate::checkpoint) use self::machine::{XFeature, xfeature_range};
use crate::process::ptrace;

/// The registers of a stopped thread as the kernel gave them.
pub(super) struct Registers(Vec<Vec<u8>>);

impl Registers {
    /// Those of a thread.
    pub(super) fn read(tid: i32) -> nix::Result<Self> {
        let sets = machine::REGISTER_SETS.iter().map(|set| ptrace::registers(tid, *set));
        sets.collect::<Result<_, _>>().map(Self)
    }

    /// A core image with these registers and nothing else.
    pub(super) fn core(&self) -> CoreEntry {
        machine::core(&self.0)
    }
}

/// The nth set; without bytes behind the end.
fn register_set(sets: &[Vec<u8>], index: usize) -> &[u8] {
    sets.get(index).map_or(&[], Vec::as_slice)
}

/// The nth little-endian word of eight bytes; zero behind the end.
fn u64_at(bytes: &[u8], index: usize) -> u64 {
    bytes
        .get(index * 8..index * 8 + 8)
        .map_or(0, |word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
}

/// All words of four bytes.
#[cfg(target_arch = "x86_64")]
fn u32_words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")))
        .collect()
}

/// All words of eight bytes.
fn u64_words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .collect()
}
