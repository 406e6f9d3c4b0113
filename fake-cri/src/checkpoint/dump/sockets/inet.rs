//! Inet sockets: addresses and states, options, backlogs, errors, and whether data is unread.

use cri_proto::criu::message::{FdTypes, FileEntry, InetSkEntry};
use nix::poll::PollFlags;

use super::{
    SocketFd, SocketKind, TCP_CLOSE, TCP_LISTEN, TaskCtx, multicast,
    net_ns::{InetSocket, ListedSocket, NetNs},
    no_fown, options, report_unsupported_options,
};
use crate::process::socket;

/// The default maximum backlog (net.core.somaxconn before Linux 5.4).
const DEFAULT_BACKLOG: u32 = 128;
/// `IPPROTO_UDPLITE` and `IPPROTO_MPTCP` (linux/in.h).
const IPPROTO_UDPLITE: i32 = 136;
const IPPROTO_MPTCP: i32 = 262;

pub(super) fn describe(
    task: &mut TaskCtx<'_>,
    entry: &mut FileEntry,
    socket_fd: SocketFd<'_>,
    inet: InetSocket,
    net_ns: &mut NetNs,
) {
    let fd = socket_fd.fd;
    let kind = inet.kind;
    let listens = inet.state == TCP_LISTEN;
    let is_tcp = kind.protocol == libc::IPPROTO_TCP as u32;
    let is_connected = is_tcp && !listens && inet.state != TCP_CLOSE;
    let mut socket = InetSkEntry {
        id: entry.id,
        ino: socket_fd.inode as u32,
        family: kind.family,
        r#type: kind.socket_type,
        proto: kind.protocol,
        state: inet.state,
        src_port: inet.local.1,
        dst_port: inet.remote.1,
        flags: socket_fd.flags,
        backlog: if listens { DEFAULT_BACKLOG } else { 0 },
        src_addr: inet.local.0,
        dst_addr: inet.remote.0,
        fown: no_fown(),
        opts: options::default_options(),
        ..InetSkEntry::default()
    };
    if let Some(dup_fd) = socket_fd.dup_fd {
        if let Err(errno) = options::read_inet_options(dup_fd, &mut socket) {
            task.unsupported(format_args!("the options of the socket of descriptor {fd}: {errno}"));
        }
        // The options of a connection depend on its peer; the whole connection is reported below.
        if !is_connected {
            report_unsupported_options(task, fd, dup_fd, net_ns, kind);
            for (interface, group) in multicast::groups_of_socket(dup_fd, kind, net_ns.multicast_groups()) {
                task.unsupported(format_args!(
                    "the membership of the socket of descriptor {fd} in the multicast group {group} on \
                     interface {interface}"
                ));
            }
        }
        if listens {
            // `struct tcp_info` of a listening socket: word 6 is the number of pending connections, word 7 the backlog.
            match socket::getsockopt::<[u8; 32]>(dup_fd, libc::IPPROTO_TCP, libc::TCP_INFO) {
                Ok(info) => {
                    let word = |offset: usize| {
                        u32::from_ne_bytes([info[offset], info[offset + 1], info[offset + 2], info[offset + 3]])
                    };
                    socket.backlog = word(28);
                    if word(24) > 0 {
                        task.unsupported(format_args!(
                            "{} connections of the listening socket of descriptor {fd} that are not accepted yet",
                            word(24)
                        ));
                    }
                }
                Err(errno) => task.unsupported(format_args!("the backlog of descriptor {fd}: {errno}")),
            }
        }
    }
    if is_connected {
        task.unsupported(format_args!(
            "the TCP connection of descriptor {fd}, which is recorded and cannot be restored"
        ));
    } else if !listens {
        for description in unsupported_pending(socket_fd, is_tcp) {
            task.unsupported(format_args!("{description} of the socket of descriptor {fd}"));
        }
    }
    if let Some(protocol) = unsupported_protocol(kind.socket_type, kind.protocol) {
        task.unsupported(format_args!(
            "the socket of descriptor {fd}, which is of {protocol} and cannot be restored"
        ));
    }
    entry.set_type(FdTypes::Inetsk);
    entry.isk = Some(socket);
}

/// Unread state of a socket that is neither listening nor connected. Data and errors are not read, because reading
/// clears them.
fn unsupported_pending(socket_fd: SocketFd<'_>, is_tcp: bool) -> Vec<&'static str> {
    let Some(dup_fd) = socket_fd.dup_fd else {
        return vec!["any unread data"];
    };
    let Ok(ready) = socket::poll_readiness(dup_fd) else {
        return vec!["any unread data"];
    };
    let mut unsupported = Vec::new();
    let has_error = ready.contains(PollFlags::POLLERR);
    // All bytes of a stream, or the first packet.
    if rustix::io::ioctl_fionread(dup_fd).is_ok_and(|bytes| bytes > 0) {
        unsupported.push("unread data");
    } else if ready.contains(PollFlags::POLLIN) && !has_error {
        match is_tcp {
            true => unsupported.push("the closed connection"),
            // POLLIN without RDHUP and without bytes: an empty packet.
            false if !ready.contains(PollFlags::from_bits_retain(libc::POLLRDHUP)) => {
                unsupported.push("an unread empty packet")
            }
            false => unsupported.push("the shutdown for receiving"),
        }
    }
    if ready.contains(PollFlags::POLLPRI) {
        unsupported.push("out-of-band data");
    }
    if has_error {
        unsupported.push("the pending error");
    }
    unsupported
}

/// Protocols for which CRIU creates no sockets (criu/sk-inet.c).
fn unsupported_protocol(kind: u32, protocol: u32) -> Option<String> {
    match protocol.cast_signed() {
        _ if kind == libc::SOCK_RAW as u32 => None,
        libc::IPPROTO_TCP | libc::IPPROTO_UDP | IPPROTO_UDPLITE => None,
        IPPROTO_MPTCP => Some("Multipath TCP".to_owned()),
        other => Some(format!("protocol {other}")),
    }
}

/// An inet socket that neither listens nor is connected, and therefore is in no list. It may be bound.
pub(super) fn unlisted_socket(task: &mut TaskCtx<'_>, socket_fd: SocketFd<'_>) -> Option<ListedSocket> {
    let int_option = |name| {
        Some(
            socket::getsockopt::<i32>(socket_fd.dup_fd?, libc::SOL_SOCKET, name)
                .ok()?
                .cast_unsigned(),
        )
    };
    let family = int_option(libc::SO_DOMAIN)?;
    let words = match family.cast_signed() {
        libc::AF_INET => 1,
        libc::AF_INET6 => 4,
        _ => return None,
    };
    let local = socket::inet_sockname(socket_fd.dup_fd?).unwrap_or_else(|errno| {
        let fd = socket_fd.fd;
        task.unsupported(format_args!(
            "the bound address of the socket of descriptor {fd}: {errno}"
        ));
        (vec![0; words], 0)
    });
    Some(ListedSocket::Inet(InetSocket {
        kind: SocketKind {
            family,
            socket_type: int_option(libc::SO_TYPE)?,
            protocol: int_option(libc::SO_PROTOCOL)?,
        },
        state: TCP_CLOSE,
        local,
        remote: (vec![0; words], 0),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsupported_protocols_are_named() {
        let unsupported =
            |kind: i32, protocol: i32| unsupported_protocol(kind.cast_unsigned(), protocol.cast_unsigned());
        assert_eq!(unsupported(libc::SOCK_STREAM, libc::IPPROTO_TCP), None);
        assert_eq!(unsupported(libc::SOCK_RAW, libc::IPPROTO_ICMP), None);
        assert_eq!(
            unsupported(libc::SOCK_STREAM, IPPROTO_MPTCP).as_deref(),
            Some("Multipath TCP")
        );
        assert_eq!(
            unsupported(libc::SOCK_DGRAM, libc::IPPROTO_ICMP).as_deref(),
            Some("protocol 1")
        );
    }
}
