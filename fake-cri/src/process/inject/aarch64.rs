//! aarch64: `struct user_pt_regs`, x0 to x30, sp, pc, pstate. Built, never run so far.
//!
//! This kernel sets an interrupted system call back before it lets a tracer look, so the registers that are put back restart
//! it from its beginning (a changed program counter restarts nothing): one that sleeps for a time sleeps the whole time again.

use std::ops::Range;

/// The size of the general registers.
pub(super) const REGISTERS: usize = 34 * 8;

const NUMBER: usize = 8;
const PC: usize = 32;
/// `svc #0`, little-endian.
pub(super) const INSTRUCTION: [u8; 4] = 0xd400_0001_u32.to_le_bytes();

/// No program was written for what cannot be tried here: each call is led.
pub(super) const PROGRAM: Option<&[u8]> = None;

/// There is none.
pub(super) fn registers_of_program(home: &[u8], _program: u64, _list: u64, _of_copy: u64, _patience: u64) -> Vec<u8> {
    home.to_vec()
}

/// Where in these bytes, which begin a page, a system call instruction lies; instructions are aligned.
pub(super) fn find_instruction(bytes: &[u8]) -> Option<usize> {
    let index = bytes.chunks_exact(4).position(|word| word == INSTRUCTION)?;
    Some(index * 4)
}

/// The registers with which the thread calls.
pub(super) fn registers_of_call(home: &[u8], gate: u64, number: i64, arguments: [u64; 6]) -> Vec<u8> {
    let mut registers = home.to_vec();
    for (index, argument) in arguments.into_iter().enumerate() {
        set(&mut registers, index, argument);
    }
    set(&mut registers, NUMBER, number.cast_unsigned());
    set(&mut registers, PC, gate);
    registers
}

/// What a call answered.
pub(super) fn answer(registers: &[u8]) -> u64 {
    get(registers, 0)
}

pub(super) fn instruction_pointer(registers: &[u8]) -> u64 {
    get(registers, PC)
}

pub(super) fn set_instruction_pointer(registers: &mut [u8], address: u64) {
    set(registers, PC, address);
}

fn place(index: usize) -> Range<usize> {
    index * 8..index * 8 + 8
}

fn get(registers: &[u8], index: usize) -> u64 {
    registers
        .get(place(index))
        .map_or(0, |word| u64::from_ne_bytes(word.try_into().expect("eight bytes")))
}

fn set(registers: &mut [u8], index: usize, value: u64) {
    registers[place(index)].copy_from_slice(&value.to_ne_bytes());
}
