//! Registers of x86-64.
//!
//! The recorded xsave state is written over the xsave area of a task of this machine, whose layout is kept. A feature
//! that the thread used and that this processor lacks is an error.

use cri_proto::criu::message::{
    CoreEntry, UserX86FpregsEntry, UserX86RegsEntry, UserX86RegsMode, UserX86XsaveEntry, core_entry::March,
};

use super::super::RestoreError;
use crate::process::{
    Tid,
    arch::{XFeature, XSAVE_LEGACY_BYTES, XSTATE_BV_OFFSET, xfeature_range},
    ptrace::{self, GeneralRegs, RegisterSet},
};

/// x87 and SSE, whose state is in the legacy area.
const LEGACY_FEATURES: u64 = 3;
/// Segment selectors of a 64-bit program (arch/x86/include/asm/segment.h).
const USER_CS: u64 = 0x33;
const USER_DS: u64 = 0x2b;
/// The flags that a program may set, and the fixed ones: IF, and bit 1, which is always set.
const USER_EFLAGS: u64 = 0x25_4dd5;
const FIXED_EFLAGS: u64 = 0x202;

pub(in super::super) fn check_supported() -> Result<(), RestoreError> {
    Ok(())
}

/// Checks that a thread is of this architecture.
pub(in super::super) fn check_machine(core: &CoreEntry) -> Result<(), RestoreError> {
    let machine = core.mtype();
    if machine != March::X8664 {
        return Err(RestoreError::MachineMismatch(format!(
            "the archive was made on another machine: {machine:?}, this machine is X8664"
        )));
    }
    let Some(info) = &core.thread_info else { return Ok(()) };
    if info
        .gpregs
        .mode
        .is_some_and(|mode| mode != i32::from(UserX86RegsMode::Native))
    {
        return Err(RestoreError::Unsupported("a 32-bit program".to_owned()));
    }
    let shadow = info.fpregs.xsave.as_ref().and_then(|xsave| xsave.cet.as_ref());
    if shadow.is_some_and(|cet| cet.cet != 0) {
        return Err(RestoreError::Unsupported("a shadow stack".to_owned()));
    }
    Ok(())
}

/// Checks that the registers of a thread can be set on this machine.
pub(in super::super) fn check(core: &CoreEntry) -> Result<(), RestoreError> {
    const MAX_XSAVE_BYTES: usize = 16 << 10;
    let info = core
        .thread_info
        .as_ref()
        .ok_or_else(|| RestoreError::malformed("core", "the registers are missing"))?;
    overlay_xsave(&mut vec![0; MAX_XSAVE_BYTES], &info.fpregs)
}

/// Whether two threads of a process have the same registers, including stack and thread pointer.
pub(in super::super) fn same_registers(left: &CoreEntry, right: &CoreEntry) -> bool {
    match (&left.thread_info, &right.thread_info) {
        (Some(left), Some(right)) => left.gpregs == right.gpregs,
        _ => false,
    }
}

pub(in super::super) fn set(tid: Tid, core: &CoreEntry) -> Result<(), RestoreError> {
    let info = core
        .thread_info
        .as_ref()
        .ok_or_else(|| RestoreError::malformed("core", "the registers are missing"))?;
    let step_error = |errno| RestoreError::step("set registers", errno);
    let mut extended = ptrace::register_set(tid, RegisterSet::X86Extended).map_err(step_error)?;
    overlay_xsave(&mut extended, &info.fpregs)?;
    ptrace::set_register_set(tid, RegisterSet::X86Extended, &extended).map_err(step_error)?;
    ptrace::set_general_regs(tid, &general_regs(&info.gpregs)).map_err(step_error)
}

/// `orig_rax` is -1: the thread is in no system call, because the dump sets the registers of an interrupted system call
/// back to before the call.
fn general_regs(entry: &UserX86RegsEntry) -> GeneralRegs {
    GeneralRegs {
        r15: entry.r15,
        r14: entry.r14,
        r13: entry.r13,
        r12: entry.r12,
        rbp: entry.bp,
        rbx: entry.bx,
        r11: entry.r11,
        r10: entry.r10,
        r9: entry.r9,
        r8: entry.r8,
        rax: entry.ax,
        rcx: entry.cx,
        rdx: entry.dx,
        rsi: entry.si,
        rdi: entry.di,
        orig_rax: u64::MAX,
        rip: entry.ip,
        cs: USER_CS,
        eflags: entry.flags & USER_EFLAGS | FIXED_EFLAGS,
        rsp: entry.sp,
        ss: USER_DS,
        fs_base: entry.fs_base,
        gs_base: entry.gs_base,
        ds: 0,
        es: 0,
        fs: 0,
        gs: 0,
    }
}

/// Writes the recorded state over this machine's xsave area.
fn overlay_xsave(xsave: &mut [u8], entry: &UserX86FpregsEntry) -> Result<(), RestoreError> {
    let size_mismatch =
        |detail: &str| RestoreError::malformed("core", format!("{detail} differs in size from this machine's"));
    let mut legacy = Vec::with_capacity(XSAVE_LEGACY_BYTES);
    for half in [entry.cwd, entry.swd, entry.twd, entry.fop] {
        legacy.extend((half as u16).to_le_bytes());
    }
    legacy.extend(entry.rip.to_le_bytes());
    legacy.extend(entry.rdp.to_le_bytes());
    legacy.extend(entry.mxcsr.to_le_bytes());
    legacy.extend(entry.mxcsr_mask.to_le_bytes());
    legacy.extend(
        entry
            .st_space
            .iter()
            .chain(&entry.xmm_space)
            .flat_map(|word| word.to_le_bytes()),
    );
    if legacy.len() != XSAVE_LEGACY_BYTES {
        return Err(size_mismatch("the legacy state"));
    }
    xsave
        .get_mut(..XSAVE_LEGACY_BYTES)
        .ok_or_else(|| size_mismatch("xsave"))?
        .copy_from_slice(&legacy);
    let (xstate_bv, parts) = match &entry.xsave {
        Some(state) => (state.xstate_bv, parts(state)),
        None => (LEGACY_FEATURES, Vec::new()),
    };
    let mut known_features = LEGACY_FEATURES;
    for (part, bytes) in parts {
        let bit = 1_u64 << part as u32;
        known_features |= bit;
        if xstate_bv & bit == 0 {
            continue;
        }
        let target = xfeature_range(part).and_then(|range| xsave.get_mut(range));
        match target {
            Some(target) if target.len() == bytes.len() => target.copy_from_slice(&bytes),
            Some(_) => return Err(size_mismatch(&format!("{part:?}"))),
            None => {
                let detail = format!("a thread uses {part:?}, which this processor does not have");
                return Err(RestoreError::MachineMismatch(detail));
            }
        }
    }
    if xstate_bv & !known_features != 0 {
        let detail = format!("xsave features {:x}", xstate_bv & !known_features);
        return Err(RestoreError::Unsupported(detail));
    }
    let header = xsave
        .get_mut(XSTATE_BV_OFFSET..XSTATE_BV_OFFSET + 8)
        .ok_or_else(|| size_mismatch("xsave"))?;
    header.copy_from_slice(&xstate_bv.to_le_bytes());
    Ok(())
}

/// The recorded xsave features.
fn parts(state: &UserX86XsaveEntry) -> Vec<(XFeature, Vec<u8>)> {
    fn bytes32(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
    fn bytes64(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
    vec![
        (XFeature::Ymm, bytes32(&state.ymmh_space)),
        (XFeature::Bndregs, bytes64(&state.bndreg_state)),
        (XFeature::Bndcsr, bytes64(&state.bndcsr_state)),
        (XFeature::Opmask, bytes64(&state.opmask_reg)),
        (XFeature::ZmmHi256, bytes64(&state.zmm_upper)),
        (XFeature::Hi16Zmm, bytes64(&state.hi16_zmm)),
        (XFeature::Pkru, bytes32(&state.pkru)),
    ]
}
