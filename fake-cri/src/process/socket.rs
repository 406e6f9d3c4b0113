//! What a socket tells whoever holds it, and what the kernel tells of unix sockets by their number (sock_diag(7)).

use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrStorage, getsockname, sendto,
        socket,
    },
};

/// An option whose value is of this type; the caller names an option that has it.
#[expect(unsafe_code, reason = "nix knows only a part of the options")]
pub(crate) fn option<T: Default + Copy + Plain>(fd: BorrowedFd<'_>, level: i32, name: i32) -> nix::Result<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into a value that any bytes are valid for.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    Errno::result(result).map(|_| value)
}

/// Types for which any bytes are a value.
pub(crate) trait Plain {}
impl Plain for i32 {}
/// A time or a linger, two words.
impl Plain for [i64; 2] {}
impl Plain for [i32; 2] {}
/// The beginning of `struct tcp_info`.
impl Plain for [u8; 32] {}

/// Sets from where `MSG_PEEK` reads; -1 is from the beginning each time.
#[expect(unsafe_code, reason = "nix does not know the option")]
pub(crate) fn set_peek_offset(fd: BorrowedFd<'_>, offset: i32) -> nix::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads one int.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const offset).cast(),
            length,
        )
    };
    Errno::result(result).map(drop)
}

/// What a peek saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peeked {
    /// The bytes.
    pub(crate) length: usize,
    /// There was more in the packet than the buffer took.
    pub(crate) cut: bool,
    /// Something came along that is not bytes: descriptors, credentials.
    pub(crate) more_than_bytes: bool,
}

/// Looks at the next bytes, or the next packet, of a socket; `None` when there is nothing.
#[expect(
    unsafe_code,
    reason = "nix gives no access to the flags without room for control messages"
)]
pub(crate) fn peek(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<Option<Peeked>> {
    let mut place = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: an all-zero message header is valid: no name, no control messages. The one place is the whole buffer, which is
    // borrowed exclusively and outlives the call. Without room for control messages the kernel installs no descriptors.
    let (result, flags) = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut place;
        message.msg_iovlen = 1;
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        (
            libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags),
            message.msg_flags,
        )
    };
    match Errno::result(result) {
        Ok(length) => Ok(Some(Peeked {
            length: length.unsigned_abs(),
            cut: flags & libc::MSG_TRUNC != 0,
            more_than_bytes: flags & libc::MSG_CTRUNC != 0,
        })),
        Err(Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What the kernel says of a unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnixState {
    /// What it is bound to, as in `sun_path`: an abstract name begins with a zero, a path ends in one; `None` when it is not
    /// bound.
    pub(crate) name: Option<Vec<u8>>,
    /// The number of the socket at the other end; 0 for none.
    pub(crate) peer: u32,
    /// Bit 0: nothing comes any more; bit 1: nothing goes.
    pub(crate) shutdown: u32,
    /// Of a listening one: connections that are not accepted yet.
    pub(crate) waiting: u32,
    /// Of a listening one: how many may wait.
    pub(crate) backlog: u32,
}

/// The address that an inet socket is bound to: its words in network order, as the kernel keeps them, and its port.
///
/// # Errors
///
/// What getsockname(2) fails with.
pub(crate) fn inet_name(fd: BorrowedFd<'_>) -> nix::Result<(Vec<u32>, u32)> {
    let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let words = |bytes: &[u8]| {
        let words = bytes.chunks_exact(4);
        words
            .map(|word| u32::from_ne_bytes(word.try_into().expect("chunks of four")))
            .collect()
    };
    if let Some(name) = name.as_sockaddr_in() {
        return Ok((words(&name.ip().octets()), name.port().into()));
    }
    let name = name.as_sockaddr_in6().ok_or(Errno::EAFNOSUPPORT)?;
    Ok((words(&name.ip().octets()), name.port().into()))
}

/// Asks the kernel about a unix socket of this network namespace, by its inode.
///
/// # Errors
///
/// `ENOENT` when there is none (here), and what a netlink socket fails with.
pub(crate) fn unix_state(inode: u32) -> nix::Result<UnixState> {
    /// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h), `NLM_F_REQUEST`, `NLMSG_ERROR` (linux/netlink.h).
    const BY_FAMILY: u16 = 20;
    const REQUEST: u16 = 1;
    const ERROR: u16 = 2;
    /// `UDIAG_SHOW_NAME`, `UDIAG_SHOW_PEER`, `UDIAG_SHOW_RQLEN` and the shutdown state, which is always told (linux/unix_diag.h).
    const SHOW: u32 = 1 | 4 | 16;
    /// The sizes of `struct nlmsghdr` and of `struct unix_diag_msg`.
    const HEADER: usize = 16;
    const MESSAGE: usize = 16;
    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let mut request = Vec::with_capacity(40);
    request.extend(40_u32.to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    request.extend([0; 8]); // sequence and port
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes()); // all states
    request.extend(inode.to_ne_bytes());
    request.extend(SHOW.to_ne_bytes());
    request.extend([0xff; 8]); // no cookie
    sendto(kernel.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 1024];
    let length = nix::sys::socket::recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let answer = &answer[..length];
    let half = |at: usize| {
        answer
            .get(at..at + 2)
            .map_or(0, |half| u16::from_ne_bytes([half[0], half[1]]))
    };
    let word = |at: usize| {
        let word = answer.get(at..at + 4);
        word.map_or(0, |word| u32::from_ne_bytes(word.try_into().expect("four bytes")))
    };
    if half(4) == ERROR {
        return Err(Errno::from_raw(word(HEADER).cast_signed().wrapping_neg()));
    }
    let mut state = UnixState::default();
    let mut at = HEADER + MESSAGE;
    // Attributes: u16 length with its head, u16 kind, then the value, each begun at a multiple of four.
    while half(at) >= 4 {
        let value = at + 4;
        match half(at + 2) {
            0 => state.name = answer.get(value..at + usize::from(half(at))).map(<[u8]>::to_vec),
            2 => state.peer = word(value),
            4 => (state.waiting, state.backlog) = (word(value), word(value + 4)),
            6 => state.shutdown = word(value) & 0xff,
            _ => {}
        }
        at += usize::from(half(at)).next_multiple_of(4);
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        os::{
            fd::AsFd as _,
            unix::{
                fs::MetadataExt as _,
                net::{UnixListener, UnixStream},
            },
        },
    };

    use super::*;

    fn inode(fd: &impl std::os::fd::AsRawFd) -> u32 {
        let link = std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        link.ino() as u32
    }

    #[test]
    fn a_pair_knows_its_ends_and_a_peek_takes_nothing() {
        let (left, mut right) = UnixStream::pair().unwrap();
        assert_eq!(unix_state(inode(&left)).unwrap().peer, inode(&right));
        assert_eq!(unix_state(inode(&right)).unwrap().peer, inode(&left));
        let mut buffer = [0; 16];
        assert_eq!(peek(left.as_fd(), &mut buffer), Ok(None));
        right.write_all(b"unread").unwrap();
        for _ in 0..2 {
            let seen = peek(left.as_fd(), &mut buffer).unwrap().unwrap();
            assert_eq!(
                (&buffer[..seen.length], seen.cut, seen.more_than_bytes),
                (&b"unread"[..], false, false)
            );
        }
        right.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(unix_state(inode(&right)).unwrap().shutdown, 2);
        assert_eq!(unix_state(inode(&left)).unwrap().shutdown, 1);
        assert_eq!(unix_state(1), Err(Errno::ENOENT));
        let sends = option::<i32>(left.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF).unwrap();
        assert!(sends > 0);
    }

    #[test]
    fn names_are_told_as_they_are() {
        use std::os::linux::net::SocketAddrExt as _;
        // `/proc/net/unix` shows zeroes as @, and a path may begin with one.
        let name = format!("of@\0process@{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let told = unix_state(inode(&listener)).unwrap().name.unwrap();
        assert_eq!(told, [b"\0", name.as_bytes()].concat());
        let (left, _right) = UnixStream::pair().unwrap();
        assert_eq!(unix_state(inode(&left)).unwrap().name, None);
    }

    #[test]
    fn inet_sockets_tell_what_they_are_bound_to() {
        let four = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = u32::from(four.local_addr().unwrap().port());
        assert_eq!(
            inet_name(four.as_fd()),
            Ok((vec![u32::from_ne_bytes([127, 0, 0, 1])], port))
        );
        let (left, _right) = UnixStream::pair().unwrap();
        assert_eq!(inet_name(left.as_fd()), Err(Errno::EAFNOSUPPORT));
    }

    #[test]
    fn a_listener_tells_who_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let before = unix_state(inode(&listener)).unwrap();
        assert!(before.waiting == 0 && before.backlog > 0, "{before:?}");
        let name = before.name.as_deref().and_then(|name| name.strip_suffix(&[0]));
        assert_eq!(name, Some(path.as_os_str().as_encoded_bytes()));
        let _waiting = UnixStream::connect(&path).unwrap();
        assert_eq!(unix_state(inode(&listener)).unwrap().waiting, 1);
    }
}
