//! State of a socket that a holder of its fd can read: options, filters, unread data, addresses.

use std::{
    io,
    net::IpAddr,
    num::NonZero,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{SockaddrStorage, getsockname},
};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

/// Reads an option. `T` must be the type of its value.
#[expect(unsafe_code, reason = "nix wraps only some options")]
pub(crate) fn getsockopt<T: Default + Copy + AnyBitPattern>(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
) -> nix::Result<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into a value for which all bit patterns are valid.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    Errno::result(result).map(|_| value)
}

/// Reads an option of any type into a buffer. Returns the bytes that the kernel wrote.
#[expect(unsafe_code, reason = "nix wraps only some options")]
pub(crate) fn getsockopt_bytes<'a>(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    buffer: &'a mut [u8],
) -> nix::Result<&'a [u8]> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel writes at most `length` bytes into a buffer of that length.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, buffer.as_mut_ptr().cast(), &raw mut length) };
    Errno::result(result)?;
    buffer.get(..length as usize).ok_or(Errno::EINVAL)
}

/// Creates a socket of this family, type and protocol.
///
/// # Errors
///
/// Those of socket(2); `EPERM` for raw sockets without `CAP_NET_RAW`.
pub(crate) fn new_socket(family: u32, kind: u32, protocol: u32) -> io::Result<OwnedFd> {
    let family = AddressFamily::from_raw(family as u16);
    let protocol = NonZero::new(protocol).map(Protocol::from_raw);
    Ok(socket_with(
        family,
        SocketType::from_raw(kind),
        SocketFlags::CLOEXEC,
        protocol,
    )?)
}

/// The events that poll(2) reports now: `POLLIN`, `POLLPRI`, `POLLRDHUP`, `POLLERR`, `POLLHUP`.
pub(crate) fn poll_readiness(fd: BorrowedFd<'_>) -> nix::Result<PollFlags> {
    let events = PollFlags::POLLIN | PollFlags::POLLPRI | PollFlags::from_bits_retain(libc::POLLRDHUP);
    let mut poll_fds = [PollFd::new(fd, events)];
    poll(&mut poll_fds, PollTimeout::ZERO)?;
    Ok(PollFlags::from_bits_retain(
        poll_fds[0].revents().map_or(0, |revents| revents.bits()),
    ))
}

/// The classic BPF filter of a socket (`SO_GET_FILTER`). Each word is an instruction: code, jt, jf, k from the top.
///
/// # Errors
///
/// `EACCES` for an extended BPF filter, which the kernel does not return.
#[expect(unsafe_code, reason = "the length of this option counts instructions")]
pub(crate) fn bpf_filter(fd: BorrowedFd<'_>) -> nix::Result<Vec<u64>> {
    /// `BPF_MAXINSNS` (linux/bpf_common.h).
    const MAX_BPF_INSNS: usize = 4096;
    /// The size of `struct sock_filter`.
    const INSTRUCTION_BYTES: usize = 8;
    let get = |program: *mut u8, mut count: libc::socklen_t| {
        // SAFETY: the kernel writes at most `count` instructions of eight bytes; the callers below provide that space.
        let result = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_GET_FILTER,
                program.cast(),
                &raw mut count,
            )
        };
        Errno::result(result).map(|_| (count as usize).min(MAX_BPF_INSNS))
    };
    let count = get(std::ptr::null_mut(), 0)?;
    let mut program = vec![0_u8; count * INSTRUCTION_BYTES];
    if count > 0 {
        get(program.as_mut_ptr(), count as libc::socklen_t)?;
    }
    Ok(program
        .chunks_exact(INSTRUCTION_BYTES)
        .map(|bytes| {
            let code = u64::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
            let k = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            code << 48 | u64::from(bytes[2]) << 40 | u64::from(bytes[3]) << 32 | u64::from(k)
        })
        .collect())
}

/// Whether a socket is a member of a multicast group on this interface (`MCAST_MSFILTER`).
#[expect(unsafe_code, reason = "no crate wraps the option")]
pub(crate) fn is_multicast_member(fd: BorrowedFd<'_>, interface: u32, group: IpAddr) -> bool {
    /// `MCAST_MSFILTER` (linux/in.h).
    const MCAST_MSFILTER: i32 = 48;
    /// `struct group_filter`: the interface, an address with the size and alignment of `sockaddr_storage`, the mode and
    /// the number of sources, and space for one source.
    #[repr(C)]
    struct GroupFilter {
        interface: u32,
        group: libc::sockaddr_storage,
        mode: u32,
        sources: u32,
        source: libc::sockaddr_storage,
    }
    // SAFETY: all zeroes are a valid value of these structures of integers. Each address structure is smaller than the
    // storage that it is written into, and the storage is aligned for it. The kernel writes at most `length` bytes,
    // which is not more than the size of the structure.
    unsafe {
        let mut filter: GroupFilter = std::mem::zeroed();
        filter.interface = interface;
        let level = match group {
            IpAddr::V4(group) => {
                let address = (&raw mut filter.group).cast::<libc::sockaddr_in>();
                (*address).sin_family = libc::AF_INET as u16;
                (*address).sin_addr.s_addr = u32::from_ne_bytes(group.octets());
                libc::IPPROTO_IP
            }
            IpAddr::V6(group) => {
                let address = (&raw mut filter.group).cast::<libc::sockaddr_in6>();
                (*address).sin6_family = libc::AF_INET6 as u16;
                (*address).sin6_addr.s6_addr = group.octets();
                libc::IPPROTO_IPV6
            }
        };
        let mut length = (size_of::<GroupFilter>() - size_of::<libc::sockaddr_storage>()) as libc::socklen_t;
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            MCAST_MSFILTER,
            (&raw mut filter).cast(),
            &raw mut length,
        ) == 0
    }
}

/// Types for which all bit patterns are valid.
pub(crate) trait AnyBitPattern {}
impl AnyBitPattern for i32 {}
/// Two words: `struct timeval` or `struct linger`.
impl AnyBitPattern for [i64; 2] {}
impl AnyBitPattern for [i32; 2] {}
/// The beginning of `struct tcp_info`.
impl AnyBitPattern for [u8; 32] {}

/// Sets the offset from which `MSG_PEEK` reads; with -1, each peek reads from the beginning.
#[expect(unsafe_code, reason = "nix does not wrap the option")]
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

/// What a peek returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeekInfo {
    /// How many bytes the buffer contains.
    pub(crate) length: usize,
    /// Whether the packet is longer than the buffer.
    pub(crate) truncated: bool,
    /// Whether the message has control data (fds, credentials).
    pub(crate) has_control_data: bool,
    /// Whether the kernel returned the address of the sender: the sender is bound.
    pub(crate) sender_bound: bool,
}

/// Reads the next bytes or the next packet of a socket without consuming them; `None` when there are none.
#[expect(
    unsafe_code,
    reason = "nix returns the flags only with a buffer for control messages"
)]
pub(crate) fn peek(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<Option<PeekInfo>> {
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: an all-zero message header is valid: no name, no control data. The kernel writes the name into a storage
    // of the given length and the data into the one iovec, which is the whole buffer. Both are borrowed exclusively and
    // outlive the call. Without space for control data the kernel installs no fds.
    let (result, flags, name_bytes) = unsafe {
        let mut name: libc::sockaddr_storage = std::mem::zeroed();
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = size_of_val(&name) as libc::socklen_t;
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        (
            libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags),
            message.msg_flags,
            message.msg_namelen as usize,
        )
    };
    match Errno::result(result) {
        Ok(length) => Ok(Some(PeekInfo {
            length: length.unsigned_abs(),
            truncated: flags & libc::MSG_TRUNC != 0,
            has_control_data: flags & libc::MSG_CTRUNC != 0,
            // For an unbound sender the kernel returns only the address family, or nothing.
            sender_bound: name_bytes > size_of::<libc::sa_family_t>(),
        })),
        Err(Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The address and the port that an inet socket is bound to. The words of the address are in network byte order, as in
/// the kernel.
pub(crate) fn inet_sockname(fd: BorrowedFd<'_>) -> nix::Result<(Vec<u32>, u32)> {
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

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{Ipv4Addr, UdpSocket},
        os::{
            fd::AsFd as _,
            unix::net::{UnixDatagram, UnixStream},
        },
    };

    use super::*;

    #[test]
    fn peek_does_not_consume() {
        let (left, mut right) = UnixStream::pair().unwrap();
        let mut buffer = [0; 16];
        assert_eq!(peek(left.as_fd(), &mut buffer), Ok(None));
        right.write_all(b"unread").unwrap();
        for _ in 0..2 {
            let peeked = peek(left.as_fd(), &mut buffer).unwrap().unwrap();
            assert_eq!(
                (&buffer[..peeked.length], peeked.truncated, peeked.has_control_data),
                (&b"unread"[..], false, false)
            );
        }
        assert_eq!(rustix::io::ioctl_fionread(&left), Ok(6));
        assert!(poll_readiness(left.as_fd()).unwrap().contains(PollFlags::POLLIN));
        assert!(poll_readiness(right.as_fd()).unwrap().is_empty());
        let send_buffer_bytes = getsockopt::<i32>(left.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF).unwrap();
        assert!(send_buffer_bytes > 0);
        let mut buffer = [0; 16];
        let bytes = getsockopt_bytes(left.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, &mut buffer);
        assert_eq!(bytes, Ok(&send_buffer_bytes.to_ne_bytes()[..]));
    }

    #[test]
    fn peek_reports_bound_senders() {
        let dir = tempfile::tempdir().unwrap();
        let receiver = UnixDatagram::bind(dir.path().join("receiver")).unwrap();
        let named = UnixDatagram::bind(dir.path().join("sender")).unwrap();
        let mut buffer = [0; 16];
        for (sender, expected) in [(named, true), (UnixDatagram::unbound().unwrap(), false)] {
            sender.send_to(b"packet", dir.path().join("receiver")).unwrap();
            let peeked = peek(receiver.as_fd(), &mut buffer).unwrap().unwrap();
            assert_eq!(peeked.sender_bound, expected);
            receiver.recv(&mut buffer).unwrap();
        }
    }

    #[test]
    fn inet_sockname_is_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = u32::from(listener.local_addr().unwrap().port());
        assert_eq!(
            inet_sockname(listener.as_fd()),
            Ok((vec![u32::from_ne_bytes([127, 0, 0, 1])], port))
        );
        let (left, _right) = UnixStream::pair().unwrap();
        assert_eq!(inet_sockname(left.as_fd()), Err(Errno::EAFNOSUPPORT));
    }

    #[test]
    fn multicast_groups_and_filters_are_read() {
        let group = Ipv4Addr::new(239, 1, 2, 3);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let interface = nix::net::if_::if_nametoindex("lo").unwrap();
        assert!(!is_multicast_member(socket.as_fd(), interface, group.into()));
        if socket.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).is_ok() {
            assert!(is_multicast_member(socket.as_fd(), interface, group.into()));
            let other = Ipv4Addr::new(239, 1, 2, 4);
            assert!(!is_multicast_member(socket.as_fd(), interface, other.into()));
        } else {
            eprintln!("skipped: this machine refuses to join a multicast group");
        }
        assert_eq!(bpf_filter(socket.as_fd()), Ok(Vec::new()));
        let unbound = new_socket(libc::AF_INET as u32, libc::SOCK_STREAM as u32, libc::IPPROTO_TCP as u32).unwrap();
        let accepts_connections = getsockopt::<i32>(unbound.as_fd(), libc::SOL_SOCKET, libc::SO_ACCEPTCONN);
        assert_eq!(accepts_connections, Ok(0));
    }
}
