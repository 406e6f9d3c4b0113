//! x86-64: `struct user_regs_struct`, 27 words.

use std::ops::Range;

/// The size of the general registers of a 64-bit task.
pub(super) const REGS_BYTES: usize = 27 * 8;

/// The stub that executes a list ([`super::syscall_list`]). r12: the current entry; r13: the first entry of a child's
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

/// Indices of the registers, in words.
const R14: usize = 1;
const R13: usize = 2;
const R12: usize = 3;
const AX: usize = 10;
const ORIG_AX: usize = 15;
const IP: usize = 16;
/// The arguments of a system call: di, si, dx, r10, r8, r9.
const ARGUMENT_REGS: [usize; 6] = [14, 13, 12, 7, 9, 8];
/// `syscall`.
pub(super) const SYSCALL_INSN: [u8; 2] = [0x0f, 0x05];

pub(super) fn find_syscall_insn(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair == SYSCALL_INSN)
}

/// The registers of a remote syscall. `orig_rax` is -1, because the kernel must not restart an interrupted system call
/// of the thread on the way.
pub(super) fn call_regs(saved_regs: &[u8], syscall_ip: u64, nr: i64, arguments: [u64; 6]) -> Vec<u8> {
    let mut registers = saved_regs.to_vec();
    set_reg_word(&mut registers, AX, nr.cast_unsigned());
    set_reg_word(&mut registers, ORIG_AX, u64::MAX);
    set_reg_word(&mut registers, IP, syscall_ip);
    for (index, argument) in ARGUMENT_REGS.into_iter().zip(arguments) {
        set_reg_word(&mut registers, index, argument);
    }
    registers
}

/// The registers with which a thread starts [`LIST_STUB`].
pub(super) fn stub_regs(saved_regs: &[u8], stub: u64, list: u64, child_list: u64, yields: u64) -> Vec<u8> {
    let mut registers = saved_regs.to_vec();
    set_reg_word(&mut registers, ORIG_AX, u64::MAX);
    set_reg_word(&mut registers, IP, stub);
    set_reg_word(&mut registers, R12, list);
    set_reg_word(&mut registers, R13, child_list);
    set_reg_word(&mut registers, R14, yields);
    registers
}

pub(super) fn return_value(registers: &[u8]) -> u64 {
    reg_word(registers, AX)
}

pub(super) fn instruction_pointer(registers: &[u8]) -> u64 {
    reg_word(registers, IP)
}

pub(super) fn set_instruction_pointer(registers: &mut [u8], address: u64) {
    set_reg_word(registers, IP, address);
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
