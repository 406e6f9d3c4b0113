//! Seccomp filters and PR_SET_MDWE.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};

/// Installs a seccomp filter that allows all system calls, or that kills a process which creates a process or thread.
/// The filter applies to the calling thread and its descendants, or to all threads of the process. Returns false if the
/// kernel has no filters.
#[expect(unsafe_code, reason = "no crate in use installs filters")]
pub(crate) fn install(kills_clones: bool, all_threads: bool) -> bool {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut program = vec![statement(BPF_LD | BPF_W | BPF_ABS, 0)];
    let calls = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_fork, libc::SYS_vfork];
    for call in calls.into_iter().filter(|_| kills_clones) {
        program.push(libc::sock_filter {
            jf: 1,
            ..statement(BPF_JMP | BPF_JEQ | BPF_K, call as u32)
        });
        program.push(statement(BPF_RET | BPF_K, libc::SECCOMP_RET_KILL_PROCESS));
    }
    program.push(statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let flags = if all_threads {
        libc::SECCOMP_FILTER_FLAG_TSYNC
    } else {
        0
    };
    nix::sys::prctl::set_no_new_privs().expect("no_new_privs");
    // SAFETY: the program outlives the call, which copies the program.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    result == 0
}

/// Denies memory that becomes executable, or that is both writable and executable, if the kernel supports this (Linux
/// 6.3).
#[expect(unsafe_code, reason = "nix does not have this prctl")]
pub(crate) fn deny_executable_memory() {
    const SET_MDWE: i32 = 65;
    const REFUSE_EXEC_GAIN: libc::c_ulong = 1;
    let none: libc::c_ulong = 0;
    // SAFETY: all arguments are integers.
    unsafe {
        libc::prctl(SET_MDWE, REFUSE_EXEC_GAIN, none, none, none);
    }
}
