//! The registers of a thread in CRIU's format, one file per architecture.

#[cfg(target_arch = "x86_64")]
#[path = "registers/x86_64.rs"]
mod machine;

#[cfg(target_arch = "aarch64")]
#[path = "registers/aarch64.rs"]
mod machine;

use cri_proto::criu::message::CoreEntry;

pub(super) use self::machine::CORE_MARCH;
use crate::process::{
    Tid,
    ptrace::{self, GeneralRegs},
};

/// The registers of a stopped thread.
pub(super) struct Registers {
    /// `None` for a 32-bit program.
    general: Option<GeneralRegs>,
    /// The other registers, in the kernel's format.
    sets: Vec<Vec<u8>>,
}

impl Registers {
    pub(super) fn read(tid: Tid) -> nix::Result<Self> {
        let sets = machine::REGISTER_SETS.iter().map(|set| ptrace::register_set(tid, *set));
        Ok(Self {
            general: ptrace::general_regs(tid)?,
            sets: sets.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn is_foreign_abi(&self) -> bool {
        self.general.is_none()
    }

    /// A core image with only these registers.
    pub(super) fn core(&self) -> CoreEntry {
        machine::core(self.general.as_ref(), &self.sets)
    }
}

/// The register set at `index`; empty if absent.
fn register_set(sets: &[Vec<u8>], index: usize) -> &[u8] {
    sets.get(index).map_or(&[], Vec::as_slice)
}

/// The little-endian 8-byte word at `index`; 0 beyond the end.
fn u64_at(bytes: &[u8], index: usize) -> u64 {
    bytes
        .get(index * 8..index * 8 + 8)
        .map_or(0, |word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
}

#[cfg(target_arch = "x86_64")]
fn u32_words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")))
        .collect()
}

fn u64_words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .collect()
}
