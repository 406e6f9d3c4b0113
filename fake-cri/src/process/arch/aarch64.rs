//! aarch64: `struct user_pt_regs`: x0 to x30, sp, pc, pstate. This code is built, but has not run so far.
//!
//! The aarch64 kernel prepares the restart of an interrupted system call before the tracer sees the registers. Restored
//! registers therefore restart the call from its beginning, and a sleep with a relative time sleeps its full time
//! again. A program counter that the tracer changes prevents the restart.

use super::ptrace::GeneralRegs;

/// `svc #0`, little-endian.
pub(super) const SYSCALL_INSN: [u8; 4] = 0xd400_0001_u32.to_le_bytes();

/// There is no stub, because it cannot be tested here: the tracer steps each call.
pub(super) const LIST_STUB: Option<&[u8]> = None;

/// Never called without a stub.
pub(super) fn stub_regs(saved: &GeneralRegs, _stub: u64, _list: u64, _child_list: u64, _yields: u64) -> GeneralRegs {
    *saved
}

/// Searches bytes that begin at a page. Instructions are aligned to four bytes.
pub(super) fn find_syscall_insn(bytes: &[u8]) -> Option<usize> {
    let index = bytes.chunks_exact(4).position(|word| word == SYSCALL_INSN)?;
    Some(index * 4)
}

/// The registers of a remote syscall, whose number is in x8.
pub(super) fn call_regs(saved: &GeneralRegs, syscall_ip: u64, nr: i64, arguments: [u64; 6]) -> GeneralRegs {
    let mut registers = *saved;
    registers.regs[..6].copy_from_slice(&arguments);
    registers.regs[8] = nr.cast_unsigned();
    registers.pc = syscall_ip;
    registers
}

pub(super) fn return_value(registers: &GeneralRegs) -> u64 {
    registers.regs[0]
}

pub(super) fn instruction_pointer(registers: &mut GeneralRegs) -> &mut u64 {
    &mut registers.pc
}
