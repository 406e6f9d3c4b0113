//! x86-64: the registers of remote syscalls, and the layout of the `xsave` area.

use std::{arch::x86_64::__cpuid_count, ops::Range};

use super::ptrace::GeneralRegs;

/// The stub that executes a list ([`super::remote_syscalls`]). r12: the current entry; r13: the first entry of a child's
/// list; r14: how often the stub yields at the end before it pauses.
#[rustfmt::skip]
pub(super) const LIST_STUB: Option<&[u8]> = Some(&[
    // next:
    0x49, 0x8b, 0x04, 0x24,                               // mov  rax, [r12]
    0x48, 0x85, 0xc0,                                     // test rax, rax
    0x78, 0x3d,                                           // js   end
    0x49, 0x8b, 0x7c, 0x24, 0x08,                         // mov  rdi, [r12 + 8]
    0x49, 0x8b, 0x74, 0x24, 0x10,                         // mov  rsi, [r12 + 16]
    0x49, 0x8b, 0x54, 0x24, 0x18,                         // mov  rdx, [r12 + 24]
    0x4d, 0x8b, 0x54, 0x24, 0x20,                         // mov  r10, [r12 + 32]
    0x4d, 0x8b, 0x44, 0x24, 0x28,                         // mov  r8, [r12 + 40]
    0x4d, 0x8b, 0x4c, 0x24, 0x30,                         // mov  r9, [r12 + 48]
    0x0f, 0x05,                                           // syscall
    0x49, 0x89, 0x44, 0x24, 0x38,                         // mov  [r12 + 56], rax
    0x49, 0x8b, 0x0c, 0x24,                               // mov  rcx, [r12]
    0x49, 0x83, 0xec, 0x80,                               // sub  r12, -128
    0x48, 0x83, 0xf9, 0x38,                               // cmp  rcx, SYS_clone
    0x75, 0xc4,                                           // jne  next
    0x48, 0x85, 0xc0,                                     // test rax, rax
    0x75, 0xbf,                                           // jne  next
    0x4d, 0x89, 0xec,                                     // mov  r12, r13
    0xeb, 0xba,                                           // jmp  next
    // end:
    0x49, 0xc7, 0x44, 0x24, 0x38, 0x01, 0x00, 0x00, 0x00, // mov  qword [r12 + 56], 1
    // yield:
    0xb8, 0x18, 0x00, 0x00, 0x00,                         // mov  eax, SYS_sched_yield
    0x0f, 0x05,                                           // syscall
    0x49, 0xff, 0xce,                                     // dec  r14
    0x75, 0xf4,                                           // jnz  yield
    // sleep:
    0xb8, 0x22, 0x00, 0x00, 0x00,                         // mov  eax, SYS_pause
    0x0f, 0x05,                                           // syscall
    0xeb, 0xf7,                                           // jmp  sleep
]);

/// `syscall`.
pub(super) const SYSCALL_INSN: [u8; 2] = [0x0f, 0x05];

pub(super) fn find_syscall_insn(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair == SYSCALL_INSN)
}

/// The registers of a remote syscall. `orig_rax` is -1, because the kernel must not restart an interrupted system call
/// of the thread on the way.
pub(super) fn call_regs(saved: &GeneralRegs, syscall_ip: u64, nr: i64, arguments: [u64; 6]) -> GeneralRegs {
    let [rdi, rsi, rdx, r10, r8, r9] = arguments;
    GeneralRegs {
        rax: nr.cast_unsigned(),
        orig_rax: u64::MAX,
        rip: syscall_ip,
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        r9,
        ..*saved
    }
}

/// The registers with which a thread starts [`LIST_STUB`].
pub(super) fn stub_regs(saved: &GeneralRegs, stub: u64, list: u64, child_list: u64, yields: u64) -> GeneralRegs {
    GeneralRegs {
        orig_rax: u64::MAX,
        rip: stub,
        r12: list,
        r13: child_list,
        r14: yields,
        ..*saved
    }
}

pub(super) fn return_value(registers: &GeneralRegs) -> u64 {
    registers.rax
}

pub(super) fn instruction_pointer(registers: &mut GeneralRegs) -> &mut u64 {
    &mut registers.rip
}

/// The size of the legacy area of `xsave`: `fxsave` without its unused end (Intel SDM volume 1, 10.5.1).
pub(crate) const XSAVE_LEGACY_BYTES: usize = 416;
/// The offset of `xstate_bv` in `xsave`: a bit for each feature that is not in its initial state.
pub(crate) const XSTATE_BV_OFFSET: usize = 512;

/// The `xsave` features in CRIU's images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XFeature {
    Ymm = 2,
    Bndregs = 3,
    Bndcsr = 4,
    Opmask = 5,
    ZmmHi256 = 6,
    Hi16Zmm = 7,
    Pkru = 9,
    CetUser = 11,
}

/// The offset range of a feature in the standard format; `None` if the CPU does not have it. The offset depends on the
/// CPU (AVX-512 is elsewhere on AMD than on Intel), so it is read with CPUID (leaf 0xD, Intel SDM volume 1, 13.4).
pub(crate) fn xfeature_range(feature: XFeature) -> Option<Range<usize>> {
    // Every CPU with xsave has leaf 0xD, and a kernel that provides this register set uses it.
    let leaf = __cpuid_count(0xd, feature as u32);
    let (length, offset) = (leaf.eax as usize, leaf.ebx as usize);
    // Supervisor features are not in the standard format.
    (length != 0 && leaf.ecx & 1 == 0).then_some(offset..offset + length)
}
