//! A network namespace: its sockets from `/proc/PID/net` and sock_diag(7), its multicast groups, and the options of new
//! sockets.

use std::{collections::HashMap, fs, io, net::IpAddr, os::fd::AsFd as _};

use super::{SocketKind, TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN, multicast, unsupported_options::DefaultOptions};
use crate::{
    checkpoint::dump_log::DumpLog,
    process::{
        Tid, socket,
        unix_diag::{UnixDiag, in_netns_of, unix_socket, unix_sockets},
    },
};

/// `SO_ACCEPTCON` in the flags of `/proc/net/unix`.
const SO_ACCEPTCON: u32 = 1 << 16;
/// `SS_CONNECTED`, the state in `/proc/net/unix`.
const SS_CONNECTED: u32 = 3;

/// A network namespace, read through a thread in it.
#[derive(Debug)]
pub(super) struct NetNs {
    proc_tid: Tid,
    sockets: HashMap<u64, ListedSocket>,
    /// Read for the first unix socket. Empty if it cannot be read, which is reported in the log.
    unix_states: Option<HashMap<u32, UnixDiag>>,
    multicast_groups: Option<Vec<(u32, IpAddr)>>,
    /// The options of new sockets by their kind; `None` if no such socket can be created.
    default_options: HashMap<SocketKind, Option<DefaultOptions>>,
}

#[derive(Clone, Debug)]
pub(super) enum ListedSocket {
    Unix(UnixSocket),
    Inet(InetSocket),
}

/// A unix socket as `/proc/net/unix` shows it.
#[derive(Clone, Debug)]
pub(super) struct UnixSocket {
    pub(super) socket_type: u32,
    pub(super) state: u32,
    pub(super) name: Vec<u8>,
}

/// An inet socket. Addresses are words in network order, with a port.
#[derive(Clone, Debug)]
pub(super) struct InetSocket {
    pub(super) kind: SocketKind,
    pub(super) state: u32,
    pub(super) local: (Vec<u32>, u32),
    pub(super) remote: (Vec<u32>, u32),
}

impl NetNs {
    pub(super) fn new(proc_tid: Tid) -> Self {
        Self {
            proc_tid,
            sockets: list_sockets(proc_tid),
            unix_states: None,
            multicast_groups: None,
            default_options: HashMap::new(),
        }
    }

    /// The listed socket with this inode.
    pub(super) fn socket_of(&self, inode: u64) -> Option<ListedSocket> {
        self.sockets.get(&inode).cloned()
    }

    /// The sock_diag data of a unix socket.
    ///
    /// # Errors
    ///
    /// As [`unix_socket`]. A failure to list the sockets is logged once per namespace.
    pub(super) fn unix_state(&mut self, inode: u32, log: &mut DumpLog) -> io::Result<UnixDiag> {
        let proc_tid = self.proc_tid;
        let states = self.unix_states.get_or_insert_with(|| {
            unix_sockets(proc_tid).unwrap_or_else(|error| {
                log.info(format_args!(
                    "cannot list the unix sockets of thread {proc_tid}'s network namespace: {error}"
                ));
                HashMap::new()
            })
        });
        match states.get(&inode) {
            Some(state) => Ok(state.clone()),
            // The kernel's dump may skip a socket if another socket of the hash table is closed meanwhile.
            None => unix_socket(proc_tid, inode),
        }
    }

    /// The multicast groups of the namespace, each with its interface.
    pub(super) fn multicast_groups(&mut self) -> &[(u32, IpAddr)] {
        let proc_tid = self.proc_tid;
        self.multicast_groups
            .get_or_insert_with(|| multicast::list_groups(proc_tid))
    }

    /// The options of a new socket of this kind; `None` if no such socket can be created.
    pub(super) fn default_options(&mut self, kind: SocketKind) -> Option<&DefaultOptions> {
        let proc_tid = self.proc_tid;
        let read = || {
            let SocketKind {
                family,
                socket_type,
                protocol,
            } = kind;
            let new_socket = in_netns_of(proc_tid, || socket::new_socket(family, socket_type, protocol)).ok()?;
            Some(DefaultOptions::read(new_socket.as_fd(), kind))
        };
        self.default_options.entry(kind).or_insert_with(read).as_ref()
    }
}

/// The sockets listed in the network namespace of a thread.
fn list_sockets(proc_tid: Tid) -> HashMap<u64, ListedSocket> {
    let mut sockets = HashMap::new();
    if let Ok(text) = fs::read(format!("/proc/{proc_tid}/net/unix")) {
        sockets.extend(text.split(|byte| *byte == b'\n').skip(1).filter_map(parse_unix_line));
    }
    for (name, family, kind, protocol) in [
        ("tcp", libc::AF_INET, libc::SOCK_STREAM, Some(libc::IPPROTO_TCP)),
        ("tcp6", libc::AF_INET6, libc::SOCK_STREAM, Some(libc::IPPROTO_TCP)),
        ("udp", libc::AF_INET, libc::SOCK_DGRAM, Some(libc::IPPROTO_UDP)),
        ("udp6", libc::AF_INET6, libc::SOCK_DGRAM, Some(libc::IPPROTO_UDP)),
        // In these lists, the port of a raw socket is its protocol.
        ("raw", libc::AF_INET, libc::SOCK_RAW, None),
        ("raw6", libc::AF_INET6, libc::SOCK_RAW, None),
    ] {
        if let Ok(text) = fs::read_to_string(format!("/proc/{proc_tid}/net/{name}")) {
            sockets.extend(text.lines().skip(1).filter_map(|line| {
                parse_inet_line(line, family as u32, kind as u32, protocol.map(|number| number as u32))
            }));
        }
    }
    sockets
}

/// A line of `/proc/net/unix`: `0000000000000000: 00000002 00000000 00010000 0001 01 20345 /run/socket`.
fn parse_unix_line(line: &[u8]) -> Option<(u64, ListedSocket)> {
    let mut words = line.splitn(8, |byte| *byte == b' ').map(<[u8]>::to_vec);
    let mut word = || words.next().and_then(|word| String::from_utf8(word).ok());
    let (_slot, _references, _protocol) = (word()?, word()?, word()?);
    let flags = u32::from_str_radix(&word()?, 16).ok()?;
    let socket_type = u32::from_str_radix(&word()?, 16).ok()?;
    let state = u32::from_str_radix(&word()?, 16).ok()?;
    // The inode is right-aligned in five columns, so a short inode has leading spaces.
    let rest = {
        let start = line.iter().enumerate().filter(|(_, byte)| **byte == b' ').nth(5)?.0;
        line[start..].trim_ascii_start()
    };
    let (inode, name) = match rest.iter().position(|byte| *byte == b' ') {
        Some(space) => (&rest[..space], &rest[space + 1..]),
        None => (rest, &[][..]),
    };
    let inode = str::from_utf8(inode).ok()?.parse().ok()?;
    let name = match name.is_empty() {
        false => name.iter().copied().chain([0]).collect(),
        true => Vec::new(),
    };
    let state = match state {
        _ if flags & SO_ACCEPTCON != 0 => TCP_LISTEN,
        SS_CONNECTED => TCP_ESTABLISHED,
        _ => TCP_CLOSE,
    };
    let socket = UnixSocket {
        socket_type,
        state,
        name,
    };
    Some((inode, ListedSocket::Unix(socket)))
}

/// A line of `/proc/net/tcp` and similar: `0: 0100007F:1F90 00000000:0000 0A ... uid timeout inode ...`.
fn parse_inet_line(line: &str, family: u32, socket_type: u32, protocol: Option<u32>) -> Option<(u64, ListedSocket)> {
    let mut words = line.split_whitespace();
    let _slot = words.next()?;
    let local = parse_address(words.next()?)?;
    let remote = parse_address(words.next()?)?;
    let state = u32::from_str_radix(words.next()?, 16).ok()?;
    let inode = words.nth(5)?.parse().ok()?;
    let protocol = protocol.unwrap_or(local.1);
    Some((
        inode,
        ListedSocket::Inet(InetSocket {
            kind: SocketKind {
                family,
                socket_type,
                protocol,
            },
            state,
            local,
            remote,
        }),
    ))
}

/// An address and a port. The words of the address are in network order, as in the kernel and in CRIU's images.
fn parse_address(text: &str) -> Option<(Vec<u32>, u32)> {
    let (address, port) = text.split_once(':')?;
    let port = u32::from_str_radix(port, 16).ok()?;
    if !matches!(address.len(), 8 | 32) {
        return None;
    }
    let words: Option<Vec<u32>> = (0..address.len())
        .step_by(8)
        .map(|start| u32::from_str_radix(address.get(start..start + 8)?, 16).ok())
        .collect();
    Some((words?, port))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::listening(
        b"0000000000000000: 00000002 00000000 00010000 0001 01 20345 /run/a b",
        20345,
        1,
        TCP_LISTEN,
        b"/run/a b\0"
    )]
    #[case::pair(
        b"0000000000000000: 00000003 00000000 00000000 0002 03    42",
        42,
        2,
        TCP_ESTABLISHED,
        b""
    )]
    #[case::abstract_name(
        b"0000000000000000: 00000002 00000000 00000000 0005 01 7 @x@y",
        7,
        5,
        TCP_CLOSE,
        b"@x@y\0"
    )]
    fn unix_lines_are_parsed(
        #[case] line: &[u8],
        #[case] expected_inode: u64,
        #[case] expected_kind: u32,
        #[case] expected_state: u32,
        #[case] expected_name: &[u8],
    ) {
        let Some((inode, ListedSocket::Unix(socket))) = parse_unix_line(line) else {
            panic!("not parsed");
        };
        let parsed = (inode, socket.socket_type, socket.state);
        assert_eq!(parsed, (expected_inode, expected_kind, expected_state));
        assert_eq!(socket.name, expected_name);
    }

    #[test]
    fn inet_lines_are_parsed() {
        let line =
            "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0";
        let Some((
            inode,
            ListedSocket::Inet(InetSocket {
                state, local, remote, ..
            }),
        )) = parse_inet_line(line, 2, 1, Some(6))
        else {
            panic!("not parsed");
        };
        assert_eq!((inode, state), (4711, TCP_LISTEN));
        assert_eq!(local, (vec![0x0100_007f], 8080));
        assert_eq!(remote, (vec![0], 0));
        assert_eq!(parse_address("0000:1"), None);
        assert_eq!(
            parse_address("00000000000000000000000001000000:0016").map(|(words, _)| words.len()),
            Some(4)
        );
    }
}
