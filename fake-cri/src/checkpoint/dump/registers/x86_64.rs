//! x86-64.

use cri_proto::criu::message::{
    CoreEntry, ThreadInfoX86, UserDescT, UserX86CetEntry, UserX86FpregsEntry, UserX86RegsEntry, UserX86RegsMode,
    UserX86XsaveEntry, core_entry::March,
};

use super::{register_set, u32_words, u64_at, u64_words};
use crate::process::{
    arch::{XFeature, XSTATE_BV_OFFSET, xfeature_range},
    ptrace::{GeneralRegs, RegisterSet},
};

/// CRIU's constant for this architecture.
pub(in super::super) const CORE_MARCH: March = March::X8664;

/// The errors that mark an interrupted system call that the kernel restarts (linux/errno.h). Programs never see them.
const RESTART_ERRNOS: [i64; 3] = [-512, -513, -514];
/// The same for a call that continues by restart_syscall, which a restored process cannot do.
const ERESTART_RESTARTBLOCK: i64 = -516;
/// The length of the `syscall` instruction.
const SYSCALL_INSN_BYTES: u64 = 2;
/// The first of the three TLS slots in the GDT.
const GDT_ENTRY_TLS_MIN: u32 = 12;

pub(super) const REGISTER_SETS: &[RegisterSet] = &[RegisterSet::X86Extended];

pub(super) fn core(general: Option<&GeneralRegs>, sets: &[Vec<u8>]) -> CoreEntry {
    CoreEntry {
        mtype: CORE_MARCH.into(),
        thread_info: Some(ThreadInfoX86 {
            clear_tid_addr: 0,
            gpregs: general.map_or_else(foreign_registers, general_registers),
            fpregs: floating_point(register_set(sets, 0), xfeature_bytes),
            tls: (GDT_ENTRY_TLS_MIN..GDT_ENTRY_TLS_MIN + 3).map(empty_segment).collect(),
        }),
        ..CoreEntry::default()
    }
}

fn general_registers(regs: &GeneralRegs) -> UserX86RegsEntry {
    let mut registers = UserX86RegsEntry {
        r15: regs.r15,
        r14: regs.r14,
        r13: regs.r13,
        r12: regs.r12,
        bp: regs.rbp,
        bx: regs.rbx,
        r11: regs.r11,
        r10: regs.r10,
        r9: regs.r9,
        r8: regs.r8,
        ax: regs.rax,
        cx: regs.rcx,
        dx: regs.rdx,
        si: regs.rsi,
        di: regs.rdi,
        orig_ax: regs.orig_rax,
        ip: regs.rip,
        cs: regs.cs,
        flags: regs.eflags,
        sp: regs.rsp,
        ss: regs.ss,
        fs_base: regs.fs_base,
        gs_base: regs.gs_base,
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
        mode: Some(UserX86RegsMode::Native.into()),
    };
    reset_interrupted_syscall(&mut registers);
    registers
}

/// Resets an interrupted system call to its start, as CRIU does (criu/arch/x86).
fn reset_interrupted_syscall(registers: &mut UserX86RegsEntry) {
    let result = registers.ax.cast_signed();
    if registers.orig_ax.cast_signed() >= 0 {
        if RESTART_ERRNOS.contains(&result) {
            registers.ax = registers.orig_ax;
            registers.ip = registers.ip.wrapping_sub(SYSCALL_INSN_BYTES);
        } else if result == ERESTART_RESTARTBLOCK {
            registers.ax = i64::from(-libc::EINTR).cast_unsigned();
        }
    }
}

/// The registers of a 32-bit program are not dumped; the log reports them.
fn foreign_registers() -> UserX86RegsEntry {
    UserX86RegsEntry {
        mode: Some(UserX86RegsMode::Compat.into()),
        ..UserX86RegsEntry::default()
    }
}

/// The bytes of a feature at this CPU's offset; empty if the CPU does not have it.
fn xfeature_bytes(xsave: &[u8], part: XFeature) -> &[u8] {
    xfeature_range(part).and_then(|range| xsave.get(range)).unwrap_or(&[])
}

/// `xsave` with its legacy region, `fxsave` (Intel SDM volume 1, 10.5.1).
fn floating_point(xsave: &[u8], part: impl for<'a> Fn(&'a [u8], XFeature) -> &'a [u8]) -> UserX86FpregsEntry {
    let u16_field = |offset: usize| u32::from(xsave.get(offset).copied().unwrap_or(0)) | high_byte(xsave, offset);
    let u64_field = |offset: usize| u64_at(xsave, offset / 8);
    let u32_range = |from: usize, to: usize| u32_words(xsave.get(from..to).unwrap_or(&[]));
    let cet = part(xsave, XFeature::CetUser);
    UserX86FpregsEntry {
        cwd: u16_field(0),
        swd: u16_field(2),
        twd: u16_field(4),
        fop: u16_field(6),
        rip: u64_field(8),
        rdp: u64_field(16),
        mxcsr: u64_field(24) as u32,
        mxcsr_mask: (u64_field(24) >> 32) as u32,
        st_space: u32_range(32, 160),
        xmm_space: u32_range(160, 416),
        padding: Vec::new(),
        xsave: Some(UserX86XsaveEntry {
            xstate_bv: u64_at(xsave, XSTATE_BV_OFFSET / 8),
            ymmh_space: u32_words(part(xsave, XFeature::Ymm)),
            bndreg_state: u64_words(part(xsave, XFeature::Bndregs)),
            bndcsr_state: u64_words(part(xsave, XFeature::Bndcsr)),
            opmask_reg: u64_words(part(xsave, XFeature::Opmask)),
            zmm_upper: u64_words(part(xsave, XFeature::ZmmHi256)),
            hi16_zmm: u64_words(part(xsave, XFeature::Hi16Zmm)),
            pkru: u32_words(part(xsave, XFeature::Pkru)),
            cet: (!cet.is_empty()).then(|| UserX86CetEntry {
                cet: u64_at(cet, 0),
                ssp: u64_at(cet, 1),
            }),
        }),
    }
}

/// The upper byte of a 2-byte word, shifted into place.
fn high_byte(bytes: &[u8], offset: usize) -> u32 {
    u32::from(bytes.get(offset + 1).copied().unwrap_or(0)) << 8
}

/// An unused TLS slot; 64-bit programs use the base registers instead.
fn empty_segment(entry_number: u32) -> UserDescT {
    UserDescT {
        entry_number,
        base_addr: 0,
        limit: 0,
        seg_32bit: false,
        contents_h: false,
        contents_l: false,
        read_exec_only: true,
        limit_in_pages: false,
        seg_not_present: true,
        usable: false,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::restarts(-512, 0, 0, 98)]
    #[case::restarts_always(-513, 7, 7, 98)]
    #[case::restarts_without_handler(-514, 35, 35, 98)]
    #[case::cannot_go_on(-516, 35, -4, 100)]
    #[case::result(-4, 35, -4, 100)]
    #[case::no_system_call(-512, -1, -512, 100)]
    fn interrupted_syscalls_are_restarted(
        #[case] ax: i64,
        #[case] orig_ax: i64,
        #[case] expected: i64,
        #[case] ip: u64,
    ) {
        let mut registers = UserX86RegsEntry {
            ax: ax.cast_unsigned(),
            orig_ax: orig_ax.cast_unsigned(),
            ip: 100,
            ..UserX86RegsEntry::default()
        };
        reset_interrupted_syscall(&mut registers);
        assert_eq!((registers.ax.cast_signed(), registers.ip), (expected, ip));
        assert_eq!(registers.orig_ax.cast_signed(), orig_ax);
    }

    #[test]
    fn xfeatures_are_read_at_the_cpuid_offsets() {
        let mut xsave = vec![0_u8; 2048];
        xsave[0..8].copy_from_slice(&[0x7f, 0x03, 1, 2, 0xff, 0, 3, 4]);
        xsave[24..32].copy_from_slice(&[0x80, 0x1f, 0, 0, 0xff, 0xff, 2, 0]);
        xsave[160..164].copy_from_slice(&[1, 0, 0, 0]);
        xsave[512] = 7;
        xsave[832..840].copy_from_slice(&5_u64.to_le_bytes());
        // AMD keeps the mask registers at 832, Intel at 1088.
        let fpregs = floating_point(&xsave, |bytes, part| match part {
            XFeature::Ymm => &bytes[576..832],
            XFeature::Opmask => &bytes[832..896],
            _ => &[],
        });
        assert_eq!(
            (fpregs.cwd, fpregs.swd, fpregs.twd, fpregs.fop),
            (0x37f, 0x201, 0xff, 0x403)
        );
        assert_eq!((fpregs.mxcsr, fpregs.mxcsr_mask), (0x1f80, 0x2_ffff));
        assert_eq!(
            (fpregs.st_space.len(), fpregs.xmm_space.len(), fpregs.xmm_space[0]),
            (32, 64, 1)
        );
        let parts = fpregs.xsave.expect("written");
        assert_eq!(
            (parts.xstate_bv, parts.ymmh_space.len(), parts.opmask_reg[0]),
            (7, 64, 5)
        );
        assert!(parts.zmm_upper.is_empty() && parts.pkru.is_empty() && parts.cet.is_none());
    }
}
