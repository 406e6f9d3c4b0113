//! Sockets: addresses and states from `/proc/PID/net`, options and what is unread from a copy of the descriptor, the two ends of
//! a unix socket from the kernel's own list (sock_diag(7)).
//!
//! A pair of unix sockets within the container is carried with what is unread in it, and so is who listens; a connection to
//! somewhere else is not: it is recorded, and `dump.log` says so. Without a copy of the descriptor (Linux before 5.6) the options
//! are those of a new socket, said as well. Groups of multicast that a socket joined cannot be asked for.

mod options;
mod queue;

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::{
        fd::BorrowedFd,
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::Path,
};

use cri_proto::criu::message::{FdTypes, FileEntry, FilePermsEntry, InetSkEntry, SkShutdown, UnixSkEntry};

use self::queue::Queues;
use super::{Images, owner::no_owner};
use crate::{
    checkpoint::log::DumpLog,
    process::{proc, socket},
};

/// States of a socket, for TCP and, in CRIU's images, for unix sockets too (net/tcp_states.h).
const ESTABLISHED: u32 = 1;
const CLOSED: u32 = 7;
const LISTEN: u32 = 10;
/// `SO_ACCEPTCON` in the flags of `/proc/net/unix`.
const ACCEPTS: u32 = 1 << 16;
/// `SS_CONNECTED` there.
const CONNECTED: u32 = 3;
/// What the list of unix sockets shows for a zero.
const AT: u8 = b'@';
/// The longest queue of connections that Linux grants by default.
const BACKLOG: u32 = 128;

/// A descriptor that leads to a socket.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its process.
    pub(super) pid: i32,
    /// The thread that it is seen through.
    pub(super) window: i32,
    /// Its number there.
    pub(super) fd: i32,
    /// The socket's inode.
    pub(super) inode: u64,
    /// The flags of open(2).
    pub(super) flags: u32,
    /// A descriptor of ours that leads to the same socket.
    pub(super) copy: Option<BorrowedFd<'a>>,
}

/// The sockets of each network namespace that was met.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    namespaces: HashMap<String, HashMap<u64, Socket>>,
    queues: Queues,
}

#[derive(Clone, Debug)]
enum Socket {
    Unix { kind: u32, state: u32, name: Vec<u8> },
    Inet(Inet),
}

/// An inet socket and its two addresses, each with its port.
#[derive(Clone, Debug)]
struct Inet {
    family: u32,
    kind: u32,
    protocol: u32,
    state: u32,
    local: (Vec<u32>, u32),
    remote: (Vec<u32>, u32),
}

impl Sockets {
    /// Fills the entry of a socket.
    pub(super) fn describe(&mut self, entry: &mut FileEntry, place: Place<'_>, log: &mut DumpLog) {
        let Place { pid, window, fd, .. } = place;
        let namespace =
            proc::link(window, "ns/net").map_or_else(|_| pid.to_string(), |link| link.display().to_string());
        let sockets = self.namespaces.entry(namespace).or_insert_with(|| list(window));
        match sockets.get(&place.inode).cloned().or_else(|| unlisted(place, log)) {
            Some(Socket::Unix { kind, state, name }) => self.unix(entry, place, (kind, state, name), log),
            Some(Socket::Inet(inet)) => describe_inet(entry, place, inet, log),
            None => {
                entry.set_type(FdTypes::Ext);
                entry.ext = Some(cri_proto::criu::message::ExtFileEntry {
                    id: entry.id,
                    fown: no_owner(),
                });
                log.lost(format_args!(
                    "pid {pid}: the socket of descriptor {fd}, which is neither of unix nor of inet"
                ));
            }
        }
    }

    fn unix(
        &mut self,
        entry: &mut FileEntry,
        place: Place<'_>,
        (kind, state, name): (u32, u32, Vec<u8>),
        log: &mut DumpLog,
    ) {
        let Place { pid, fd, .. } = place;
        let ino = place.inode as u32;
        let known = socket::unix_state(ino).unwrap_or_else(|errno| {
            log.lost(format_args!(
                "pid {pid}: the peer of the unix socket of descriptor {fd}: {errno}"
            ));
            socket::UnixState {
                backlog: if state == LISTEN { BACKLOG } else { 0 },
                ..socket::UnixState::default()
            }
        });
        let name = match (&known.name, name.contains(&AT)) {
            (Some(told), _) => told.clone(),
            // The list shows every zero of an abstract name as @, and @ too.
            (None, true) => {
                let shown = String::from_utf8_lossy(&name);
                log.lost(format_args!(
                    "pid {pid}: which @ are zeroes in the name {shown} of the unix socket of descriptor {fd}; the first is taken for one"
                ));
                guessed(&name)
            }
            (None, false) => name,
        };
        let (file_perms, deleted) = bound_file(place, &name, log);
        entry.set_type(FdTypes::Unixsk);
        entry.usk = Some(UnixSkEntry {
            id: entry.id,
            ino,
            r#type: kind,
            state,
            flags: place.flags,
            uflags: 0,
            backlog: if state == LISTEN { known.backlog } else { 0 },
            peer: known.peer,
            fown: no_owner(),
            opts: options_of(place, log),
            name,
            shutdown: match known.shutdown & 3 {
                0 => None,
                1 => Some(SkShutdown::Read.into()),
                2 => Some(SkShutdown::Write.into()),
                _ => Some(SkShutdown::Both.into()),
            },
            file_perms,
            deleted,
            ..UnixSkEntry::default()
        });
        if state == LISTEN {
            if known.waiting > 0 {
                let waiting = known.waiting;
                log.lost(format_args!(
                    "pid {pid}: {waiting} connections of the listening unix socket of descriptor {fd} that are not accepted yet"
                ));
            }
            return;
        }
        let lost = match place
            .copy
            .map(|copy| self.queues.add(entry.id, copy, known.shutdown & 1 != 0))
        {
            Some(Ok(lost)) => lost,
            // That there is no copy is said once for the whole process.
            None => return,
            Some(Err(errno)) => {
                log.lost(format_args!(
                    "pid {pid}: what is unread in the unix socket of descriptor {fd}: {errno}"
                ));
                return;
            }
        };
        if lost.more_than_bytes {
            log.lost(format_args!(
                "pid {pid}: descriptors or credentials in the queue of the unix socket of descriptor {fd}"
            ));
        }
        if lost.empty_packet {
            log.lost(format_args!(
                "pid {pid}: a packet without content in the unix socket of descriptor {fd}, and what follows it"
            ));
        }
    }

    /// Adds `sk-queues.img`, and lets go of peers that no process of the container holds.
    pub(super) fn finish(self, entries: &mut [FileEntry], images: &mut Images, log: &mut DumpLog) {
        let held: HashSet<u32> = entries
            .iter()
            .filter_map(|entry| Some(entry.usk.as_ref()?.ino))
            .collect();
        for socket in entries.iter_mut().filter_map(|entry| entry.usk.as_mut()) {
            if socket.peer != 0 && !held.contains(&socket.peer) {
                log.lost(format_args!(
                    "the peer of the unix socket {}, which is outside of the container",
                    socket.ino
                ));
                socket.peer = 0;
            }
        }
        self.queues.images(images);
    }
}

/// Owner and mode of the file that a unix socket is bound to, and whether it is there no more.
fn bound_file(place: Place<'_>, name: &[u8], log: &mut DumpLog) -> (Option<FilePermsEntry>, Option<bool>) {
    let Place { pid, window, fd, .. } = place;
    let (Some(b'/'), Ok(path)) = (name.first(), str::from_utf8(name.strip_suffix(&[0]).unwrap_or(name))) else {
        if name.first().is_some_and(|first| *first != 0) {
            log.lost(format_args!(
                "pid {pid}: the folder that the name of the unix socket of descriptor {fd} began in"
            ));
        }
        return (None, None);
    };
    let there = fs::symlink_metadata(Path::new(&format!("/proc/{window}/root")).join(&path[1..]));
    match there {
        Ok(metadata) if metadata.file_type().is_socket() => {
            let permissions = FilePermsEntry {
                mode: metadata.mode(),
                uid: metadata.uid(),
                gid: metadata.gid(),
            };
            (Some(permissions), None)
        }
        _ => (None, Some(true)),
    }
}

fn options_of(place: Place<'_>, log: &mut DumpLog) -> cri_proto::criu::message::SkOptsEntry {
    let Some(copy) = place.copy else {
        return options::unknown();
    };
    name_without_place(place, copy, log);
    options::of_socket(copy).unwrap_or_else(|errno| {
        let Place { pid, fd, .. } = place;
        log.lost(format_args!(
            "pid {pid}: the options of the socket of descriptor {fd}: {errno}"
        ));
        options::unknown()
    })
}

fn name_without_place(place: Place<'_>, copy: BorrowedFd<'_>, log: &mut DumpLog) {
    let Place { pid, fd, .. } = place;
    for name in options::without_place(copy) {
        log.lost(format_args!(
            "pid {pid}: the option {name} of the socket of descriptor {fd}"
        ));
    }
}

fn describe_inet(entry: &mut FileEntry, place: Place<'_>, inet: Inet, log: &mut DumpLog) {
    let Place { pid, fd, .. } = place;
    let listens = inet.state == LISTEN;
    let mut socket = InetSkEntry {
        id: entry.id,
        ino: place.inode as u32,
        family: inet.family,
        r#type: inet.kind,
        proto: inet.protocol,
        state: inet.state,
        src_port: inet.local.1,
        dst_port: inet.remote.1,
        flags: place.flags,
        backlog: if listens { BACKLOG } else { 0 },
        src_addr: inet.local.0,
        dst_addr: inet.remote.0,
        fown: no_owner(),
        opts: options::unknown(),
        ..InetSkEntry::default()
    };
    if let Some(copy) = place.copy {
        name_without_place(place, copy, log);
        if let Err(errno) = options::of_inet(copy, &mut socket) {
            log.lost(format_args!(
                "pid {pid}: the options of the socket of descriptor {fd}: {errno}"
            ));
        }
        if listens {
            // `struct tcp_info` of a listening socket: the words 6 and 7 are who waits and how many may.
            match socket::option::<[u8; 32]>(copy, libc::IPPROTO_TCP, libc::TCP_INFO) {
                Ok(info) => {
                    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
                    socket.backlog = word(28);
                    if word(24) > 0 {
                        log.lost(format_args!(
                            "pid {pid}: {} connections of the listening socket of descriptor {fd} that are not accepted yet",
                            word(24)
                        ));
                    }
                }
                Err(errno) => log.lost(format_args!("pid {pid}: the backlog of descriptor {fd}: {errno}")),
            }
        }
    }
    let is_tcp = inet.protocol == libc::IPPROTO_TCP as u32;
    if is_tcp && !listens && inet.state != CLOSED {
        log.lost(format_args!(
            "pid {pid}: the TCP connection of descriptor {fd}, which is recorded and cannot be restored"
        ));
    } else if !is_tcp && place.copy.is_none_or(|copy| socket::peek(copy, &mut [0]) != Ok(None)) {
        log.lost(format_args!(
            "pid {pid}: what is unread in the socket of descriptor {fd}"
        ));
    }
    entry.set_type(FdTypes::Inetsk);
    entry.isk = Some(socket);
}

/// What a name is likely to be that the list shows, ended by a zero, with @ at its beginning.
fn guessed(shown: &[u8]) -> Vec<u8> {
    match shown {
        [AT, rest @ .., 0] => [&[0], rest].concat(),
        other => other.to_vec(),
    }
}

/// An inet socket that neither listens nor is connected, which no list has. It may be bound.
fn unlisted(place: Place<'_>, log: &mut DumpLog) -> Option<Socket> {
    let number = |name| {
        Some(
            socket::option::<i32>(place.copy?, libc::SOL_SOCKET, name)
                .ok()?
                .cast_unsigned(),
        )
    };
    let family = number(libc::SO_DOMAIN)?;
    let words = match family.cast_signed() {
        libc::AF_INET => 1,
        libc::AF_INET6 => 4,
        _ => return None,
    };
    let local = socket::inet_name(place.copy?).unwrap_or_else(|errno| {
        let Place { pid, fd, .. } = place;
        log.lost(format_args!(
            "pid {pid}: what the socket of descriptor {fd} is bound to: {errno}"
        ));
        (vec![0; words], 0)
    });
    Some(Socket::Inet(Inet {
        family,
        kind: number(libc::SO_TYPE)?,
        protocol: number(libc::SO_PROTOCOL)?,
        state: CLOSED,
        local,
        remote: (vec![0; words], 0),
    }))
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
    let name = match name.is_empty() {
        false => name.iter().copied().chain([0]).collect(),
        true => Vec::new(),
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
        Socket::Inet(Inet {
            family,
            kind,
            protocol,
            state,
            local,
            remote,
        }),
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
        b"@x@y\0"
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
    fn a_name_that_is_only_shown_is_guessed() {
        assert_eq!(guessed(b"@x@y\0"), b"\0x@y");
        assert_eq!(guessed(b"/run/a@b\0"), b"/run/a@b\0");
    }

    #[test]
    fn inet_sockets() {
        let line =
            "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0";
        let Some((
            inode,
            Socket::Inet(Inet {
                state, local, remote, ..
            }),
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
