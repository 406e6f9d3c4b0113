//! aarch64: `struct user_pt_regs`: x0 to x30, sp, pc, pstate. This code is built, but has not run so far.
//!
//! The aarch64 kernel prepares the restart of an interrupted system call before the tracer sees the registers. Restored
//! registers therefore restart the call from its beginning, and a sleep with a relative time sleeps its full time
//! again. A program counter that the tracer changes prevents the restart.

use std::ops::Range;

pub(super) const REGS_BYTES: usize = 34 * 8;

const SYSCALL_NR: usize = 8;
const PC: usize = 32;
/// `svc #0`, little-endian.
pub(super) const SYSCALL_INSN: [u8; 4] = 0xd400_0001_u32.to_le_bytes();

/// There is no stub, because it cannot be tested here: the tracer steps each call.
pub(super) const LIST_STUB: Option<&[u8]> = None;

/// Never called without a stub.
pub(super) fn stub_regs(saved_regs: &[u8], _stub: u64, _list: u64, _child_list: u64, _yields: u64) -> Vec<u8> {
    saved_regs.to_vec()
}

/// Searches bytes that begin at a page. Instructions are aligned to four bytes.
pub(super) fn find_syscall_insn(bytes: &[u8]) -> Option<usize> {
    let index = bytes.chunks_exact(4).position(|word| word == SYSCALL_INSN)?;
    Some(index * 4)
}

/// The registers of a remote syscall.
pub(super) fn call_regs(saved_regs: &[u8], syscall_ip: u64, nr: i64, arguments: [u64; 6]) -> Vec<u8> {
    let mut registers = saved_regs.to_vec();
    for (index, argument) in arguments.into_iter().enumerate() {
        set_reg_word(&mut registers, index, argument);
    }
    set_reg_word(&mut registers, SYSCALL_NR, nr.cast_unsigned());
    set_reg_word(&mut registers, PC, syscall_ip);
    registers
}

pub(super) fn return_value(registers: &[u8]) -> u64 {
    reg_word(registers, 0)
}

pub(super) fn instruction_pointer(registers: &[u8]) -> u64 {
    reg_word(registers, PC)
}

pub(super) fn set_instruction_pointer(registers: &mut [u8], address: u64) {
    set_reg_word(registers, PC, address);
}

fn word_range(index: usize) -> Range<usize> {
    index * 8..index * 8 + 8
}

fn reg_word(registers: &[u8], index: usize) -> u64 {
    registers
        .get(word_range(index))
        .map_or(0, |word| u64::from_ne_bytes(word.try_into().expect("eight bytes")))
}

fn set_reg_word(registers: &mut [u8], index: usize, value: u64) {
    registers[word_range(index)].copy_from_slice(&value.to_ne_bytes());
}
