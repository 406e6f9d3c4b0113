//! A vfork child, whose parent thread is suspended in the kernel until the child exits.

use std::{ffi::c_void, time::Duration};

/// Waits in vfork for a child that sleeps for this time.
#[expect(unsafe_code, reason = "the tests need a thread that waits in vfork")]
pub(super) fn wait(time: Duration) {
    let mut stack = vec![0_u128; 4096];
    let mut sleep = libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child runs one function on its own stack. The stack outlives the child because this thread is
    // suspended until the child exits. The function makes two system calls and accesses no other memory.
    let child = unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        libc::clone(child, top.cast(), flags, (&raw mut sleep).cast())
    };
    assert!(child > 0, "clone");
    // SAFETY: a null status pointer is allowed.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
}

#[expect(unsafe_code, reason = "a vfork child may only make system calls")]
extern "C" fn child(sleep: *mut c_void) -> libc::c_int {
    // SAFETY: the argument points to a time that outlives the child.
    unsafe {
        libc::syscall(libc::SYS_nanosleep, sleep, std::ptr::null_mut::<c_void>());
        libc::_exit(0)
    }
}
