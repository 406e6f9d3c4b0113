//! Descriptors that no crate in use makes.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// An eventfd with this eventfd.
#[expect(unsafe_code, reason = "a descriptor of a kind that the tests are about")]
pub(super) fn eventfd(value: u32) -> OwnedFd {
    // SAFETY: a new descriptor, which nobody else owns.
    unsafe {
        let fd = libc::eventfd(value, 0);
        assert!(fd >= 0, "eventfd");
        OwnedFd::from_raw_fd(fd)
    }
}

/// An epoll descriptor that watches another, with this data.
#[expect(unsafe_code, reason = "a descriptor of a kind that the tests are about")]
pub(super) fn epoll_watching(watched: &OwnedFd, data: u64) -> OwnedFd {
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: data,
    };
    // SAFETY: a new descriptor, which nobody else owns; the event lives through the call.
    unsafe {
        let fd = libc::epoll_create1(0);
        assert!(fd >= 0, "epoll");
        let added = libc::epoll_ctl(fd, libc::EPOLL_CTL_ADD, watched.as_raw_fd(), &raw mut event);
        assert_eq!(added, 0, "epoll_ctl");
        OwnedFd::from_raw_fd(fd)
    }
}

/// Ends this process as soon as one of its threads is told of a child, of which it has none. To be called before other threads
/// begin, since they inherit the mask.
pub(super) fn watch_for_children() {
    use nix::sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, waitpid},
    };
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    // Blocked, so that it stays in sight; it would be thrown away otherwise.
    signals.thread_block().expect("block");
    std::thread::spawn(move || {
        loop {
            let waited = waitpid(None, Some(WaitPidFlag::WNOHANG));
            let sigchld_pending = is_sigchld_pending();
            if waited != Err(nix::errno::Errno::ECHILD) || sigchld_pending {
                eprintln!("told of a child: {waited:?}, SIGCHLD {sigchld_pending}");
                std::process::exit(99);
            }
        }
    });
}

/// Whether SIGCHLD waits for this process.
fn is_sigchld_pending() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("ShdPnd:"))
        .expect("a field");
    u64::from_str_radix(line.trim(), 16).expect("a mask") & (1 << (libc::SIGCHLD - 1)) != 0
}
