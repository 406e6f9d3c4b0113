//! aarch64, to the letter of the kernel's `struct user_pt_regs` and `struct user_fpsimd_state`. Never run so far.
//!
//! An interrupted system call needs no setting back: this kernel restores the registers before it lets a tracer look
//! (arch/arm64/kernel/signal.c).

use cri_proto::criu::message::{
    CoreEntry, ThreadInfoAarch64, UserAarch64FpsimdContextEntry, UserAarch64RegsEntry, core_entry::March,
};

use super::{set, word, words64};
use crate::process::ptrace::RegisterSet;

/// This machine, in CRIU's numbers.
pub(in super::super) const MACHINE: March = March::Aarch64;

/// The general registers x0 to x30.
const GENERAL: usize = 31;
/// The bytes of the 32 vector registers.
const VECTORS: usize = 512;
/// What there is to read.
pub(super) const SETS: &[RegisterSet] = &[RegisterSet::General, RegisterSet::FloatingPoint, RegisterSet::Arm64Tls];

pub(super) fn core(sets: &[Vec<u8>]) -> CoreEntry {
    let [general, vectors, tls] = [0, 1, 2].map(|nth| set(sets, nth));
    let controls = word(vectors, VECTORS / 8);
    let gpregs = UserAarch64RegsEntry {
        regs: (0..GENERAL).map(|index| word(general, index)).collect(),
        sp: word(general, GENERAL),
        pc: word(general, GENERAL + 1),
        pstate: word(general, GENERAL + 2),
    };
    CoreEntry {
        mtype: MACHINE.into(),
        ti_aarch64: Some(ThreadInfoAarch64 {
            clear_tid_addr: 0,
            tls: word(tls, 0),
            gpregs,
            fpsimd: UserAarch64FpsimdContextEntry {
                vregs: words64(vectors.get(..VECTORS).unwrap_or(&[])),
                fpsr: controls as u32,
                fpcr: (controls >> 32) as u32,
            },
            pac_keys: None,
        }),
        ..CoreEntry::default()
    }
}
