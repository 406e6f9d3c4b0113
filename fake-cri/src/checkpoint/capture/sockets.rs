//! Sockets, as far as `/proc/PID/net` tells of them: addresses and states. Options, queues and the peers of unix sockets are not
//! there, and `dump.log` says so.

use std::{collections::HashMap, fs};

use cri_proto::criu::message::{FdTypes, FileEntry, InetSkEntry, SkOptsEntry, UnixSkEntry};

use super::owner::no_owner;
use crate::{checkpoint::log::DumpLog, process::proc};

/// States of a socket, for TCP and, in CRIU's images, for unix sockets too (net/tcp_states.h).
const ESTABLISHED: u32 = 1;
const CLOSED: u32 = 7;
const LISTEN: u32 = 10;
/// `SO_ACCEPTCON` in the flags of `/proc/net/unix`.
const ACCEPTS: u32 = 1 << 16;
/// `SS_CONNECTED` there.
const CONNECTED: u32 = 3;
/// The sizes that Linux gives a socket's buffers.
const BUFFER: u32 = 212_992;
/// The longest queue of connections that Linux grants by default.
const BACKLOG: u32 = 128;

/// The sockets of each network namespace that was met.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    namespaces: HashMap<String, HashMap<u64, Socket>>,
}

#[derive(Clone, Debug)]
enum Socket {
    Unix {
        kind: u32,
        state: u32,
        name: Vec<u8>,
    },
    Inet {
        family: u32,
        kind: u32,
        protocol: u32,
        state: u32,
        local: (Vec<u32>, u32),
        remote: (Vec<u32>, u32),
    },
}

impl Sockets {
    /// Fills the entry of a socket.
    #[expect(
        clippy::too_many_arguments,
        reason = "a descriptor of a process and what is written about it"
    )]
    pub(super) fn describe(
        &mut self,
        entry: &mut FileEntry,
        pid: i32,
        window: i32,
        fd: i32,
        inode: u64,
        flags: u32,
        log: &mut DumpLog,
    ) {
        let namespace =
            proc::link(window, "ns/net").map_or_else(|_| pid.to_string(), |link| link.display().to_string());
        let sockets = self.namespaces.entry(namespace).or_insert_with(|| list(window));
        let (id, ino) = (entry.id, inode as u32);
        match sockets.get(&inode) {
            Some(Socket::Unix { kind, state, name }) => {
                entry.set_type(FdTypes::Unixsk);
                entry.usk = Some(UnixSkEntry {
                    id,
                    ino,
                    r#type: *kind,
                    state: *state,
                    flags,
                    uflags: 0,
                    backlog: if *state == LISTEN { BACKLOG } else { 0 },
                    peer: 0,
                    fown: no_owner(),
                    opts: options(),
                    name: name.clone(),
                    ..UnixSkEntry::default()
                });
                log.lost(format_args!(
                    "pid {pid}: options, queue and peer of the unix socket of descriptor {fd}"
                ));
            }
            Some(Socket::Inet {
                family,
                kind,
                protocol,
                state,
                local,
                remote,
            }) => {
                entry.set_type(FdTypes::Inetsk);
                entry.isk = Some(InetSkEntry {
                    id,
                    ino,
                    family: *family,
                    r#type: *kind,
                    proto: *protocol,
                    state: *state,
                    src_port: local.1,
                    dst_port: remote.1,
                    flags,
                    backlog: if *state == LISTEN { BACKLOG } else { 0 },
                    src_addr: local.0.clone(),
                    dst_addr: remote.0.clone(),
                    fown: no_owner(),
                    opts: options(),
                    ..InetSkEntry::default()
                });
                log.lost(format_args!(
                    "pid {pid}: options and queues of the inet socket of descriptor {fd}"
                ));
            }
            None => {
                // An unbound inet socket is in no list, nor is one of another family.
                entry.set_type(FdTypes::Ext);
                entry.ext = Some(cri_proto::criu::message::ExtFileEntry { id, fown: no_owner() });
                log.lost(format_args!(
                    "pid {pid}: the socket of descriptor {fd}, which /proc does not list"
                ));
            }
        }
    }
}

/// Options as a new socket has them.
fn options() -> SkOptsEntry {
    SkOptsEntry {
        so_sndbuf: BUFFER,
        so_rcvbuf: BUFFER,
        ..SkOptsEntry::default()
    }
}

/// All sockets that the network namespace of a process shows.
fn list(window: i32) -> HashMap<u64, Socket> {
    let mut sockets = HashMap::new();
    if let Ok(text) = fs::read(format!("/proc/{window}/net/unix")) {
        sockets.extend(text.split(|byte| *byte == b'\n').skip(1).filter_map(unix));
    }
    for (name, family, kind, protocol) in [
        ("tcp", libc::AF_INET, libc::SOCK_STREAM, Some(libc::IPPROTO_TCP)),
        ("tcp6", libc::AF_INET6, libc::SOCK_STREAM, Some(libc::IPPROTO_TCP)),
        ("udp", libc::AF_INET, libc::SOCK_DGRAM, Some(libc::IPPROTO_UDP)),
        ("udp6", libc::AF_INET6, libc::SOCK_DGRAM, Some(libc::IPPROTO_UDP)),
        // The port of a raw socket is its protocol.
        ("raw", libc::AF_INET, libc::SOCK_RAW, None),
        ("raw6", libc::AF_INET6, libc::SOCK_RAW, None),
    ] {
        if let Ok(text) = fs::read_to_string(format!("/proc/{window}/net/{name}")) {
            sockets.extend(
                text.lines()
                    .skip(1)
                    .filter_map(|line| inet(line, family as u32, kind as u32, protocol.map(|number| number as u32))),
            );
        }
    }
    sockets
}

/// A line of `/proc/net/unix`: `0000000000000000: 00000002 00000000 00010000 0001 01 20345 /run/socket`.
fn unix(line: &[u8]) -> Option<(u64, Socket)> {
    let mut words = line.splitn(8, |byte| *byte == b' ').map(<[u8]>::to_vec);
    let mut word = || words.next().and_then(|word| String::from_utf8(word).ok());
    let (_slot, _references, _protocol) = (word()?, word()?, word()?);
    let flags = u32::from_str_radix(&word()?, 16).ok()?;
    let kind = u32::from_str_radix(&word()?, 16).ok()?;
    let state = u32::from_str_radix(&word()?, 16).ok()?;
    // The inode is right-aligned in five places, so that a short one has spaces before it.
    let rest = {
        let at = line.iter().enumerate().filter(|(_, byte)| **byte == b' ').nth(5)?.0;
        line[at..].trim_ascii_start()
    };
    let (inode, name) = match rest.iter().position(|byte| *byte == b' ') {
        Some(space) => (&rest[..space], &rest[space + 1..]),
        None => (rest, &[][..]),
    };
    let inode = str::from_utf8(inode).ok()?.parse().ok()?;
    // An abstract name begins with @ here and with a zero in truth, and so does every zero inside of it.
    let name = match name.first() {
        Some(b'@') => name.iter().map(|byte| if *byte == b'@' { 0 } else { *byte }).collect(),
        Some(_) => name.iter().copied().chain([0]).collect(),
        None => Vec::new(),
    };
    let state = match state {
        _ if flags & ACCEPTS != 0 => LISTEN,
        CONNECTED => ESTABLISHED,
        _ => CLOSED,
    };
    Some((inode, Socket::Unix { kind, state, name }))
}

/// A line of `/proc/net/tcp` and its kin: `0: 0100007F:1F90 00000000:0000 0A ... uid timeout inode ...`.
fn inet(line: &str, family: u32, kind: u32, protocol: Option<u32>) -> Option<(u64, Socket)> {
    let mut words = line.split_whitespace();
    let _slot = words.next()?;
    let local = address(words.next()?)?;
    let remote = address(words.next()?)?;
    let state = u32::from_str_radix(words.next()?, 16).ok()?;
    let inode = words.nth(5)?.parse().ok()?;
    let protocol = protocol.unwrap_or(local.1);
    Some((
        inode,
        Socket::Inet {
            family,
            kind,
            protocol,
            state,
            local,
            remote,
        },
    ))
}

/// An address and a port; the words of the address are in network order, as the kernel keeps them and CRIU's images do.
fn address(text: &str) -> Option<(Vec<u32>, u32)> {
    let (address, port) = text.split_once(':')?;
    let port = u32::from_str_radix(port, 16).ok()?;
    if !matches!(address.len(), 8 | 32) {
        return None;
    }
    let words: Option<Vec<u32>> = (0..address.len())
        .step_by(8)
        .map(|at| u32::from_str_radix(address.get(at..at + 8)?, 16).ok())
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
        LISTEN,
        b"/run/a b\0"
    )]
    #[case::pair(
        b"0000000000000000: 00000003 00000000 00000000 0002 03    42",
        42,
        2,
        ESTABLISHED,
        b""
    )]
    #[case::abstract_name(
        b"0000000000000000: 00000002 00000000 00000000 0005 01 7 @x@y",
        7,
        5,
        CLOSED,
        b"\0x\0y"
    )]
    fn unix_sockets(
        #[case] line: &[u8],
        #[case] expected_inode: u64,
        #[case] expected_kind: u32,
        #[case] expected_state: u32,
        #[case] expected_name: &[u8],
    ) {
        let Some((inode, Socket::Unix { kind, state, name })) = unix(line) else {
            panic!("not read");
        };
        assert_eq!((inode, kind, state), (expected_inode, expected_kind, expected_state));
        assert_eq!(name, expected_name);
    }

    #[test]
    fn inet_sockets() {
        let line =
            "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0";
        let Some((
            inode,
            Socket::Inet {
                state, local, remote, ..
            },
        )) = inet(line, 2, 1, Some(6))
        else {
            panic!("not read");
        };
        assert_eq!((inode, state), (4711, LISTEN));
        assert_eq!(local, (vec![0x0100_007f], 8080));
        assert_eq!(remote, (vec![0], 0));
        assert_eq!(address("0000:1"), None);
        assert_eq!(
            address("00000000000000000000000001000000:0016").map(|(words, _)| words.len()),
            Some(4)
        );
    }
}
