//! The unix sockets of a network namespace, read with sock_diag(7).
//!
//! One dump returns all sockets. A query for a single socket makes the kernel walk its whole socket table, so separate
//! queries for many sockets take time that grows with the square of their number.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket},
};

use super::Tid;

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` and `NLM_F_DUMP` (linux/netlink.h).
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
/// `NLMSG_ERROR` and `NLMSG_DONE` (linux/netlink.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `UDIAG_SHOW_NAME`, `UDIAG_SHOW_VFS`, `UDIAG_SHOW_PEER`, `UDIAG_SHOW_RQLEN` (linux/unix_diag.h). The kernel always
/// sends the shutdown state.
const UDIAG_SHOW: u32 = 1 | 2 | 4 | 16;
const NLMSGHDR_BYTES: usize = 16;
const UNIX_DIAG_MSG_BYTES: usize = 16;
/// The kernel puts at most 32 KiB into one datagram of a dump (net/netlink/af_netlink.c).
const DATAGRAM_BYTES: usize = 64 << 10;

/// The state of a unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnixDiag {
    /// The bound name as in `sun_path`: an abstract name begins with a zero byte, a path ends with one. `None` when the
    /// socket is not bound.
    pub(crate) name: Option<Vec<u8>>,
    /// The bound file: the low 32 bits of the inode, and the device in the kernel's own encoding (`MKDEV` of
    /// linux/kdev_t.h).
    pub(crate) vfs_file: Option<(u32, u32)>,
    /// The inode of the peer socket; 0 for none.
    pub(crate) peer: u32,
    /// Bit 0: receiving is shut down; bit 1: sending is shut down.
    pub(crate) shutdown: u32,
    /// For a listening socket: the connections that are not accepted yet.
    pub(crate) pending_connections: u32,
    /// For a listening socket: the maximum of `pending_connections`.
    pub(crate) backlog: u32,
}

/// Reads all unix sockets of the network namespace of a process, by inode.
///
/// # Errors
///
/// Those of a netlink socket; `EPERM` when another namespace may not be entered (`CAP_SYS_ADMIN`).
pub(crate) fn unix_sockets(tid: Tid) -> io::Result<HashMap<u32, UnixDiag>> {
    in_netns_of(tid, || {
        let netlink = send_request(None)?;
        let mut sockets = HashMap::new();
        let mut datagram = vec![0; DATAGRAM_BYTES];
        loop {
            let length = recv(netlink.as_raw_fd(), &mut datagram, MsgFlags::empty())?;
            for message in messages(&datagram[..length]) {
                match read_u16(message, 4) {
                    NLMSG_DONE => return Ok(sockets),
                    NLMSG_ERROR => return Err(netlink_error(message).into()),
                    _ => {
                        sockets.insert(read_u32(message, NLMSGHDR_BYTES + 4), parse_unix_diag(message));
                    }
                }
            }
        }
    })
}

/// Reads the unix socket with this inode in the network namespace of a process.
///
/// # Errors
///
/// Those of [`unix_sockets`]; `ENOENT` when the namespace has no such socket.
pub(crate) fn unix_socket(tid: Tid, inode: u32) -> io::Result<UnixDiag> {
    in_netns_of(tid, || {
        let netlink = send_request(Some(inode))?;
        let mut datagram = vec![0; DATAGRAM_BYTES];
        let length = recv(netlink.as_raw_fd(), &mut datagram, MsgFlags::empty())?;
        let message = messages(&datagram[..length]).next().ok_or(Errno::EPROTO)?;
        match read_u16(message, 4) {
            NLMSG_ERROR => Err(netlink_error(message).into()),
            _ => Ok(parse_unix_diag(message)),
        }
    })
}

/// Calls `action` in the network namespace of a process. For another namespace, `action` runs in a new thread.
///
/// # Errors
///
/// Those of `action`; `EPERM` when the namespace may not be entered (`CAP_SYS_ADMIN`).
pub(crate) fn in_netns_of<T: Send>(tid: Tid, action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
    if link(&tid.to_string())? == link("self")? {
        return action();
    }
    let namespace = File::open(format!("/proc/{tid}/ns/net"))?;
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("network".to_owned());
        let netns_thread = builder.spawn_scoped(scope, || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            action()
        })?;
        netns_thread
            .join()
            .map_err(|_| io::Error::other("the thread in the other network namespace panicked"))?
    })
}

/// Sends the request for one socket, or without `inode` for all.
fn send_request(inode: Option<u32>) -> nix::Result<OwnedFd> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let flags = if inode.is_none() {
        NLM_F_REQUEST | NLM_F_DUMP
    } else {
        NLM_F_REQUEST
    };
    let mut request = Vec::with_capacity(40);
    request.extend(40_u32.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]); // sequence and port
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes()); // all states
    request.extend(inode.unwrap_or(0).to_ne_bytes());
    request.extend(UDIAG_SHOW.to_ne_bytes());
    request.extend([0xff; 8]); // no cookie
    sendto(
        netlink.as_raw_fd(),
        &request,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    Ok(netlink)
}

/// The complete messages of a datagram.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = read_u32(rest, 0) as usize;
        if length < NLMSGHDR_BYTES || length > rest.len() {
            return None;
        }
        let message = &rest[..length];
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        Some(message)
    })
}

fn read_u16(bytes: &[u8], offset: usize) -> u16 {
    bytes
        .get(offset..offset + 2)
        .map_or(0, |half| u16::from_ne_bytes([half[0], half[1]]))
}

fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    let word = bytes.get(offset..offset + 4);
    word.map_or(0, |word| u32::from_ne_bytes(word.try_into().expect("four bytes")))
}

fn netlink_error(message: &[u8]) -> Errno {
    Errno::from_raw(read_u32(message, NLMSGHDR_BYTES).cast_signed().wrapping_neg())
}

fn parse_unix_diag(message: &[u8]) -> UnixDiag {
    let mut state = UnixDiag::default();
    let mut offset = NLMSGHDR_BYTES + UNIX_DIAG_MSG_BYTES;
    // Attributes: u16 length including this header, u16 type, value; each begins at a multiple of four.
    while read_u16(message, offset) >= 4 {
        let (value, length) = (offset + 4, usize::from(read_u16(message, offset)));
        match read_u16(message, offset + 2) {
            0 => state.name = message.get(value..offset + length).map(<[u8]>::to_vec),
            1 => state.vfs_file = Some((read_u32(message, value), read_u32(message, value + 4))),
            2 => state.peer = read_u32(message, value),
            4 => (state.pending_connections, state.backlog) = (read_u32(message, value), read_u32(message, value + 4)),
            6 => state.shutdown = read_u32(message, value) & 0xff,
            _ => {}
        }
        offset += length.next_multiple_of(4);
    }
    state
}

#[cfg(test)]
mod tests {
    use std::os::unix::{
        fs::MetadataExt as _,
        net::{UnixListener, UnixStream},
    };

    use super::*;

    fn inode(fd: &impl std::os::fd::AsRawFd) -> u32 {
        let link = std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        link.ino() as u32
    }

    #[test]
    fn dump_matches_single_queries() {
        let pairs: Vec<_> = (0..300).map(|_| UnixStream::pair().unwrap()).collect();
        pairs[7].1.shutdown(std::net::Shutdown::Write).unwrap();
        let all = unix_sockets(Tid::current()).unwrap();
        for (left, right) in &pairs {
            let diag = &all[&inode(left)];
            assert_eq!((diag.peer, &diag.name), (inode(right), &None));
        }
        assert_eq!(all[&inode(&pairs[7].1)].shutdown, 2);
        assert_eq!(all[&inode(&pairs[7].0)].shutdown, 1);
        assert_eq!(
            unix_socket(Tid::current(), inode(&pairs[7].0)).unwrap(),
            all[&inode(&pairs[7].0)]
        );
        let error = unix_socket(Tid::current(), 1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn names_are_read_unescaped() {
        use std::os::linux::net::SocketAddrExt as _;
        // `/proc/net/unix` shows zero bytes as @, and a path may begin with @.
        let name = format!("of@\0process@{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let diag = unix_socket(Tid::current(), inode(&listener)).unwrap();
        assert_eq!(diag.name.unwrap(), [b"\0", name.as_bytes()].concat());
        assert_eq!(diag.vfs_file, None);
    }

    #[test]
    fn listener_reports_file_and_pending_connections() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let before = unix_socket(Tid::current(), inode(&listener)).unwrap();
        assert!(before.pending_connections == 0 && before.backlog > 0, "{before:?}");
        let name = before.name.as_deref().and_then(|name| name.strip_suffix(&[0]));
        assert_eq!(name, Some(path.as_os_str().as_encoded_bytes()));
        let bound = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!(before.vfs_file.unwrap().0, bound.ino() as u32);
        let _waiting = UnixStream::connect(&path).unwrap();
        assert_eq!(
            unix_socket(Tid::current(), inode(&listener))
                .unwrap()
                .pending_connections,
            1
        );
    }
}
