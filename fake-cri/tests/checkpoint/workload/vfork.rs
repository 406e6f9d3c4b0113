//! A child that shares the memory of its parent, which stands still until it ends.

use std::{ffi::c_void, time::Duration};

/// Waits in vfork for a child that sleeps so long.
#[expect(unsafe_code, reason = "the state that a freeze must cope with")]
pub(super) fn wait(time: Duration) {
    let mut stack = vec![0_u128; 4096];
    let mut sleep = libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child runs one function on a stack of its own, which lives until it ends, since this thread waits for
    // that; the function makes two system calls and touches nothing else.
    let child = unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        libc::clone(child, top.cast(), flags, (&raw mut sleep).cast())
    };
    assert!(child > 0, "clone");
    // SAFETY: the status is not asked for.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
}

#[expect(unsafe_code, reason = "it may use no more than system calls")]
extern "C" fn child(sleep: *mut c_void) -> libc::c_int {
    // SAFETY: the parent gave the address of a time that lives until the child ends.
    unsafe {
        libc::syscall(libc::SYS_nanosleep, sleep, std::ptr::null_mut::<c_void>());
        libc::_exit(0)
    }
}
