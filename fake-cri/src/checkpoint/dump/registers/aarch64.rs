//! aarch64, according to the kernel's `struct user_pt_regs` and `struct user_fpsimd_state`. Untested so far.
//!
//! An interrupted system call needs no adjustment: the kernel restores the registers before a tracer can read them
//! (arch/arm64/kernel/signal.c).

use cri_proto::criu::message::{
    CoreEntry, ThreadInfoAarch64, UserAarch64FpsimdContextEntry, UserAarch64RegsEntry, core_entry::March,
};

use super::{register_set, u64_at, u64_words};
use crate::process::ptrace::{GeneralRegs, RegisterSet};

/// CRIU's constant for this architecture.
pub(in super::super) const CORE_MARCH: March = March::Aarch64;

/// The bytes of the 32 vector registers.
const VECTOR_BYTES: usize = 512;
pub(super) const REGISTER_SETS: &[RegisterSet] = &[RegisterSet::FloatingPoint, RegisterSet::Arm64Tls];

pub(super) fn core(general: Option<&GeneralRegs>, sets: &[Vec<u8>]) -> CoreEntry {
    let [vectors, tls] = [0, 1].map(|index| register_set(sets, index));
    let controls = u64_at(vectors, VECTOR_BYTES / 8);
    let gpregs = general.map_or_else(UserAarch64RegsEntry::default, |general| UserAarch64RegsEntry {
        regs: general.regs.to_vec(),
        sp: general.sp,
        pc: general.pc,
        pstate: general.pstate,
    });
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
