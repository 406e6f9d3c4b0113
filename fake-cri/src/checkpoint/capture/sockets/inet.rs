//! Inet sockets: addresses and states, options, backlogs, errors, and whether something is unread.

use cri_proto::criu::message::{FdTypes, FileEntry, InetSkEntry};
use nix::poll::PollFlags;

use super::{
    CLOSED, LISTEN, Place, multicast,
    network::{Inet, Network, Socket},
    no_owner, options, report_unplaced,
};
use crate::{checkpoint::log::DumpLog, process::socket};

/// The longest queue of connections that Linux grants by default.
const BACKLOG: u32 = 128;
/// `IPPROTO_UDPLITE` and `IPPROTO_MPTCP` (linux/in.h).
const UDP_LITE: i32 = 136;
const MULTIPATH_TCP: i32 = 262;

/// Fills the entry of an inet socket.
pub(super) fn describe(entry: &mut FileEntry, place: Place<'_>, inet: Inet, network: &mut Network, log: &mut DumpLog) {
    let Place { pid, fd, .. } = place;
    let listens = inet.state == LISTEN;
    let is_tcp = inet.protocol == libc::IPPROTO_TCP as u32;
    let is_connected = is_tcp && !listens && inet.state != CLOSED;
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
        if let Err(errno) = options::of_inet(copy, &mut socket) {
            log.lost(format_args!(
                "pid {pid}: the options of the socket of descriptor {fd}: {errno}"
            ));
        }
        // Of a connection they depend on its peer, and it is named as a whole below.
        if !is_connected {
            report_unplaced(place, copy, network, (inet.family, inet.kind, inet.protocol), log);
            for (interface, group) in multicast::joined(copy, inet.family, inet.kind, network.groups()) {
                log.lost(format_args!(
                    "pid {pid}: that the socket of descriptor {fd} is a member of the multicast group {group} on interface {interface}"
                ));
            }
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
    if is_connected {
        log.lost(format_args!(
            "pid {pid}: the TCP connection of descriptor {fd}, which is recorded and cannot be restored"
        ));
    } else if !listens {
        for what in unread(place, is_tcp) {
            log.lost(format_args!("pid {pid}: {what} of the socket of descriptor {fd}"));
        }
    }
    if let Some(what) = without_restorer(inet.kind, inet.protocol) {
        log.lost(format_args!(
            "pid {pid}: the socket of descriptor {fd}, which is of {what} and cannot be restored"
        ));
    }
    entry.set_type(FdTypes::Inetsk);
    entry.isk = Some(socket);
}

/// What waits in a socket that is neither listening nor a connection: nothing is taken from it, and no error either, since a
/// call that would report an error also clears it.
fn unread(place: Place<'_>, is_tcp: bool) -> Vec<&'static str> {
    let Some(copy) = place.copy else {
        return vec!["what is unread, if anything,"];
    };
    let Ok(ready) = socket::readiness(copy) else {
        return vec!["what is unread, if anything,"];
    };
    let mut found = Vec::new();
    let has_error = ready.contains(PollFlags::POLLERR);
    if socket::bytes_to_read(copy).is_ok_and(|bytes| bytes > 0) {
        found.push("what is unread");
    } else if ready.contains(PollFlags::POLLIN) && !has_error {
        match is_tcp {
            true => found.push("that the connection has ended"),
            // A packet without content, unless nothing comes any more.
            false if !ready.contains(PollFlags::from_bits_retain(libc::POLLRDHUP)) => found.push("what is unread"),
            false => found.push("that nothing can be received any more (shutdown)"),
        }
    }
    if ready.contains(PollFlags::POLLPRI) {
        found.push("what is out of band");
    }
    if has_error {
        found.push("the error that the next call would report");
    }
    found
}

/// Protocols that CRIU makes no sockets of (criu/sk-inet.c).
fn without_restorer(kind: u32, protocol: u32) -> Option<String> {
    match protocol.cast_signed() {
        _ if kind == libc::SOCK_RAW as u32 => None,
        libc::IPPROTO_TCP | libc::IPPROTO_UDP | UDP_LITE => None,
        MULTIPATH_TCP => Some("Multipath TCP".to_owned()),
        other => Some(format!("protocol {other}")),
    }
}

/// An inet socket that neither listens nor is connected, which no list has. It may be bound.
pub(super) fn unlisted(place: Place<'_>, log: &mut DumpLog) -> Option<Socket> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_without_a_restorer_are_named() {
        let of = |kind: i32, protocol: i32| without_restorer(kind.cast_unsigned(), protocol.cast_unsigned());
        assert_eq!(of(libc::SOCK_STREAM, libc::IPPROTO_TCP), None);
        assert_eq!(of(libc::SOCK_RAW, libc::IPPROTO_ICMP), None);
        assert_eq!(of(libc::SOCK_STREAM, MULTIPATH_TCP).as_deref(), Some("Multipath TCP"));
        assert_eq!(of(libc::SOCK_DGRAM, libc::IPPROTO_ICMP).as_deref(), Some("protocol 1"));
    }
}
