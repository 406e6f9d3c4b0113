//! Descriptors that the crates in use cannot create.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Creates an eventfd with this counter.
#[expect(unsafe_code, reason = "no crate in use creates an eventfd")]
pub(super) fn eventfd(value: u32) -> OwnedFd {
    // SAFETY: the fd is new and not owned elsewhere.
    unsafe {
        let fd = libc::eventfd(value, 0);
        assert!(fd >= 0, "eventfd");
        OwnedFd::from_raw_fd(fd)
    }
}

/// Creates an epoll instance that watches this descriptor with this data.
#[expect(unsafe_code, reason = "no crate in use creates an epoll instance")]
pub(super) fn epoll_watching(watched: &OwnedFd, data: u64) -> OwnedFd {
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: data,
    };
    // SAFETY: the fd is new and not owned elsewhere; the event outlives the call.
    unsafe {
        let fd = libc::epoll_create1(0);
        assert!(fd >= 0, "epoll");
        let added = libc::epoll_ctl(fd, libc::EPOLL_CTL_ADD, watched.as_raw_fd(), &raw mut event);
        assert_eq!(added, 0, "epoll_ctl");
        OwnedFd::from_raw_fd(fd)
    }
}

/// Exits this process as soon as the kernel reports a child, although the process has none. Must be called before other
/// threads start, because threads inherit the signal mask.
pub(super) fn watch_for_children() {
    use nix::sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, waitpid},
    };
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    // A blocked SIGCHLD stays pending. An unblocked SIGCHLD would be discarded by its default action.
    signals.thread_block().expect("block");
    std::thread::spawn(move || {
        loop {
            let waited = waitpid(None, Some(WaitPidFlag::WNOHANG));
            let sigchld_pending = is_sigchld_pending();
            if waited != Err(nix::errno::Errno::ECHILD) || sigchld_pending {
                eprintln!("the kernel reported a child: {waited:?}, SIGCHLD pending: {sigchld_pending}");
                std::process::exit(99);
            }
        }
    });
}

fn is_sigchld_pending() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("ShdPnd:"))
        .expect("the ShdPnd field");
    u64::from_str_radix(line.trim(), 16).expect("a hexadecimal mask") & (1 << (libc::SIGCHLD - 1)) != 0
}
