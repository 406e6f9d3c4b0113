//! Descriptors that no crate in use makes.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// An eventfd with this counter.
#[expect(unsafe_code, reason = "a descriptor of a kind that the tests are about")]
pub(super) fn counter(value: u32) -> OwnedFd {
    // SAFETY: a new descriptor, which nobody else owns.
    unsafe {
        let fd = libc::eventfd(value, 0);
        assert!(fd >= 0, "eventfd");
        OwnedFd::from_raw_fd(fd)
    }
}

/// An epoll descriptor that watches another, with this data.
#[expect(unsafe_code, reason = "a descriptor of a kind that the tests are about")]
pub(super) fn watching(watched: &OwnedFd, data: u64) -> OwnedFd {
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
