//! aarch64, according to the kernel's `struct user_pt_regs` and `struct user_fpsimd_state`. Untested so far.
//!
//! An interrupted system call needs no adjustment: the kernel restores the registers before a tracer can read them
//! (arch/arm64/kernel/signal.c).

use cri_proto::criu::message::{
    CoreEntry, ThreadInfoAarch64, UserAarch64FpsimdContextEntry, UserAarch64RegsEntry, core_entry::March,
};

use super::{register_set, u64_at, u64_words};
use crate::process::ptrace::RegisterSet;

/// CRIU's constant for this architecture.
pub(in super::super) const CORE_MARCH: March = March::Aarch64;

/// The general registers x0 to x30.
const GENERAL_REGISTERS: usize = 31;
/// The bytes of the 32 vector registers.
const VECTOR_BYTES: usize = 512;
pub(super) const REGISTER_SETS: &[RegisterSet] =
    &[RegisterSet::General, RegisterSet::FloatingPoint, RegisterSet::Arm64Tls];

pub(super) fn core(sets: &[Vec<u8>]) -> CoreEntry {
    let [general, vectors, tls] = [0, 1, 2].map(|index| register_set(sets, index));
    let controls = u64_at(vectors, VECTOR_BYTES / 8);
    let gpregs = UserAarch64RegsEntry {
        regs: (0..GENERAL_REGISTERS).map(|index| u64_at(general, index)).collect(),
        sp: u64_at(general, GENERAL_REGISTERS),
        pc: u64_at(general, GENERAL_REGISTERS + 1),
        pstate: u64_at(general, GENERAL_REGISTERS + 2),
    };
    CoreEntry {
        mtype: CORE_MARCH.into(),
        ti_aarch64: Some(ThreadInfoAarch64 {
            clear_tid_addr: 0,
            tls: u64_at(tls, 0),
            gpregs,
            fpsimd: UserAarch64FpsimdContextEntry {
                vregs: u64_words(vectors.get(..VECTOR_BYTES).unwrap_or(&[])),
                fpsr: controls as u32,
                fpcr: (controls >> 32) as u32,
            },
            pac_keys: None,
        }),
        ..CoreEntry::default()
    }
}
