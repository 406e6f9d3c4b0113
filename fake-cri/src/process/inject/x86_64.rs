//! x86-64: `struct user_regs_struct`, 27 words.

use std::ops::Range;

/// The size of the general registers of a 64-bit program.
pub(super) const REGISTERS: usize = 27 * 8;

/// The places of the registers, in words.
const AX: usize = 10;
const ORIGINAL_AX: usize = 15;
const IP: usize = 16;
/// The arguments of a system call: di, si, dx, r10, r8, r9.
const ARGUMENTS: [usize; 6] = [14, 13, 12, 7, 9, 8];
/// `syscall`.
pub(super) const INSTRUCTION: [u8; 2] = [0x0f, 0x05];

/// Where in these bytes a system call instruction begins.
pub(super) fn find_instruction(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair == INSTRUCTION)
}

/// The registers with which the thread calls. An interrupted system call of its own must not be restarted on the way, so it
/// is in none.
pub(super) fn registers_of_call(home: &[u8], gate: u64, number: i64, arguments: [u64; 6]) -> Vec<u8> {
    let mut registers = home.to_vec();
    set(&mut registers, AX, number.cast_unsigned());
    set(&mut registers, ORIGINAL_AX, u64::MAX);
    set(&mut registers, IP, gate);
    for (index, argument) in ARGUMENTS.into_iter().zip(arguments) {
        set(&mut registers, index, argument);
    }
    registers
}

/// What a call answered.
pub(super) fn answer(registers: &[u8]) -> u64 {
    get(registers, AX)
}

pub(super) fn instruction_pointer(registers: &[u8]) -> u64 {
    get(registers, IP)
}

pub(super) fn set_instruction_pointer(registers: &mut [u8], address: u64) {
    set(registers, IP, address);
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
